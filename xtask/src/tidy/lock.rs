//! How many packages the lock file may hold.

use super::{Finding, Tree};

/// Today's number and a little room; raise it in the change that needs it, and say why there.
const CAP: usize = 160;

/// Counts the packages.
pub(super) fn package_cap(tree: &Tree) -> Vec<Finding> {
    let Some(lock) = tree.file("Cargo.lock") else {
        return vec![Finding::file("Cargo.lock", "is missing: it is part of the sources")];
    };
    let packages = lock.text.lines().filter(|line| *line == "[[package]]").count();
    if packages > CAP { vec![Finding::file("Cargo.lock", format!("{packages} packages, {CAP} at most"))] } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn too_many_packages_and_no_lock_are_found() {
        assert_eq!(package_cap(&sample(&[("Cargo.lock", &"[[package]]\n".repeat(CAP + 1))])).len(), 1);
        assert!(package_cap(&sample(&[("Cargo.lock", &"[[package]]\n".repeat(CAP))])).is_empty());
        assert_eq!(package_cap(&sample(&[])).len(), 1);
    }
}
