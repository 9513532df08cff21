//! What `cleanup` must survive: being killed anywhere, a host that lacks something, and a crowd.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test starts programs and takes away what it made")]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};
use rustix::process::Signal;
use support::{Cleaned, Place, rows};

/// Numbers that repeat with the seed that a failure shows.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Killed at any moment and run again, it finishes the job.
#[test]
fn killed_anywhere_the_second_run_finishes_the_job() {
    let place = Place::with_network();
    killed_at_random(&place, 24, || place.seed(&["vm-a", "vm-b", "named"]));
}

/// The same while it ends real guests, which takes it longest: the first time it is not killed, and says how long that is.
#[test]
fn killed_while_it_ends_guests_the_second_run_finishes_the_job() {
    let place = Place::with_network();
    let mut met = Vec::new();
    killed_at_random(&place, 6, || met.extend(place.boot(&["vm-a", "vm-b"]).into_values()));
    for pair in met {
        assert!(!pair.hypervisor.lives() && !pair.monitor.lives(), "{} or its monitor lives", pair.hypervisor.describe());
    }
}

/// Makes targets, kills their cleanup after a random time of one that was let go on, runs it again: nothing may be left.
fn killed_at_random(place: &Place, rounds: u32, mut make: impl FnMut()) {
    let oracle = place.oracle();
    let seed = u64::from(std::process::id());
    let mut dice = Dice(seed);
    make();
    let begin = Instant::now();
    place.cleanup(&["--force"]).assert_ok();
    let whole = u64::try_from(begin.elapsed().as_micros()).unwrap();
    for round in 0..rounds {
        make();
        let cleanup = place.smolvm(&["cleanup", "--force"]).spawn();
        let at = Duration::from_micros(dice.below(whole + whole / 8));
        std::thread::sleep(at);
        cleanup.signal(Signal::KILL);
        cleanup.wait();
        let again = place.cleanup(&["--force"]);
        let what = format!("round {round}, killed after {at:?} of {whole} µs, seed {seed}: {}", again.shown());
        assert!(again.failed().is_empty() && again.code == 0, "{what}");
        // Named ones that are not stale are no targets; these tests make none.
        assert!(rows::ids(place).is_empty() && place.taps("smolvm:").is_empty() && !place.nft().contains("smolvm"), "{what}");
        let left: Vec<_> =
            ["state/sandboxes", "state/trash", "run"].iter().flat_map(|d| std::fs::read_dir(place.path(d)).unwrap()).collect();
        assert!(left.is_empty(), "{left:?} {what}");
    }
    oracle.assert_clean();
}

/// A lock file that a killed command leaves guards nothing any more: it goes with the next cleanup.
#[test]
fn the_lock_file_of_a_killed_command_goes() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.create("named", &[]);
    std::fs::write(place.path("state/locks/vm-killed.lock"), "").unwrap();
    place.cleanup(&["--force", "--all"]).assert_ok();
    oracle.assert_clean();
}

/// What a killed command had moved into the trash is unlinked by the next, the trash of sockets with it.
#[test]
fn the_trash_of_a_killed_command_goes() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.create("named", &[]);
    for trash in ["state/trash/vm-killed.0123456789abcdef", "run/.trash/vm-killed.0123456789abcdef"] {
        std::fs::create_dir_all(place.path(trash).join("deep")).unwrap();
        std::fs::write(place.path(trash).join("deep/data.img"), "x").unwrap();
    }
    place.cleanup(&["--force", "--all"]).assert_ok();
    oracle.assert_clean();
}

/// Many at once: everybody's failures are `busy` at most, and together they finish.
#[test]
fn several_cleanups_at_once_do_not_get_into_each_others_way() {
    let place = Place::with_network();
    let oracle = place.oracle();
    let names: Vec<String> = (0..8).map(|i| format!("vm-{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for args in [&["cleanup", "--force", "--json"][..], &["cleanup", "--all", "--force", "--json"]] {
        place.seed(&names);
        let running: Vec<_> = (0..3).map(|_| place.smolvm(args).spawn()).collect();
        let done: Vec<Cleaned> = running.into_iter().map(|cleanup| Cleaned::of(&cleanup.wait())).collect();
        let shown = done.iter().map(Cleaned::shown).collect::<Vec<_>>().join("\n");
        for cleaned in &done {
            assert!(cleaned.failed().iter().all(|(_, code)| *code == "busy"), "no error that is not `busy`:\n{shown}");
            for id in cleaned.targets() {
                let told = cleaned.deleted().contains(&id) || cleaned.failed().iter().any(|(failed, _)| *failed == id);
                assert!(told, "{id} is neither deleted nor failed:\n{shown}");
            }
        }
        assert!(place.ids().is_empty(), "{shown}");
        assert!(done.iter().any(|cleaned| !cleaned.deleted().is_empty()), "{shown}");
    }
    place.cleanup(&["--force", "--all"]).assert_ok();
    oracle.assert_clean();
}

/// A sandbox that another live command has locked is `busy`; the rest is cleaned.
#[test]
fn a_locked_sandbox_is_busy_and_the_rest_is_cleaned() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.seed(&["named", "vm-a", "vm-b"]);
    let file = std::fs::File::create(place.path("state/locks/vm-a.lock")).unwrap();
    file.lock().unwrap();
    let cleaned = place.cleanup(&["--force"]);
    cleaned.assert_partial();
    assert_eq!((cleaned.deleted(), cleaned.failed()), (vec!["named", "vm-b"], vec![("vm-a", "busy")]), "{}", cleaned.shown());
    assert_eq!((place.taps(&place.mark("vm-a")).len(), place.ids()), (1, vec!["vm-a".to_owned()]));
    assert!(place.path("state/sandboxes/vm-a/data.img").exists() && place.path("run/vm-a").exists());
    let human = place.smolvm(&["cleanup", "--force"]).run();
    human.assert_code(1);
    assert!(human.stdout.contains("busy") && human.stdout.contains("1 failed"), "{human}");
    drop(file);
    place.cleanup(&["--force"]).assert_ok();
    oracle.assert_clean();
}

/// `/usr/sbin` as the private host sees it, without `nft`, until it is put back.
fn hide_nft(place: &Place) {
    let (real, farm) = (place.scratch().join("sbin.real"), place.scratch().join("sbin"));
    for directory in [&real, &farm] {
        std::fs::create_dir(directory).unwrap();
    }
    place.inside(|| {
        mount_bind("/usr/sbin", &real).unwrap();
        for entry in std::fs::read_dir(&real).unwrap().flatten().filter(|entry| entry.file_name() != "nft") {
            std::os::unix::fs::symlink(entry.path(), farm.join(entry.file_name())).unwrap();
        }
        mount_bind(&farm, "/usr/sbin").unwrap();
    });
}

fn show_nft(place: &Place) {
    place.inside(|| {
        unmount("/usr/sbin", UnmountFlags::empty()).unwrap();
        unmount(place.scratch().join("sbin.real"), UnmountFlags::empty()).unwrap();
    });
    std::fs::remove_dir_all(place.scratch().join("sbin")).unwrap();
    std::fs::remove_dir(place.scratch().join("sbin.real")).unwrap();
}

/// Every target is told with a code and a way out, and nothing that is told as failed has lost its row.
#[track_caller]
fn assert_told(place: &Place, cleaned: &Cleaned, ids: &[&str], code: &str) {
    cleaned.assert_partial();
    for id in ids {
        let failure = cleaned.failure(id);
        assert_eq!(failure["code"], code, "{}", cleaned.shown());
        assert!(failure["error"].as_str().is_some_and(|text| text.len() > 10) && failure["recovery"].is_string(), "{}", cleaned.shown());
        assert!(rows::ids(place).contains(&(*id).to_owned()), "a failed sandbox keeps its row: {}", cleaned.shown());
    }
    assert!(cleaned.deleted().is_empty(), "{}", cleaned.shown());
}

#[test]
fn without_nft_each_sandbox_is_told_and_nothing_is_lost() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.seed(&["named", "vm-a"]);
    let elements = place.nft();
    hide_nft(&place);
    let cleaned = place.cleanup(&["--force"]);
    assert_told(&place, &cleaned, &["named", "vm-a"], "missing_dependency");
    assert_eq!(cleaned.failure("vm-a")["step"], "nft_elements", "{}", cleaned.shown());
    // Everything that does not depend on it has happened; what does is kept.
    assert!(place.taps("smolvm:").is_empty() && !place.path("state/sandboxes/vm-a").exists(), "{}", cleaned.shown());
    let kept: i64 = rows::open(&place)
        .query_row("SELECT count(*) FROM ledger WHERE kind IN ('nft_elements', 'address', 'mac')", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, 6, "an address with an element is not given to anybody else: {}", cleaned.shown());
    show_nft(&place);
    assert_eq!(place.nft(), elements);
    // The next run continues where this one stopped.
    let again = place.cleanup(&["--force"]);
    again.assert_ok();
    assert_eq!(again.deleted(), ["named", "vm-a"]);
    oracle.assert_clean();
}

/// A program in nft's place that always fails.
#[test]
fn an_nft_that_fails_is_told_per_sandbox() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.seed(&["vm-a"]);
    let broken = place.scratch().join("nft");
    std::fs::write(&broken, "#!/bin/sh\necho out of order >&2\nexit 3\n").unwrap();
    executable(&broken);
    place.host().bind_file(&broken, Path::new("/usr/sbin/nft")).unwrap();
    let cleaned = place.cleanup(&["--force"]);
    cleaned.assert_partial();
    assert!(cleaned.failure("vm-a")["error"].as_str().unwrap().contains("out of order"), "{}", cleaned.shown());
    place.inside(|| unmount("/usr/sbin/nft", UnmountFlags::empty())).unwrap();
    place.cleanup(&["--force"]).assert_ok();
    oracle.assert_clean();
}

#[test]
fn without_network_rights_each_sandbox_is_told_and_nothing_is_lost() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.seed(&["named", "vm-a"]);
    let smolvm = testkit::prerequisite::smolvm_bin();
    let words = ["--bounding-set=-net_admin", "--inh-caps=-net_admin", smolvm.to_str().unwrap(), "cleanup", "--force", "--json"];
    let cleaned = Cleaned::of(&place.cmd("setpriv").args(&words).run());
    assert_told(&place, &cleaned, &["named", "vm-a"], "permission_denied");
    assert_eq!(place.taps("smolvm:").len(), 2, "{}", cleaned.shown());
    let again = place.cleanup(&["--force"]);
    again.assert_ok();
    assert_eq!(again.deleted(), ["named", "vm-a"]);
    oracle.assert_clean();
}

#[test]
fn a_read_only_state_directory_loses_nothing() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.seed(&["named", "vm-a"]);
    let state = place.path("state");
    place.inside(|| {
        mount_bind(&state, &state).unwrap();
        mount_remount(&state, MountFlags::BIND | MountFlags::RDONLY, "").unwrap();
    });
    let (before, taps) = (support::tree(&place.path("state")), place.taps("smolvm:"));
    let dry = place.cleanup(&["--dry-run"]);
    assert_eq!(dry.targets(), ["named", "vm-a"], "a look needs to write nothing: {}", dry.shown());
    let cleaned = place.cleanup(&["--force"]);
    assert_eq!(cleaned.code, 1, "{}", cleaned.shown());
    assert_eq!((support::tree(&place.path("state")), place.taps("smolvm:")), (before, taps), "{}", cleaned.shown());
    assert!(cleaned.shown().contains("read-only") || cleaned.shown().contains("cannot be written"), "a clear error: {}", cleaned.shown());
    place.inside(|| unmount(&state, UnmountFlags::empty())).unwrap();
    place.cleanup(&["--force"]).assert_ok();
    oracle.assert_clean();
    for id in ["named", "vm-a"] {
        assert!(!cleaned.data.is_null(), "an error per sandbox, not one for all: {}", cleaned.shown());
        cleaned.failure(id);
    }
}

#[test]
fn a_full_disk_loses_nothing() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.seed(&["named", "vm-a"]);
    // The same state directory on a small file system, which is then filled to the last byte.
    let (state, copy) = (place.path("state"), place.scratch().join("copy"));
    place.cmd("cp").args(&["-a", "--sparse=always"]).arg(&state).arg(&copy).run().assert_ok();
    place.inside(|| mount("tmpfs", &state, "tmpfs", MountFlags::NODEV, Some(c"size=16m,mode=0700")).unwrap());
    place.cmd("cp").args(&["-a", "--sparse=always"]).arg(copy.join(".")).arg(&state).run().assert_ok();
    let filler = state.join("filler");
    place.inside(|| {
        use std::io::Write;
        let mut file = std::fs::File::create(&filler).unwrap();
        while file.write_all(&[b'x'; 8192]).is_ok() {}
        while file.write_all(b"x").is_ok() {}
    });
    let dry = place.cleanup(&["--dry-run"]);
    assert_eq!(dry.targets(), ["named", "vm-a"], "{}", dry.shown());
    let cleaned = place.cleanup(&["--force"]);
    assert!(cleaned.shown().contains("the disk is full") || cleaned.code == 0, "{}", cleaned.shown());
    // Each is either gone or told, with its row kept.
    let deleted: Vec<String> = if cleaned.data.is_null() { Vec::new() } else { cleaned.deleted().into_iter().map(str::to_owned).collect() };
    let kept = place.inside(|| rows::ids(&place));
    for id in ["named", "vm-a"] {
        assert_eq!(kept.contains(&id.to_owned()), !deleted.contains(&id.to_owned()), "{}", cleaned.shown());
    }
    assert_eq!(cleaned.code, i32::from(deleted.len() < 2), "{}", cleaned.shown());
    // Room again: the next run finishes the job.
    place.inside(|| std::fs::remove_file(&filler).unwrap());
    place.cleanup(&["--force"]).assert_ok();
    let left = place.inside(|| std::fs::read_dir(state.join("sandboxes")).unwrap().count());
    assert_eq!((left, place.taps("smolvm:").len()), (0, 0));
    // What lay beneath the small file system is the ledger as it was: it is cleaned like any other.
    place.inside(|| unmount(&state, UnmountFlags::empty())).unwrap();
    place.cleanup(&["--force"]).assert_ok();
    oracle.assert_clean();
    for id in ["named", "vm-a"] {
        assert!(!cleaned.data.is_null(), "an error per sandbox, not one for all: {}", cleaned.shown());
        if !deleted.contains(&id.to_owned()) {
            cleaned.failure(id);
        }
    }
}

/// A file that cannot be unlinked: its sandbox is told and keeps its row, the others go, the next run finishes.
#[test]
fn what_cannot_be_unlinked_is_told_and_tried_again() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.seed(&["vm-a", "vm-b"]);
    let disk = place.path("state/sandboxes/vm-a/data.img");
    let cover = place.scratch().join("cover");
    std::fs::write(&cover, "").unwrap();
    place.inside(|| mount_bind(&cover, &disk).unwrap());
    let cleaned = place.cleanup(&["--force"]);
    cleaned.assert_partial();
    assert_eq!(cleaned.deleted(), ["vm-b"], "{}", cleaned.shown());
    assert_eq!(cleaned.failure("vm-a")["step"], "state_dir", "{}", cleaned.shown());
    assert_eq!(place.ids(), ["vm-a"]);
    assert!(place.taps("smolvm:").is_empty(), "everything else still happens: {}", cleaned.shown());
    // Wherever it lies now.
    place.inside(|| {
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let home = place.home().to_str().unwrap();
        for point in mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|point| point.starts_with(home)) {
            unmount(point, UnmountFlags::empty()).unwrap();
        }
    });
    let again = place.cleanup(&["--force"]);
    again.assert_ok();
    assert_eq!(again.deleted(), ["vm-a"]);
    oracle.assert_clean();
}

/// As many runs of `nft` for a hundred as for two: the kernel's work is batched.
#[test]
fn a_hundred_at_once_take_no_process_each() {
    let place = Place::with_network();
    let oracle = place.oracle();
    let real = place.scratch().join("nft.real");
    std::fs::copy("/usr/sbin/nft", &real).unwrap();
    let log = place.scratch().join("nft.log");
    let counting = place.scratch().join("nft");
    std::fs::write(&counting, format!("#!/bin/sh\necho run >>{}\nexec {} \"$@\"\n", log.display(), real.display())).unwrap();
    executable(&counting);
    let clean = |count: usize| -> usize {
        let names: Vec<String> = (0..count).map(|i| format!("vm-seed-{i:03}")).collect();
        place.seed(&names.iter().map(String::as_str).collect::<Vec<_>>());
        place.host().bind_file(&counting, Path::new("/usr/sbin/nft")).unwrap();
        std::fs::write(&log, "").unwrap();
        let cleaned = place.cleanup(&["--force"]);
        cleaned.assert_ok();
        assert_eq!(cleaned.deleted().len(), count);
        place.inside(|| unmount("/usr/sbin/nft", UnmountFlags::empty())).unwrap();
        assert!(cleaned.data["summary"]["duration_ms"].as_u64().unwrap() < 30_000, "{}", cleaned.data["summary"]);
        std::fs::read_to_string(&log).unwrap().lines().count()
    };
    let (few, many) = (clean(2), clean(120));
    assert_eq!(few, many, "nft ran {few} times for 2 and {many} times for 120");
    oracle.assert_clean();
}

fn executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
