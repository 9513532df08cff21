
# Names of sandboxes, where one can stand.
complete -c smolvm -n "__fish_seen_subcommand_from start stop pause resume fork stats inspect info exec logs delete rm" -f -a "(smolvm __complete-names 2>/dev/null)"
