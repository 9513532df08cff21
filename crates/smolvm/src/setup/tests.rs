use super::*;
use crate::{Paths, Settings};

fn empty() -> (tempfile::TempDir, Smolvm) {
    let home = tempfile::tempdir().unwrap();
    let vm = Smolvm::open(Settings::new(Paths::beneath(home.path()))).unwrap();
    (home, vm)
}

#[test]
fn no_names_mean_all_images_and_an_unknown_one_is_refused() {
    assert_eq!(chosen_images(&[]).unwrap(), BuiltIn::ALL);
    let debian: ImageName = "debian".parse().unwrap();
    assert_eq!(chosen_images(&[debian.clone(), debian]).unwrap(), [BuiltIn::Debian]);
    let error = chosen_images(&["windows".parse().unwrap()]).unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound);
    assert_eq!(error.recovery.unwrap(), "images it can build: minimal, debian");
}

#[test]
fn a_check_of_nothing_changes_nothing_and_names_setup() {
    let (home, vm) = empty();
    let checks = vm.setup_check();
    for id in ["kernel", "image.minimal", "image.debian"] {
        let check = checks.iter().find(|check| check.id == id).unwrap();
        assert!(check.fix.as_deref().unwrap().starts_with("smolvm setup"), "{check:?}");
    }
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "a check made something");
}

#[test]
fn removing_what_was_never_made_is_no_error_and_makes_nothing() {
    let (home, vm) = empty();
    let report = vm.setup_remove().unwrap();
    assert_eq!((report.entries, report.freed_bytes), (0, 0));
    assert!(report.kept[0].contains("packages"));
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn removal_takes_what_setup_made_and_leaves_the_rest() {
    let (_home, vm) = empty();
    let cache = &vm.paths().cache;
    std::fs::create_dir_all(cache.join("images/by-name")).unwrap();
    std::fs::write(cache.join("images/by-name/minimal"), "x").unwrap();
    std::fs::write(cache.join("host.json"), "{}").unwrap();
    std::fs::write(cache.join("qemu-10-20.json"), "{}").unwrap();
    std::fs::write(cache.join("notes.txt"), "somebody's").unwrap();
    assert_eq!(vm.setup_remove().unwrap().entries, 5);
    let left: Vec<_> = std::fs::read_dir(cache).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["notes.txt"]);
    std::fs::remove_file(cache.join("notes.txt")).unwrap();
    vm.setup_remove().unwrap();
    assert!(!cache.exists(), "an empty cache directory stays behind");
}

#[test]
fn what_cannot_be_swept_is_told_and_stops_nothing() {
    let (_home, vm) = empty();
    let mut report = SetupReport::default();
    vm.sweep_killed_setups(&mut report);
    assert_eq!(report, SetupReport::default());
    // No lock file: a directory.
    std::fs::create_dir_all(vm.paths().cache.join("locks/blob-0a.lock")).unwrap();
    vm.sweep_killed_setups(&mut report);
    let [note] = &report.notes[..] else { panic!("{report:?}") };
    assert!(note.contains("blob-0a.lock") && note.ends_with("smolvm prune"), "{note}");
}
