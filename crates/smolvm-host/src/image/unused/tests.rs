//! What may go and what may not, in a cache of small stand-ins.

use smolvm_model::reference::Reference;

use super::*;
use crate::image::workdir::Workdir;

fn cache() -> tempfile::TempDir {
    let cache = tempfile::tempdir().unwrap();
    let (named, needed, old) = ("a".repeat(64), "b".repeat(64), "c".repeat(64));
    for path in [
        format!("images/{named}/image.ext4"),
        format!("images/{needed}/image.ext4"),
        format!("images/{old}/image.ext4"),
        "images/by-name/minimal".to_owned(),
        format!("initramfs/{named}/initramfs.cpio"),
        format!("initramfs/{old}/initramfs.cpio"),
        "initramfs/current".to_owned(),
        "kernels/6.1-x/vmlinux".to_owned(),
        "apt/lists".to_owned(),
        format!("templates/{}/memory", "0".repeat(32)),
    ] {
        let path = cache.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("sha256:{named}\n")).unwrap();
    }
    for hex in [&named, &needed, &old] {
        put_manifest(cache.path(), hex, None);
    }
    cache
}

fn put_manifest(cache: &Path, hex: &str, origin: Option<&store::Origin>) {
    let directory = layout::images(cache).join(hex);
    let manifest = serde_json::json!({
        "version": 1, "name": "x", "digest": format!("sha256:{hex}"), "created_unix": 0, "default_memory_mib": 128, "env": {},
        "size_bytes": std::fs::metadata(directory.join("image.ext4")).unwrap().len(), "origin": origin,
    });
    std::fs::write(directory.join("manifest.json"), manifest.to_string()).unwrap();
}

fn names(found: &[Unused]) -> Vec<(Part, &str)> {
    found.iter().map(|one| (one.part, &one.name[..2])).collect()
}

#[test]
fn what_somebody_needs_is_not_unused() {
    let cache = cache();
    let needed = BTreeSet::from(["b".repeat(64)]);
    let found = unused(cache.path(), "boot", &needed).unwrap();
    let want = [(Part::Template, "00"), (Part::Image, "cc"), (Part::Initramfs, "cc"), (Part::Downloads, "ap")];
    assert_eq!(names(&found), want, "a cache without a current kernel keeps the ones it has");
    assert!(found.iter().all(|one| one.bytes > 0));
    assert!(found[..3].iter().all(|one| one.used == Use::None) && matches!(found[3].used, Use::Since(1..)));
    for one in &found {
        assert!(drop_unused(cache.path(), one).unwrap() > 0, "{one:?}");
    }
    assert_eq!(unused(cache.path(), "boot", &needed).unwrap(), []);
    assert!(cache.path().join("images").join("a".repeat(64)).exists() && cache.path().join("kernels/6.1-x").exists());
}

#[test]
fn what_is_being_made_is_left_alone() {
    let cache = cache();
    let build = Workdir::new(cache.path(), "kernel", Duration::ZERO).unwrap();
    let (held, idle) = idle_parts(cache.path()).unwrap();
    assert_eq!(idle, [Part::Template, Part::Image, Part::Initramfs, Part::Downloads, Part::Blob]);
    drop((held, build));
    let (held, idle) = idle_parts(cache.path()).unwrap();
    assert_eq!((held.len(), idle.len()), (2, 6));
    assert!(Workdir::new(cache.path(), "kernel", Duration::ZERO).is_err(), "nobody begins meanwhile");
}

#[test]
fn a_pull_that_begins_after_the_look_is_kept_away_and_one_that_began_before_it_is_left_alone() {
    let cache = cache();
    let (held, idle) = idle_parts(cache.path()).unwrap();
    assert_eq!(idle.len(), 6);
    assert!(matches!(guard::using(cache.path(), Duration::ZERO), Err(ImageError::Lock(LockError::Busy { .. }))));
    drop(held);
    let pull = guard::using(cache.path(), Duration::ZERO).unwrap();
    let (held, idle) = idle_parts(cache.path()).unwrap();
    assert_eq!(idle, [Part::Template, Part::Kernel, Part::Initramfs, Part::Downloads]);
    guard::using(cache.path(), Duration::ZERO).unwrap();
    drop((held, pull));
    assert_eq!(idle_parts(cache.path()).unwrap().1.len(), 6);
}

#[test]
fn what_a_killed_command_left_is_no_image_and_is_swept() {
    let cache = cache();
    let at = |path: &str| cache.path().join(path);
    let digest = format!("sha256:{}\n", "a".repeat(64));
    for directory in ["images/by-reference", "images/by-manifest", "blobs/partial", "locks"] {
        std::fs::create_dir_all(at(directory)).unwrap();
    }
    let reference = at("images/by-reference/docker.io+library+good:1");
    let left = fsx::temporary_for(&reference);
    let blob = fsx::temporary_for(&at("blobs").join("b".repeat(64)));
    let (stale, whole) = (at("images/by-manifest").join("c".repeat(64)), at("images/by-manifest").join("d".repeat(64)));
    for path in [&reference, &left, &blob, &whole] {
        std::fs::write(path, &digest).unwrap();
    }
    std::fs::write(&stale, format!("sha256:{}\n", "9".repeat(64))).unwrap();
    let locks = ["blob-0a", "image-00ff", "image-load-12", "image-import-34"].map(|name| at("locks").join(format!("{name}.lock")));
    for lock in &locks {
        std::fs::write(lock, "").unwrap();
    }
    assert_eq!(Reference::of_file_name(left.file_name().unwrap().to_str().unwrap()), None, "a half-written name is a name");
    // What somebody renames meanwhile is not there any more.
    std::os::unix::fs::symlink("gone", at("images/by-reference/docker.io+library+z:1")).unwrap();
    assert_eq!(named_images(cache.path()).unwrap(), BTreeSet::from(["a".repeat(64)]));
    let at_work = guard::using(cache.path(), Duration::ZERO).unwrap();
    assert_eq!((sweep_store(cache.path()).unwrap(), left.exists()), (0, true), "somebody is writing it");
    drop(at_work);
    assert!(sweep_store(cache.path()).unwrap() > 0);
    let gone = [&left, &blob, &stale].into_iter().chain(&locks);
    assert!(gone.into_iter().all(|path| !path.exists()));
    assert!(reference.exists() && whole.exists());
}

/// An image that has these parts as a registry has it: `1` is its manifest, `2` its configuration, `3` its layer.
fn pulled(cache: &Path, hex: &str) {
    let part = |digit: &str| format!("sha256:{}", digit.repeat(64)).parse().unwrap();
    let origin = store::Origin {
        manifest: part("1"),
        config: part("2"),
        layers: vec![store::LayerBlob { digest: part("3"), size_bytes: 1 }],
        architecture: String::new(),
        created: None,
        run: smolvm_oci::document::RunConfig::default(),
        history: Vec::new(),
    };
    put_manifest(cache, hex, Some(&origin));
    std::fs::create_dir_all(layout::blobs(cache)).unwrap();
    for digit in ["1", "2", "3"] {
        std::fs::write(layout::blobs(cache).join(digit.repeat(64)), digit).unwrap();
    }
}

#[test]
fn a_damaged_image_keeps_what_it_is_made_again_of() {
    /// What is done to the directory of an image, and which blobs go then.
    type Defect<'a> = (&'a str, fn(&Path), &'a [&'a str]);
    let defects: [Defect<'_>; 5] = [
        ("the file has another length", |image| std::fs::write(image.join("image.ext4"), "cut").unwrap(), &["44", "pa"]),
        ("the file is gone", |image| std::fs::remove_file(image.join("image.ext4")).unwrap(), &["44", "pa"]),
        ("a newer smolvm wrote it", |image| std::fs::write(image.join("manifest.json"), r#"{"version":2}"#).unwrap(), &["pa"]),
        ("nobody can read it", |image| std::fs::write(image.join("manifest.json"), "{").unwrap(), &["pa"]),
        ("it says nothing of itself", |image| std::fs::remove_file(image.join("manifest.json")).unwrap(), &["pa"]),
    ];
    let blobs_of = |found: &[Unused]| {
        let blobs = found.iter().filter(|one| one.part == Part::Blob);
        blobs.map(|one| one.name[..2].to_owned()).collect::<Vec<_>>()
    };
    for (defect, damage, go) in defects {
        let cache = cache();
        let (cache, named) = (cache.path(), "a".repeat(64));
        pulled(cache, &named);
        std::fs::create_dir_all(layout::partial_blobs(cache)).unwrap();
        for other in ["4".repeat(64), format!("{PARTIAL}{}", "5".repeat(64))] {
            std::fs::write(layout::blobs(cache).join(other), "").unwrap();
        }
        damage(&layout::images(cache).join(&named));
        assert_eq!(blobs_of(&unused(cache, "boot", &BTreeSet::new()).unwrap()), go, "{defect}: it has a name");
        assert_eq!(blobs_of(&blobs_without(cache, &BTreeSet::new()).unwrap()), go, "{defect}: it is here");
        std::fs::remove_file(layout::names(cache).join("minimal")).unwrap();
        assert_eq!(blobs_of(&unused(cache, "boot", &BTreeSet::from([named.clone()])).unwrap()), go, "{defect}: somebody needs it");
        let all = ["11", "22", "33", "44", "pa"];
        assert_eq!(blobs_of(&unused(cache, "boot", &BTreeSet::new()).unwrap()), all, "{defect}: nobody does");
        assert_eq!(blobs_of(&blobs_without(cache, &BTreeSet::from([named])).unwrap()), all, "{defect}: it goes");
    }
}

#[test]
fn what_is_left_of_a_killed_removal_keeps_nothing() {
    let cache = cache();
    pulled(cache.path(), &"a".repeat(64));
    let image = layout::images(cache.path()).join("a".repeat(64));
    std::fs::remove_file(image.join("manifest.json")).unwrap();
    std::fs::remove_file(image.join("image.ext4")).unwrap();
    assert_eq!(blobs_without(cache.path(), &BTreeSet::new()).unwrap().len(), 3);
}

#[test]
fn a_pointer_that_cannot_be_read_may_lead_anywhere_and_stops_nothing() {
    let cache = cache();
    pulled(cache.path(), &"c".repeat(64));
    let needed = BTreeSet::from(["b".repeat(64)]);
    let bad = [layout::references(cache.path()).join("docker.io+library+bad:1"), layout::names(cache.path()).join("bad")];
    let cut = format!("sha256:{}", "c".repeat(63)).into_bytes();
    let contents = [vec![b'x'; 1 << 20], cut, b"nothing of ours\n".to_vec(), Vec::new()];
    for (path, content) in bad.iter().flat_map(|path| contents.iter().map(move |content| (path, content))) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        let found = unused(cache.path(), "boot", &needed).unwrap();
        let want = [(Part::Template, "00"), (Part::Initramfs, "cc"), (Part::Downloads, "ap")];
        assert_eq!(names(&found), want, "it may lead to the image without a name, and to what that was made of");
        std::fs::remove_file(path).unwrap();
    }
    assert_eq!(names(&unused(cache.path(), "boot", &needed).unwrap())[1], (Part::Image, "cc"));
    // What was made of a manifest can be made again.
    let manifest = layout::manifests(cache.path()).join("d".repeat(64));
    std::fs::create_dir_all(manifest.parent().unwrap()).unwrap();
    std::fs::write(&manifest, vec![b'x'; 1 << 20]).unwrap();
    std::fs::create_dir_all(layout::locks(cache.path())).unwrap();
    assert!(sweep_store(cache.path()).unwrap() > 0 && !manifest.exists());
}

#[test]
fn parts_of_blobs_are_judged_one_by_one() {
    let cache = cache();
    let partial = cache.path().join("blobs/partial");
    std::fs::create_dir_all(&partial).unwrap();
    for (name, age) in [("b".repeat(64), 0), ("c".repeat(64), 1_000_000)] {
        let file = File::create(partial.join(name)).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(age)).unwrap();
    }
    let found = blobs(cache.path()).unwrap();
    let [young, old] = &found[..] else { panic!("{found:?}") };
    let since = |one: &Unused| if let Use::Since(then) = one.used { then } else { panic!("{one:?}") };
    assert!(since(young) - since(old) >= 999_999);
    drop_unused(cache.path(), old).unwrap();
    assert!(partial.join("b".repeat(64)).exists() && !partial.join("c".repeat(64)).exists());
}
