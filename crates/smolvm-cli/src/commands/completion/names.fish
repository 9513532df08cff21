
# Names of sandboxes and images, where one can stand.
complete -c smolvm -n "not __fish_seen_subcommand_from image; and __fish_seen_subcommand_from start stop pause resume fork stats inspect info exec logs delete rm" -f -a "(smolvm __complete-names sandboxes 2>/dev/null)"
complete -c smolvm -n "__fish_seen_subcommand_from image; and __fish_seen_subcommand_from pull inspect info tag rm delete save" -f -a "(smolvm __complete-names images 2>/dev/null)"
complete -c smolvm -n "__fish_seen_subcommand_from run; or begin; __fish_seen_subcommand_from template; and __fish_seen_subcommand_from build; end" -f -a "(smolvm __complete-names images 2>/dev/null)"
complete -c smolvm -n "__fish_seen_subcommand_from create" -l image -x -a "(smolvm __complete-names images 2>/dev/null)"
