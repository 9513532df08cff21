
# Names of sandboxes and images, where one can stand: after the verbs below, until the guest command begins.
_smolvm_with_names() {
    local verb="" word previous="" kind="" i names=0
    local -a words
    _smolvm "$@"
    # The line itself: Bash would cut the name of an image at its colons.
    read -ra words <<< "${COMP_LINE:0:COMP_POINT}"
    [[ "${COMP_LINE:0:COMP_POINT}" == *[[:space:]] ]] && words+=("")
    for ((i = 1; i < ${#words[@]} - 1; i++)); do
        word="${words[i]}"
        case "$word" in
            --home | --set | --name | --env | -e | --label | -l | --ttl | --cpus | --memory | --disk-size | --net | --accel) ((i++)) ;;
            --entrypoint | --user | -u | --workdir | -w | --output | -o) ((i++)) ;;
            --image) ((i++)) ;;
            --) return 0 ;;
            -*) ;;
            sandbox) [[ -n "$verb" ]] && ((names++)) ;;
            *)
                case "$verb" in
                    "") verb="$word" ;;
                    image | template) verb="$verb $word" ;;
                    *) ((names++)) ;;
                esac
                ;;
        esac
    done
    word="${words[${#words[@]} - 1]}"
    previous="${words[${#words[@]} - 2]}"
    case "$verb" in
        delete | rm | stats) kind=sandboxes ;;
        start | stop | pause | resume | fork | inspect | info | exec | logs) ((names == 0)) && kind=sandboxes ;;
        run | "template build" | "image pull" | "image inspect" | "image info" | "image tag" | "image save") ((names == 0)) && kind=images ;;
        "image rm" | "image delete") kind=images ;;
        create) [[ "$previous" == --image ]] && kind=images ;;
    esac
    [[ -z "$kind" || "$word" == -* ]] && return 0
    # What the generated part offers here are placeholders and options.
    COMPREPLY=($(compgen -W "$(smolvm __complete-names "$kind" 2>/dev/null)" -- "$word"))
    # Only what comes after the last colon is replaced.
    if [[ "$word" == *:* && "$COMP_WORDBREAKS" == *:* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*:}"}"}")
    fi
}

if [[ "${BASH_VERSINFO[0]}" -eq 4 && "${BASH_VERSINFO[1]}" -ge 4 || "${BASH_VERSINFO[0]}" -gt 4 ]]; then
    complete -F _smolvm_with_names -o nosort -o bashdefault -o default smolvm
else
    complete -F _smolvm_with_names -o bashdefault -o default smolvm
fi
