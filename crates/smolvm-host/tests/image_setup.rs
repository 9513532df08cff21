//! Kernel, initramfs and the `minimal` image, from the real packages of the host's mirror.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod image_support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use image_support::{Place, fresh_cache, job, kill_job_when, shared_cache};
use smolvm_host::image::{
    BuiltIn, CheckStatus, Group, Image, ImageError, Renew, boot_files, boot_files_with, checks, current_kernel, hold, list, prepare_image,
    prepare_kernel, remove, resolve, sweep, verify, verify_all,
};
use smolvm_host::proc::tool::Tool;

/// The other process of the tests here; nothing by itself.
#[test]
fn helper() {
    image_support::run_job();
}

fn minimal(cache: &Path) -> Image {
    prepare_image(cache, BuiltIn::Minimal, Renew::IfMissing, &mut |_| {}).unwrap()
}

fn debugfs(image: &Path, command: &str) -> String {
    Tool::new("debugfs").args(["-R", command]).arg(image).run_ok().unwrap().text()
}

#[test]
fn the_kernel_is_prepared_once_and_can_be_booted_directly() {
    let cache = shared_cache();
    let kernel = prepare_kernel(&cache, Renew::IfMissing, &mut |_| {}).unwrap();
    let vmlinux = std::fs::read(&kernel.vmlinux).unwrap();
    assert!(vmlinux.starts_with(b"\x7fELF"));
    assert!(kernel.release.ends_with("-cloud-amd64"), "{}", kernel.release);
    assert_eq!(std::fs::metadata(&kernel.vmlinux).unwrap().permissions().mode() & 0o777, 0o444);
    let position = |file: &str| {
        kernel.modules.iter().position(|module| module.file == file).unwrap_or_else(|| panic!("no {file} in {:?}", kernel.modules))
    };
    for early in ["virtio.ko", "virtio_ring.ko"] {
        for late in ["virtio_mmio.ko", "virtio_blk.ko", "virtio_console.ko", "virtio_net.ko"] {
            assert!(position(early) < position(late));
        }
    }
    assert!(position("failover.ko") < position("net_failover.ko") && position("net_failover.ko") < position("virtio_net.ko"));
    assert_eq!(kernel.modules[position("overlay.ko")].group, Group::Root);
    assert_eq!(kernel.modules[position("virtio_net.ko")].group, Group::Net);
    for module in &kernel.modules {
        assert!(kernel.modules_dir.join(&module.file).is_file());
    }
    let again = prepare_kernel(&cache, Renew::IfMissing, &mut |progress| panic!("worked again: {progress:?}")).unwrap();
    assert_eq!(again, kernel);
}

#[test]
fn the_initramfs_follows_the_agent() {
    let shared = shared_cache();
    prepare_kernel(&shared, Renew::IfMissing, &mut |_| {}).unwrap();
    // Its own cache, for what it does to the initramfs; the kernel is only looked at.
    let cache = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(shared.join("kernels"), cache.path().join("kernels")).unwrap();
    let one = boot_files_with(cache.path(), b"\x7fELF one").unwrap();
    assert_eq!(boot_files_with(cache.path(), b"\x7fELF one").unwrap(), one);
    let two = boot_files_with(cache.path(), b"\x7fELF two").unwrap();
    assert_eq!((&two.kernel, two.initramfs == one.initramfs, two.digest == one.digest), (&one.kernel, false, false));
    assert_eq!(boot_files_with(cache.path(), b"\x7fELF one").unwrap(), one, "the same agent gives the same initramfs");
    // Cut short or changed, it is made again.
    let whole = std::fs::read(&one.initramfs).unwrap();
    let mut changed = whole.clone();
    let at = whole.windows(8).position(|bytes| bytes == b"\x7fELF one").unwrap();
    changed[at + 5] ^= 1;
    for broken in [&whole[..whole.len() - 4], &changed] {
        std::fs::remove_file(&one.initramfs).unwrap();
        std::fs::write(&one.initramfs, broken).unwrap();
        assert_eq!(boot_files_with(cache.path(), b"\x7fELF one").unwrap(), one);
        assert_eq!(std::fs::read(&one.initramfs).unwrap(), whole);
    }
    assert!(matches!(boot_files_with(cache.path(), b""), Err(ImageError::NoAgent)));
    assert!(matches!(boot_files_with(&cache.path().join("empty"), b"\x7fELF one"), Err(ImageError::NoKernel)));
    match boot_files(cache.path()) {
        Ok(files) => assert!(files.initramfs.is_file()),
        Err(ImageError::NoAgent) => {}
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn the_minimal_image_has_what_it_promises() {
    let image = minimal(&shared_cache());
    verify(&image).unwrap();
    assert_eq!((image.name.as_str(), image.default_memory_mib), ("minimal", 128));
    assert_eq!(image.env["PATH"], "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    assert!(image.size_bytes < 4 << 20, "{} bytes", image.size_bytes);
    Tool::new("e2fsck").args(["-fn"]).arg(&image.path).run_ok().unwrap();
    // busybox itself says which applets there are: all of them lead to it.
    let out = tempfile::tempdir().unwrap();
    let busybox = out.path().join("busybox");
    debugfs(&image.path, &format!("dump -p /bin/busybox {}", busybox.display()));
    let applets = Tool::new(&busybox).arg("--list-full").run_ok().unwrap().text();
    let listing: String =
        ["bin", "sbin", "usr/bin", "usr/sbin"].map(|directory| debugfs(&image.path, &format!("ls -p /{directory}"))).concat();
    let mut count = 0;
    for applet in applets.lines().filter(|applet| !matches!(*applet, "linuxrc" | "bin/busybox")) {
        let name = applet.rsplit('/').next().unwrap();
        assert!(listing.contains(&format!("/120777/0/0/{name}/")), "no link for {applet}");
        count += 1;
    }
    assert!(count > 200, "{count} applets");
    assert!(debugfs(&image.path, "stat /bin/sh").contains("\"/bin/busybox\""));
    let root = debugfs(&image.path, "ls -p /");
    for entry in ["041777/0/0/tmp", "040700/0/0/root", "040755/0/0/home", "040755/0/0/run", "040555/0/0/proc"] {
        assert!(root.contains(entry), "no {entry} in\n{root}");
    }
    let etc = debugfs(&image.path, "ls -p /etc");
    for entry in ["100644/0/0/passwd", "100640/0/42/shadow", "100444/0/0/machine-id/0", "100644/0/0/os-release", "100644/0/0/services"] {
        assert!(etc.contains(entry), "no {entry} in\n{etc}");
    }
    assert!(debugfs(&image.path, "ls -p /home").contains("040755/1000/1000/user"));
}

#[test]
fn the_same_content_gives_the_same_bytes_whoever_builds() {
    let expected = format!("ok {}", minimal(&shared_cache()).digest);
    assert_eq!(job(&Place::Host, "minimal", fresh_cache().path(), ""), expected);
    if rustix::process::geteuid().is_root() {
        // Without the shared lists, which belong to root: a user fetches their own.
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(job(&Place::Nobody, "minimal", cache.path(), ""), expected);
    }
}

/// Kills real builders at three moments each, and looks for anything that seems finished.
#[test]
fn a_killed_builder_leaves_nothing_that_looks_finished() {
    for (what, moments) in [("minimal", ["", "tree", "out/image.ext4"]), ("kernel", ["", "tree", "out/vmlinux"])] {
        let cache = fresh_cache();
        for moment in moments {
            let temporary = cache.path().join("tmp");
            kill_job_when(what, cache.path(), || {
                let mut builds = std::fs::read_dir(&temporary).into_iter().flatten().flatten();
                builds.any(|build| build.path().join(moment).exists())
            });
            assert!(list(cache.path()).unwrap().is_empty());
            assert!(matches!(resolve(cache.path(), what), Err(ImageError::NotFound { .. })));
            assert!(matches!(current_kernel(cache.path()), Err(ImageError::NoKernel)));
            let published = ["images", "kernels"].map(|name| std::fs::read_dir(cache.path().join(name)).is_ok());
            assert_eq!(published, [false, false], "killed {what} at {moment:?}");
        }
        // A tool of the killed builder may be at its end still; then nothing is left.
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::fs::read_dir(cache.path().join("tmp")).unwrap().count() > 0 {
            sweep(cache.path()).unwrap();
            assert!(Instant::now() < deadline, "something is left of a killed build of {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
        // And the next one is not in its way.
        assert!(job(&Place::Host, what, cache.path(), "").starts_with("ok "));
        assert_eq!(std::fs::read_dir(cache.path().join("tmp")).unwrap().count(), 0);
    }
}

#[test]
fn a_full_disk_is_told_as_one_and_nothing_is_published() {
    for (mib, what, fill_at) in [
        (8, "minimal", ""),
        (8, "kernel", ""),
        (4, "disk", ""),
        (90, "minimal", "fetching"),
        (90, "minimal", "downloading"),
        (90, "minimal", "building"),
        (600, "kernel", "unpacking"),
    ] {
        let cache = tempfile::tempdir().unwrap();
        let outcome = job(&Place::SmallDisk(mib), what, cache.path(), fill_at);
        assert!(outcome.starts_with("failed full=true"), "{what} on {mib} MiB, filled at {fill_at:?}: {outcome}");
    }
}

#[test]
fn without_a_network_the_mirror_is_unreachable() {
    let cache = tempfile::tempdir().unwrap();
    let outcome = job(&Place::NoNetwork, "kernel", cache.path(), "");
    assert!(outcome.contains("Unreachable"), "{outcome}");
    assert!(matches!(current_kernel(cache.path()), Err(ImageError::NoKernel)));
}

#[test]
fn a_missing_tool_is_named() {
    let cache = fresh_cache();
    for (tool, what) in [("apt-get", "kernel"), ("dpkg-deb", "minimal"), ("mke2fs", "disk"), ("debugfs", "disk"), ("mmdebstrap", "debian")]
    {
        let path = smolvm_host::proc::tool::find(tool).unwrap();
        let outcome = job(&Place::Without(path.to_str().unwrap()), what, cache.path(), "");
        assert!(outcome.contains(&format!("missing=Some({tool:?})")), "{tool}: {outcome}");
    }
}

#[test]
fn checks_see_what_is_there_and_content_is_verified() {
    let cache = tempfile::tempdir().unwrap();
    minimal(&shared_cache());
    prepare_kernel(&shared_cache(), Renew::IfMissing, &mut |_| {}).unwrap();
    Tool::new("cp").arg("-a").arg(shared_cache().join("images")).arg(shared_cache().join("kernels")).arg(cache.path()).run_ok().unwrap();
    let status = |id: &str| checks(cache.path()).into_iter().find(|check| check.id == id).unwrap().status;
    assert_eq!((status("kernel"), status("image.minimal")), (CheckStatus::Pass, CheckStatus::Pass));
    assert!(verify_all(cache.path()).iter().all(|check| check.status == CheckStatus::Pass));
    let image = resolve(cache.path(), "minimal").unwrap();
    std::fs::set_permissions(&image.path, PermissionsExt::from_mode(0o644)).unwrap();
    let mut bytes = std::fs::read(&image.path).unwrap();
    bytes[100_000] ^= 1;
    std::fs::write(&image.path, bytes).unwrap();
    assert!(verify_all(cache.path()).iter().any(|check| check.id == "image.minimal.content" && check.status == CheckStatus::Fail));
    // Setup looks at the content, too, and mends it.
    let mended = prepare_image(cache.path(), BuiltIn::Minimal, Renew::IfMissing, &mut |_| {}).unwrap();
    verify(&mended).unwrap();
    assert_eq!(mended.digest, image.digest);
    std::fs::set_permissions(&image.path, PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(&image.path, "short").unwrap();
    assert_eq!(status("image.minimal"), CheckStatus::Fail);
    assert!(remove(cache.path(), hold(cache.path()).unwrap()).unwrap().bytes > 0);
    assert_eq!((status("kernel"), status("image.minimal")), (CheckStatus::Fail, CheckStatus::Fail));
    assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0, "something stayed");
}
