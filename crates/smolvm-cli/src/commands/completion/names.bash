
# Names of sandboxes, where one can stand: after the verbs below, until the guest command begins.
_smolvm_with_names() {
    local verb="" word i names=0
    _smolvm "$@"
    for ((i = 1; i < COMP_CWORD; i++)); do
        word="${COMP_WORDS[i]}"
        case "$word" in
            --home | --set) ((i++)) ;;
            --) return 0 ;;
            -*) ;;
            sandbox) [[ -n "$verb" ]] && ((names++)) ;;
            *) if [[ -z "$verb" ]]; then verb="$word"; else ((names++)); fi ;;
        esac
    done
    case "$verb" in
        delete | rm | stats) ;;
        start | stop | pause | resume | fork | inspect | info | exec | logs) ((names == 0)) || return 0 ;;
        *) return 0 ;;
    esac
    word="${COMP_WORDS[COMP_CWORD]}"
    [[ "$word" == -* ]] && return 0
    # What the generated part offers here are placeholders and options.
    COMPREPLY=($(compgen -W "$(smolvm __complete-names 2>/dev/null)" -- "$word"))
}

if [[ "${BASH_VERSINFO[0]}" -eq 4 && "${BASH_VERSINFO[1]}" -ge 4 || "${BASH_VERSINFO[0]}" -gt 4 ]]; then
    complete -F _smolvm_with_names -o nosort -o bashdefault -o default smolvm
else
    complete -F _smolvm_with_names -o bashdefault -o default smolvm
fi
