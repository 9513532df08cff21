//! Publishing and resolving, with small stand-ins for images.

use super::*;

fn config() -> Config {
    Config { default_memory_mib: 128, env: BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]), origin: None }
}

fn put(cache: &Path, name: &str, content: &[u8]) -> Image {
    let out = cache.join("out");
    std::fs::create_dir_all(&out).unwrap();
    std::fs::write(out.join("image.ext4"), content).unwrap();
    let image = publish(cache, &out, name, config()).unwrap();
    let _ = std::fs::File::open(cache).map(|dir| remove_tree(dir, OsStr::new("out")));
    image
}

#[test]
fn published_images_are_found_by_name_and_digest() {
    let cache = tempfile::tempdir().unwrap();
    let image = put(cache.path(), "a", b"one");
    assert_eq!(resolve(cache.path(), "a").unwrap(), image);
    assert_eq!(resolve_digest(cache.path(), &image.digest).unwrap(), image);
    assert_eq!((image.default_memory_mib, image.size_bytes, image.env["PATH"].as_str()), (128, 3, "/bin"));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&image.path), mode(image.path.parent().unwrap())), (0o444, 0o755));
    verify(&image).unwrap();
}

#[test]
fn a_name_moves_and_the_old_image_stays() {
    let cache = tempfile::tempdir().unwrap();
    let old = put(cache.path(), "a", b"one");
    let new = put(cache.path(), "a", b"two!");
    assert_eq!(resolve(cache.path(), "a").unwrap(), new);
    assert!(resolve_digest(cache.path(), &old.digest).is_ok());
    assert_eq!(list(cache.path()).unwrap(), [new]);
}

#[test]
fn publishing_the_same_again_mends_it() {
    let cache = tempfile::tempdir().unwrap();
    let image = put(cache.path(), "a", b"one");
    std::fs::remove_file(&image.path).unwrap();
    std::fs::write(&image.path, b"eno").unwrap();
    assert!(matches!(verify(&image), Err(ImageError::Damaged { .. })));
    std::fs::remove_file(&image.path).unwrap();
    assert!(matches!(resolve(cache.path(), "a"), Err(ImageError::WrongSize { expected: 3, .. })));
    assert!(list(cache.path()).unwrap().is_empty());
    put(cache.path(), "a", b"one");
    verify(&resolve(cache.path(), "a").unwrap()).unwrap();
}

#[test]
fn absent_and_hostile_names_are_not_found_and_the_others_are_told() {
    let cache = tempfile::tempdir().unwrap();
    put(cache.path(), "b", b"one");
    put(cache.path(), "a", b"one");
    std::fs::write(layout::names(cache.path()).join("a.123.tmp"), "half").unwrap();
    for name in ["c", "", "..", "../by-name/a", "/etc/passwd", "A", "a\nb", "a.123.tmp", &"x".repeat(300)] {
        match resolve(cache.path(), name) {
            Err(ImageError::NotFound { available, .. }) => assert_eq!(available, ["a", "b"]),
            other => panic!("{name:?}: {other:?}"),
        }
    }
    for pointer in ["", "..", "sha256:../../../../etc", "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"] {
        std::fs::write(layout::names(cache.path()).join("a"), pointer).unwrap();
        assert!(matches!(resolve(cache.path(), "a"), Err(ImageError::NotFound { .. })), "{pointer:?}");
    }
}

#[test]
fn manifests_of_a_newer_program_are_refused() {
    let cache = tempfile::tempdir().unwrap();
    let image = put(cache.path(), "a", b"one");
    let path = image.path.with_file_name("manifest.json");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(&path, r#"{"version":99}"#).unwrap();
    let newer = |result: Result<_, ImageError>| matches!(result, Err(ImageError::Manifest(ManifestError::Newer { found: 99, .. })));
    assert!(newer(resolve(cache.path(), "a").map(drop)));
    assert!(newer(list(cache.path()).map(drop)));
}

#[test]
fn everything_goes() {
    let cache = tempfile::tempdir().unwrap();
    put(cache.path(), "a", b"one");
    assert!(remove_all(cache.path()).unwrap().entries > 0);
    assert!(list(cache.path()).unwrap().is_empty());
    assert_eq!(remove_all(cache.path()).unwrap(), Removed::default());
    assert_eq!(remove_all(Path::new("/nonexistent")).unwrap(), Removed::default());
}

#[test]
fn too_little_room_is_told_before_anything_is_made() {
    let cache = tempfile::tempdir().unwrap();
    require_space(cache.path(), 1).unwrap();
    assert!(matches!(require_space(cache.path(), u64::MAX >> 20), Err(ImageError::NoSpace { .. })));
}

fn talkative(label: usize, count: usize) -> Config {
    let text = |n: usize| (format!("key-{n}"), "v".repeat(label));
    let run =
        RunConfig { env: [("A".to_owned(), "x".repeat(600 << 10))].into(), labels: (0..count).map(text).collect(), ..Default::default() };
    let digest = smolvm_oci::Digest::of(b"x");
    let origin = Origin {
        manifest: digest.clone(),
        config: digest,
        layers: vec![],
        architecture: "amd64".to_owned(),
        created: None,
        run: run.clone(),
        history: vec![],
    };
    Config { default_memory_mib: 128, env: run.env, origin: Some(origin) }
}

/// Whatever a configuration that is taken can say.
#[test]
fn what_an_image_says_of_itself_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path();
    // As many labels as 3.4 MiB hold, and a variable.
    for (name, (label, count)) in [("long", (340 << 10, 10)), ("many", (1, 250_000))] {
        let out = cache.join(name);
        std::fs::create_dir_all(&out).unwrap();
        std::fs::write(out.join("image.ext4"), name).unwrap();
        let image = publish(cache, &out, name, talkative(label, count)).unwrap();
        assert_eq!(image.origin.unwrap().run.labels.len(), count);
    }
    assert_eq!(list(cache).unwrap().len(), 2);
}

#[test]
fn what_could_not_be_read_back_is_not_published() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path();
    std::fs::create_dir(cache.join("out")).unwrap();
    std::fs::write(cache.join("out/image.ext4"), "x").unwrap();
    let refused = publish(cache, &cache.join("out"), "a", talkative(16 << 20, 1));
    assert!(matches!(refused, Err(ImageError::Manifest(ManifestError::TooLong { .. }))), "{refused:?}");
    assert!(!layout::images(cache).exists());
}
