_smolvm_names() {
    local -a names
    names=(${(f)"$(smolvm __complete-names 2>/dev/null)"})
    compadd -a names
}
