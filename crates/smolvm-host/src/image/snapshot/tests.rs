//! Snapshots that are made, found, damaged, held and removed.

use std::time::Duration;

use super::*;
use crate::image::template::DiskState;

fn origin() -> Origin {
    let spec = r#"{"image": "minimal", "image_digest": "d", "cpus": 1, "memory_mib": 128, "disk_bytes": 67108864,
        "network": "none", "accelerator": "auto"}"#;
    Origin {
        sandbox: "vm-a".parse().unwrap(),
        parent: None,
        spec: spec_from_json(spec).unwrap(),
        facts: Facts {
            image: "minimal".to_owned(),
            image_digest: "d".to_owned(),
            boot_digest: "b".to_owned(),
            machine: "m".to_owned(),
            accelerator: "tcg".to_owned(),
            cpus: 1,
            memory_mib: 128,
            disk_bytes: 1,
            disk: DiskState::Used,
            rehearsed: Vec::new(),
            network: "none".to_owned(),
            hypervisor: "q".to_owned(),
            boot_id: "i".to_owned(),
        },
        processor: None,
    }
}

fn make(root: &Path, name: &str, kind: Kind) -> Result<Snapshot, ImageError> {
    let name = name.parse().unwrap();
    let draft = Draft::of_snapshot(root, &name, Duration::ZERO)?;
    let files = draft.files();
    for (path, text) in [(&files.memory, "m"), (&files.devices, "d"), (&files.disk, "k")] {
        std::fs::write(path, text).unwrap();
    }
    draft.publish(root, &name, kind, &origin())
}

#[test]
fn made_found_listed_verified_and_removed() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let made = make(root, "one", Kind::Machine).unwrap();
    assert_eq!(find(root, &made.name).unwrap(), Some(made.clone()));
    assert_eq!((made.origin.clone(), made.damage().unwrap()), (origin(), None));
    assert!(matches!(make(root, "one", Kind::Disk), Err(ImageError::Exists { .. })), "somebody's work was overwritten");
    let disk = make(root, "two", Kind::Disk).unwrap();
    assert_eq!(list(root).unwrap().len(), 2);
    std::fs::write(disk.files().disk, "x").unwrap();
    assert_eq!(disk.damage().unwrap(), Some("disk".to_owned()));
    assert!(remove(root, &made.name).unwrap() && !remove(root, &made.name).unwrap());
    assert_eq!(names(root).unwrap(), [disk.name]);
    for left in ["tmp", "locks"] {
        assert_eq!(std::fs::read_dir(root.join(left)).unwrap().count(), 0, "{left}");
    }
}

/// As the first smolvm that saved any wrote it.
#[test]
fn one_of_before_is_held_against_the_digests_that_it_has() {
    let root = tempfile::tempdir().unwrap();
    let made = make(root.path(), "one", Kind::Machine).unwrap();
    let path = made.directory.join(MANIFEST);
    let mut text = std::fs::read_to_string(&path).unwrap().replacen("\"version\": 2", "\"version\": 1", 1);
    for (name, digest) in &made.digests {
        let old = crate::image::digest::Digest::of_sparse_file(&made.directory.join(name)).unwrap();
        text = text.replacen(&digest.to_string(), &old.to_string(), 1);
    }
    assert!(text.contains("sha256:") && !text.contains("blake3:"));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, text).unwrap();
    let found = find(root.path(), &made.name).unwrap().unwrap();
    assert_eq!(found.damage().unwrap(), None);
    std::fs::write(found.files().devices, "x").unwrap();
    assert_eq!(found.damage().unwrap().as_deref(), Some("devices"));
}

#[test]
fn one_that_is_being_restored_is_not_removed_and_not_another() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let made = make(root, "one", Kind::Machine).unwrap();
    let (held, again) = (made.hold().unwrap(), made.hold().unwrap());
    assert!(matches!(remove(root, &made.name), Err(ImageError::Lock(LockError::Busy { .. }))));
    drop((held, again));
    let remover = File::open(&made.directory).unwrap();
    remover.try_lock().unwrap();
    assert!(matches!(made.hold(), Err(ImageError::Lock(LockError::Busy { .. }))), "one that is being removed");
    drop(remover);
    assert!(remove(root, &made.name).unwrap());
    assert!(matches!(made.hold(), Err(ImageError::Fs(_))));
    let other = make(root, "one", Kind::Disk).unwrap();
    assert!(matches!(made.hold(), Err(ImageError::NotFound { .. })), "another of the same name");
    other.hold().unwrap();
}

/// The disk of one is a stack of files: all are digested, and none may be missing or come later.
#[test]
fn layers_of_the_disk_are_files_of_it_and_one_that_is_missing_is_missed() {
    let root = tempfile::tempdir().unwrap();
    let (root, name) = (root.path(), "one".parse().unwrap());
    let draft = Draft::of_snapshot(root, &name, Duration::ZERO).unwrap();
    for file in ["disk", "disk.2", "disk.7"] {
        std::fs::write(draft.workdir.path().join(file), file).unwrap();
    }
    let made = draft.publish(root, &name, Kind::Disk, &origin()).unwrap();
    let named: Vec<&str> = made.digests.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((named, made.damage().unwrap()), (vec!["disk", "disk.2", "disk.7"], None));
    std::fs::write(made.directory.join("disk.2"), "other").unwrap();
    assert_eq!(made.damage().unwrap().as_deref(), Some("disk.2"));
    std::fs::write(made.directory.join("disk.3"), "more").unwrap();
    assert!(matches!(find(root, &name), Err(ImageError::Odd { .. })));
    for gone in ["disk.3", "disk.2"] {
        std::fs::remove_file(made.directory.join(gone)).unwrap();
    }
    assert!(matches!(find(root, &name), Err(ImageError::Odd { .. })));
}

#[test]
fn what_was_not_published_is_none() {
    let root = tempfile::tempdir().unwrap();
    let name = "one".parse().unwrap();
    let draft = Draft::of_snapshot(root.path(), &name, Duration::ZERO).unwrap();
    std::fs::write(draft.files().memory, "m").unwrap();
    assert!(find(root.path(), &name).unwrap().is_none());
    drop(draft);
    assert_eq!(std::fs::read_dir(root.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_manifest_of_a_stranger_is_refused_and_hides_no_other() {
    let root = tempfile::tempdir().unwrap();
    let made = make(root.path(), "one", Kind::Machine).unwrap();
    make(root.path(), "two", Kind::Disk).unwrap();
    let path = made.directory.join(MANIFEST);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    for (from, to) in
        [("\"vm-a\"", "\"../a\""), ("\"memory\"", "\"../memory\""), ("\"minimal\"", "\"/\""), ("\"version\": 2", "\"version\": 9")]
    {
        assert!(text.contains(from), "{from}");
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        assert!(find(root.path(), &made.name).is_err(), "{to}");
        assert_eq!(list(root.path()).unwrap().len(), 1);
    }
    assert_eq!(names(root.path()).unwrap().len(), 2);
}
