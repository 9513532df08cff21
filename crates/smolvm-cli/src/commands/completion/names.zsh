_smolvm_names() {
    local -a names
    names=(${(f)"$(smolvm __complete-names sandboxes 2>/dev/null)"})
    compadd -a names
}
_smolvm_images() {
    local -a names
    names=(${(f)"$(smolvm __complete-names images 2>/dev/null)"})
    compadd -a names
}
