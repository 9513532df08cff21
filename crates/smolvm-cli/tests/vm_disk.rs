//! The disks of copies: what was there is shared, what is written is one's own, and nobody's name is counted twice.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test starts programs, and fails by panicking")]

mod support;

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use support::Place;

/// The files of a sandbox's disk by their numbers, the lowest first.
fn layers(place: &Place, id: &str) -> Vec<(u32, PathBuf)> {
    let directory = place.path("state/sandboxes").join(id);
    let number = |name: &str| if name == "data.img" { Some(0) } else { name.strip_prefix("data.img.")?.parse().ok() };
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir(&directory)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter_map(|name| Some((number(&name)?, directory.join(&name))))
        .collect();
    found.sort();
    found
}

fn inode(path: &std::path::Path) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

fn lowest(place: &Place, id: &str) -> u64 {
    inode(&layers(place, id)[0].1)
}

/// Every sandbox writes to a file that has one name: the highest of its own.
#[track_caller]
fn assert_own(place: &Place, ids: &[&str]) {
    for id in ids {
        let all = layers(place, id);
        let (_, top) = all.last().unwrap();
        assert_eq!(std::fs::metadata(top).unwrap().nlink(), 1, "{id}: {all:?}");
    }
}

/// What `du` says of the state directory, and what `df` says.
#[track_caller]
fn assert_counted(place: &Place) {
    let du = place.cmd("du").args(&["-s", "-B1", place.path("state").to_str().unwrap()]).run();
    du.assert_ok();
    let counted: u64 = du.stdout.split_whitespace().next().unwrap().parse().unwrap();
    let usage = place.ok(&["df"]);
    let of = |part: &str| usage["parts"].as_array().unwrap().iter().find(|one| one["part"] == part).unwrap()["bytes"].as_u64().unwrap();
    let parts = of("sandboxes") + of("snapshots");
    // Records and locks come on top, and a log may grow meanwhile.
    assert!(parts <= counted && counted - parts < 2 << 20, "du {counted}, df {parts}: {usage:#}");
}

/// The layers of its disk that a process has open for writing.
fn writable(place: &Place, id: &str, pid: i32) -> Vec<u32> {
    let layers = layers(place, id);
    let number_of = |fd: &str| {
        let file = std::fs::metadata(format!("/proc/{pid}/fd/{fd}")).ok()?.ino();
        let told = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?;
        // In octal; the lowest two bits say for what it was opened, and are 0 for reading.
        let reads = told.lines().find_map(|line| line.strip_prefix("flags:"))?.ends_with(['0', '4']);
        layers.iter().find(|(_, path)| !reads && inode(path) == file).map(|(number, _)| *number)
    };
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    fds.filter_map(|fd| number_of(fd.unwrap().file_name().to_str().unwrap())).collect()
}

/// What it was handed to write with is taken back once its guest runs, however its words and ours cross: many start at once.
#[test]
fn a_hypervisor_writes_through_one_descriptor() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.boot(&["first"]);
    let ids: Vec<String> = (1..=10).map(|number| format!("vm-{number}")).collect();
    for id in &ids {
        place.create(id, &[]);
    }
    let starts: Vec<_> = ids.iter().map(|id| place.smolvm(&["start", id]).timeout(support::BOOT).spawn()).collect();
    for start in starts {
        start.wait().assert_ok();
    }
    for id in &ids {
        let pid = place.pair(id).hypervisor.pid;
        testkit::until(&format!("{id} writes through one"), std::time::Duration::from_secs(5), || {
            (writable(&place, id, pid) == [0]).then_some(())
        });
    }
    place.cleanup(&["--all", "--force"]);
    oracle.assert_clean();
}

const BLOB: u64 = 24 << 20;

#[test]
fn copies_share_what_was_there_and_each_writes_for_itself() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.boot(&["src"]);
    place.in_guest("src", &format!("head -c {BLOB} /dev/urandom > /root/blob; sync; echo before > /root/file"));
    let sum = place.in_guest("src", "sha256sum /root/blob");
    let blocks = |id: &str| std::fs::metadata(&layers(&place, id).last().unwrap().1).unwrap().blocks() * 512;
    assert!(blocks("src") > BLOB);
    place.said(&["fork", "src", "--count", "2", "--name", "copy"]);
    let all = ["src", "copy-1", "copy-2"];
    for id in all {
        assert_eq!(lowest(&place, id), lowest(&place, "src"), "{id} has a lowest file of its own");
        assert!(blocks(id) < BLOB / 4, "{id} has written {} bytes", blocks(id));
    }
    assert_own(&place, &all);
    assert_counted(&place);
    // All of them write at once, over what was there and beside it.
    for id in all {
        place.in_guest(id, &format!("echo {id} > /root/file; dd if=/dev/zero of=/root/blob bs=4096 seek=7 count=3 conv=notrunc 2> /dev/null; echo {id} >> /root/blob; sync"));
    }
    let sums: Vec<String> = all.iter().map(|id| place.in_guest(id, "sha256sum /root/blob; cat /root/file")).collect();
    assert!(sums.iter().zip(all).all(|(text, id)| text.ends_with(&format!("{id}\n"))) && !sums.contains(&sum), "{sums:?}");
    // What each wrote is there when it starts anew, from its files alone.
    place.ok(&["pause", "copy-2"]);
    place.ok(&["stop", "src"]);
    place.ok(&["stop", "copy-1"]);
    place.said(&["start", "src"]);
    place.said(&["start", "copy-1", "--cold"]);
    place.ok(&["resume", "copy-2"]);
    for (id, before) in all.iter().zip(&sums) {
        assert_eq!(place.in_guest(id, "sha256sum /root/blob; cat /root/file"), *before, "{id}");
    }
    // The source goes; what it has in common with the others stays until the last of them goes.
    place.ok(&["delete", "src"]);
    assert_eq!(place.in_guest("copy-1", "sha256sum /root/blob; cat /root/file"), sums[1]);
    place.ok(&["delete", "copy-2"]);
    assert_eq!(std::fs::metadata(&layers(&place, "copy-1")[0].1).unwrap().nlink(), 1);
    let freed = place.cleanup(&["--all", "--force"]).data["summary"]["freed_bytes"].as_u64().unwrap();
    assert!(freed > BLOB, "{freed}");
    oracle.assert_clean();
}

#[test]
fn of_many_layers_few_are_made_while_the_guest_runs() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.boot(&["src"]);
    let hypervisor = place.ok(&["inspect", "src"])["sandbox"]["process"]["pid"].as_u64().unwrap();
    let (mut depths, mut open) = (Vec::new(), Vec::new());
    for round in 1..=11 {
        place.in_guest("src", &format!("echo {round} > /root/round-{round}; echo {round} > /root/last; sync"));
        let name = format!("c{round}");
        place.said(&["fork", "src", "--name", &name]);
        assert_own(&place, &["src", &name]);
        let (source, copy) = (layers(&place, "src").len(), layers(&place, &name).len());
        assert_eq!(copy, source, "round {round}");
        depths.push(source);
        open.push(std::fs::read_dir(format!("/proc/{hypervisor}/fd")).unwrap().count());
        let seen = place.in_guest(&name, "cat /root/round-* | wc -l; cat /root/last");
        assert_eq!(seen, format!("{round}\n{round}\n"));
        if round > 1 {
            place.ok(&["delete", &name]);
        }
    }
    // With eight it becomes the lowest, one of all between, and the highest; then another comes.
    assert_eq!(depths, [2, 3, 4, 5, 6, 7, 8, 4, 5, 6, 7]);
    assert_eq!(open[2..6], open[7..11], "with as many layers the hypervisor has as many descriptors: {open:?}");
    // Copies of copies, too; each begins where the one before it is.
    let mut last = "c1".to_owned();
    for round in 1..=9 {
        let name = format!("d{round}");
        place.in_guest(&last, &format!("echo {round} > /root/deep-{round}; rm -f /root/round-1"));
        place.said(&["fork", &last, "--name", &name]);
        assert!(layers(&place, &name).len() <= 8);
        place.ok(&["delete", &last]);
        last = name;
    }
    assert_eq!(place.in_guest(&last, "cat /root/deep-*; ls /root/round-* 2> /dev/null | wc -l"), "1\n2\n3\n4\n5\n6\n7\n8\n9\n0\n");
    // What is on the disk is what the guest saw, also without its memory.
    for id in ["src", &last] {
        place.ok(&["stop", id]);
        place.said(&["start", id]);
    }
    assert_eq!(place.in_guest("src", "cat /root/round-* | wc -l; cat /root/last"), "11\n11\n");
    assert_eq!(place.in_guest(&last, "cat /root/deep-* | wc -l"), "9\n");
    place.cleanup(&["--all", "--force"]);
    oracle.assert_clean();
}

/// Saved and started again and again: nobody runs meanwhile who could be asked, and it is bounded all the same.
#[test]
fn of_many_layers_few_are_made_when_a_sandbox_starts() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.boot(&["src"]);
    for round in 1..=9 {
        place.in_guest("src", &format!("echo {round} > /root/round-{round}; sync"));
        place.ok(&["stop", "src"]);
        let top = inode(&layers(&place, "src").last().unwrap().1);
        let name = format!("s{round}");
        place.said(&["snapshot", "create", "src", "--name", &name]);
        let saved = place.path("state/snapshots/saved").join(&name);
        let shares = std::fs::read_dir(&saved).unwrap().any(|file| file.unwrap().metadata().unwrap().ino() == top);
        assert!(shares, "round {round}: its disk was copied");
        place.said(&["start", "src"]);
        assert_own(&place, &["src"]);
        assert!(layers(&place, "src").len() <= 8, "round {round}");
    }
    assert_counted(&place);
    assert_eq!(place.in_guest("src", "cat /root/round-* | wc -l"), "9\n");
    place.ok(&["delete", "src"]);
    for (name, rounds) in [("s1", 1), ("s7", 7), ("s9", 9)] {
        assert_eq!(place.ok(&["snapshot", "inspect", name, "--verify"])["damaged"].as_str(), None);
        for copy in ["one", "two"] {
            place.said(&["snapshot", "restore", name, "--name", copy]);
            assert_eq!(place.in_guest(copy, "cat /root/round-* | wc -l; echo more > /root/round-0"), format!("{rounds}\n"));
        }
        place.ok(&["delete", "one", "two"]);
        assert_eq!(place.ok(&["snapshot", "inspect", name, "--verify"])["damaged"].as_str(), None, "a copy wrote to it");
        place.ok(&["snapshot", "delete", name]);
    }
    place.ok(&["snapshot", "delete", "s2", "s3", "s4", "s5", "s6", "s8"]);
    oracle.assert_clean();
}

/// A hypervisor in which a guest has got control keeps what it could write; whoever is copied later has none of that.
#[test]
fn a_disk_that_somebody_can_still_write_is_copied() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.boot(&["src"]);
    place.in_guest("src", "echo kept > /root/file; sync");
    let writer = std::fs::OpenOptions::new().write(true).open(&layers(&place, "src")[0].1).unwrap();
    place.said(&["fork", "src", "--name", "copy"]);
    assert_ne!(lowest(&place, "src"), lowest(&place, "copy"));
    assert_own(&place, &["src", "copy"]);
    writer.write_all_at(&vec![0xff; 64 << 10], 0).unwrap();
    place.ok(&["stop", "copy"]);
    place.said(&["start", "copy"]);
    assert_eq!(place.in_guest("copy", "cat /root/file"), "kept\n");
    drop(writer);
    place.cleanup(&["--all", "--force"]);
    oracle.assert_clean();
}

/// Whatever a layer says of itself: nothing is opened because it does, and the sandbox that it belongs to does not start.
#[test]
fn a_layer_that_names_files_of_the_host_is_not_started_with() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.boot(&["src"]);
    place.said(&["fork", "src", "--name", "copy"]);
    place.ok(&["stop", "copy"]);
    let layer = layers(&place, "copy").pop().unwrap().1;
    let whole = std::fs::read(&layer).unwrap();
    let victim = place.scratch().join("victim");
    std::fs::write(&victim, vec![b's'; 1 << 20]).unwrap();
    let (victim, size) = (victim.to_str().unwrap(), "8G");
    let hostile: [&[&str]; 4] = [
        &["-b", victim, "-F", "raw", "-o", "cluster_size=16k"],
        &["-o", &format!("cluster_size=16k,data_file={victim}.data,data_file_raw=on")],
        &["-o", "cluster_size=64k"],
        &["-o", "cluster_size=16k,extended_l2=on"],
    ];
    for options in hostile {
        let made = place.cmd("qemu-img").args(&["create", "-q", "-f", "qcow2"]).args(options).arg(layer.to_str().unwrap()).arg(size).run();
        made.assert_ok();
        let refused = place.envelope(&["start", "copy"]);
        assert_eq!(refused["ok"], false, "{options:?}: {refused:#}");
        let told = refused["error"]["message"].as_str().unwrap();
        assert!(told.contains("is no layer of this disk"), "{options:?}: {told}");
    }
    std::fs::write(&layer, &whole).unwrap();
    place.said(&["start", "copy"]);
    place.assert_answers("copy");
    place.cleanup(&["--all", "--force"]);
    oracle.assert_clean();
}

/// A file system in a file, which only this place sees: blocks are shared by it, and not by names.
#[test]
fn where_the_file_system_shares_blocks_a_disk_is_cloned() {
    let place = Place::with_network();
    let oracle = place.oracle();
    let (image, state) = (place.scratch().join("xfs"), place.path("state"));
    let (image, state) = (image.to_str().unwrap(), state.to_str().unwrap());
    std::fs::create_dir_all(state).unwrap();
    std::fs::File::create(image).unwrap().set_len(4 << 30).unwrap();
    place.cmd("mkfs.xfs").args(&["-q", "-m", "reflink=1", image]).run().assert_ok();
    place.cmd("mount").args(&["-o", "loop", image, state]).run().assert_ok();
    place.boot(&["src"]);
    place.in_guest("src", &format!("head -c {BLOB} /dev/urandom > /root/blob; sync"));
    let sum = place.in_guest("src", "sha256sum /root/blob");
    place.said(&["fork", "src", "--name", "copy"]);
    place.said(&["snapshot", "create", "src", "--name", "saved"]);
    place.said(&["snapshot", "restore", "saved", "--name", "again"]);
    for id in ["src", "copy", "again"] {
        assert_eq!(place.inside(|| layers(&place, id)).len(), 1, "{id} has layers");
        let disk = place.path(&format!("state/sandboxes/{id}/data.img"));
        let extents = place.cmd("filefrag").args(&["-v", disk.to_str().unwrap()]).run();
        extents.assert_ok();
        assert!(extents.stdout.contains("shared"), "{id}: {extents}");
        assert_eq!(place.in_guest(id, &format!("sha256sum /root/blob; echo {id} >> /root/blob; sync")), sum, "{id}");
    }
    for id in ["src", "copy", "again"] {
        let last = format!("tail -c {} /root/blob", id.len() + 1);
        assert_eq!(place.in_guest(id, &last), format!("{id}\n"), "{id} has what another wrote");
    }
    place.cleanup(&["--all", "--force"]);
    place.ok(&["snapshot", "delete", "saved"]);
    place.cmd("umount").args(&[state]).run().assert_ok();
    oracle.assert_clean();
}

/// Eight files, and no room to make three of them: that is said before the guest stands still for a copy that could not start.
#[test]
fn without_room_to_merge_there_is_no_copy_and_the_guest_runs_on() {
    const MANY: u64 = 400 << 20;
    let place = Place::with_network();
    let oracle = place.oracle();
    let state = place.path("state");
    std::fs::create_dir_all(&state).unwrap();
    place.cmd("mount").args(&["-t", "tmpfs", "-o", "size=2500m", "tmpfs", state.to_str().unwrap()]).run().assert_ok();
    let layers = || place.inside(|| layers(&place, "src").len());
    place.boot(&["src"]);
    while layers() < 8 {
        place.said(&["fork", "src", "--name", "copy"]);
        if layers() == 2 {
            place.in_guest("src", &format!("dd if=/dev/zero of=/root/blob bs=1M count={} 2> /dev/null; sync", MANY >> 20));
        }
        place.ok(&["delete", "copy"]);
    }
    // Room for all of the guest's memory twice, but not for so much of its disk once more.
    let filling = state.join("filling");
    let free = || place.inside(|| rustix::fs::statvfs(&state).map(|fs| fs.f_bavail * fs.f_frsize)).unwrap();
    let left = (128 << 20) + MANY / 4 * 3;
    place
        .inside(|| {
            std::fs::File::create(&filling)
                .and_then(|file| Ok(rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, free() - left)?))
        })
        .unwrap();
    let trace = place.scratch().join("trace");
    for words in [&["fork", "src", "--name", "copy"][..], &["snapshot", "create", "src", "--name", "saved"]] {
        let ran = place.smolvm(&[words, &["--json"]].concat()).env("SMOLVM_TEST_TRACE", &trace).run();
        assert_eq!(support::envelope(&ran)["error"]["code"], "resource_exhausted", "{ran}");
    }
    let passed = std::fs::read_to_string(&trace).unwrap();
    assert!(!passed.is_empty() && !passed.contains("freeze"), "{passed}");
    assert_eq!(layers(), 8);
    place.inside(|| std::fs::remove_file(&filling)).unwrap();
    place.said(&["fork", "src", "--name", "copy"]);
    assert_eq!(layers(), 4);
    assert_eq!(place.in_guest("copy", "wc -c < /root/blob"), format!("{MANY}\n"));
    place.cleanup(&["--all", "--force"]);
    place.cmd("umount").arg(&state).run().assert_ok();
    oracle.assert_clean();
}

/// What a killed copy had laid there goes with the next one; the sandbox need not start again for that.
#[test]
fn layers_of_copies_that_were_killed_do_not_pile_up() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.boot(&["src"]);
    // The third takes away what the second left, and is killed when it has laid another.
    for (order, left) in
        [("kill@after:disk-layer", 2), ("kill@before:freeze", 2), ("kill@after:disk-layer#2", 2), ("kill@after:disk-layer", 1)]
    {
        let trace = place.scratch().join("trace");
        std::fs::write(&trace, "").unwrap();
        let fork = place.smolvm(&["fork", "src", "--name", "never"]);
        let killed = fork.env("SMOLVM_TEST_FAULT", order).env("SMOLVM_TEST_TRACE", &trace).run();
        assert_eq!(layers(&place, "src").len(), left, "{order}");
        assert_eq!(killed.signal(), Some(9), "{order}");
    }
    place.in_guest("src", "echo kept > /root/file; sync");
    place.said(&["fork", "src", "--name", "copy"]);
    let numbers = |id: &str| layers(&place, id).into_iter().map(|(number, _)| number).collect::<Vec<_>>();
    assert_eq!((numbers("src"), numbers("copy")), (vec![0, 1], vec![0, 1]));
    assert_own(&place, &["src", "copy"]);
    assert_eq!(place.in_guest("copy", "cat /root/file"), "kept\n");
    place.cleanup(&["--all", "--force"]);
    oracle.assert_clean();
}
