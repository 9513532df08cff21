//! Layers against what QEMU's own tools make of them.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{FallocateFlags, fallocate};

use super::*;
use crate::disk::qcow2::{self, CLUSTER};
use crate::proc::tool::Tool;

/// No multiple of a cluster, as the sizes of disks need not be one.
const SIZE: u64 = (70 << 20) + 4096;

/// A disk with something on it here and there.
fn disk(dir: &Path) -> PathBuf {
    let lowest = dir.join("data.img");
    let file = File::create_new(&lowest).unwrap();
    file.set_len(SIZE).unwrap();
    for at in [0, 5 << 20, 40 << 20, SIZE - 4096] {
        file.write_all_at(&[0x11; 4096], at).unwrap();
    }
    lowest
}

/// What opens a chain in QEMU's tools, as a hypervisor is told of it: nothing is taken from a header.
fn options(chain: &Chain) -> String {
    let mut prefix = String::new();
    let mut words = Vec::new();
    for number in chain.numbers().iter().rev() {
        let driver = if *number == 0 { "raw" } else { "qcow2" };
        words.push(format!("{prefix}driver={driver},{prefix}file.driver=file,{prefix}file.filename={}", chain.path(*number).display()));
        prefix += "backing.";
    }
    words.join(",")
}

fn write(chain: &Chain, commands: &[String]) {
    let args = commands.iter().flat_map(|command| ["-c", command.as_str()]);
    let said = Tool::new("qemu-io").args(args).arg("--image-opts").arg(options(chain)).run_ok().unwrap().text();
    assert!(!said.contains("failed"), "{said}");
}

/// All bytes of the disk, as QEMU reads them.
fn content(chain: &Chain, scratch: &Path) -> Vec<u8> {
    let raw = scratch.join("content");
    Tool::new("qemu-img").args(["convert", "--image-opts", "-O", "raw"]).arg(options(chain)).arg(&raw).run_ok().unwrap();
    std::fs::read(raw).unwrap()
}

fn assert_sound(layer: &Path) {
    Tool::new("qemu-img").args(["check", "-f", "qcow2"]).arg(layer).run_ok().unwrap();
    let told = Tool::new("qemu-img").args(["info", "--output=json", "-f", "qcow2"]).arg(layer).run_ok().unwrap().text();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((told["virtual-size"].as_u64(), told["cluster-size"].as_u64()), (Some(SIZE), Some(CLUSTER)), "{told:#}");
    assert!(told.get("backing-filename").is_none() && told.get("snapshots").is_none(), "{told:#}");
    qcow2::check(&File::open(layer).unwrap(), SIZE).unwrap();
}

#[test]
fn an_empty_layer_is_sound_small_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let lowest = disk(dir.path());
    let before = std::fs::read(&lowest).unwrap();
    add_layer(&lowest, 1, SIZE).unwrap();
    let chain = Chain::read(&lowest).unwrap();
    assert_sound(&chain.path(1));
    let layer = std::fs::metadata(chain.path(1)).unwrap();
    assert!(layer.len() <= 5 * CLUSTER && layer.mode() & 0o777 == 0o600);
    assert!(content(&chain, dir.path()) == before);
    // What QEMU writes goes into the layer; and what it makes of the header is still one of ours.
    write(&chain, &["write -P 0x22 1M 1M".to_owned(), "discard 5M 64k".to_owned(), format!("write -P 0x23 {} 4k", SIZE - 4096)]);
    assert_sound(&chain.path(1));
    assert!(std::fs::read(&lowest).unwrap() == before);
    let after = content(&chain, dir.path());
    assert_eq!(
        (after[1 << 20], after[(2 << 20) - 1], after[5 << 20], after[40 << 20], after[after.len() - 1]),
        (0x22, 0x22, 0, 0x11, 0x23)
    );
}

#[test]
fn layers_for_disks_of_every_size_are_sound() {
    let dir = tempfile::tempdir().unwrap();
    for size in [32 << 20, 8 << 30, 1 << 40, 15 << 40] {
        let lowest = dir.path().join(format!("{size}"));
        File::create(&lowest).unwrap();
        add_layer(&lowest, 1, size).unwrap();
        let layer = Chain::read(&lowest).unwrap().path(1);
        Tool::new("qemu-img").args(["check", "-f", "qcow2"]).arg(&layer).run_ok().unwrap();
        assert!(std::fs::metadata(&layer).unwrap().blocks() * 512 < 8 << 20, "{size}");
    }
}

/// A chain of several layers with writes, zeros and discards over each other, merged in every way it can be.
#[test]
fn merged_layers_read_as_they_did_and_also_while_they_take_each_others_place() {
    let dir = tempfile::tempdir().unwrap();
    let lowest = disk(dir.path());
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    let mut roll = |below: u64| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        dice % below
    };
    for number in [1, 2, 3, 5] {
        add_layer(&lowest, number, SIZE).unwrap();
        let commands: Vec<String> = (0..40)
            .map(|i| {
                let (at, length) = (roll((SIZE >> 12) - 64) << 12, (1 + roll(48)) << 12);
                match roll(4) {
                    0 => format!("discard {at} {length}"),
                    1 => format!("write -z {at} {length}"),
                    _ => format!("write -P {} {at} {length}", 1 + (i + number as usize) % 250),
                }
            })
            .collect();
        write(&Chain::read(&lowest).unwrap(), &commands);
    }
    let chain = Chain::read(&lowest).unwrap();
    let before = content(&chain, dir.path());
    merge_layers(&chain, &[1, 2, 3], SIZE).unwrap();
    // All of them are still there, as after a kill; then they go, in an order that nobody relies on.
    assert!(content(&Chain::read(&lowest).unwrap(), dir.path()) == before);
    assert_sound(&chain.path(3));
    for gone in [2, 1] {
        std::fs::remove_file(chain.path(gone)).unwrap();
        assert!(content(&Chain::read(&lowest).unwrap(), dir.path()) == before, "without {gone}");
    }
    let chain = Chain::read(&lowest).unwrap();
    assert_eq!(chain.numbers(), [0, 3, 5]);
    merge_layers(&chain, &[3, 5], SIZE).unwrap();
    std::fs::remove_file(chain.path(3)).unwrap();
    assert_sound(&chain.path(5));
    assert!(content(&Chain::read(&lowest).unwrap(), dir.path()) == before);
    assert!(!dir.path().join("data.img.layer").exists());
}

#[test]
fn a_layer_whose_tables_lie_is_not_merged_and_fills_no_disk() {
    let dir = tempfile::tempdir().unwrap();
    let lowest = disk(dir.path());
    add_layer(&lowest, 1, SIZE).unwrap();
    let chain = Chain::read(&lowest).unwrap();
    write(&chain, &["write -P 0x22 0 4k".to_owned()]);
    let layer = OpenOptions::new().read(true).write(true).open(chain.path(1)).unwrap();
    let word = |at: u64| {
        let mut bytes = [0; 8];
        layer.read_exact_at(&mut bytes, at).unwrap();
        u64::from_be_bytes(bytes)
    };
    let table = word(CLUSTER) & 0x00ff_ffff_ffff_fe00;
    let good = word(table);
    let merge = || merge_layers(&chain, &[1], SIZE).map_err(|e| e.source.to_string());
    // One cluster under every name.
    for place in 0..2048 {
        layer.write_all_at(&good.to_be_bytes(), table + place * 8).unwrap();
    }
    let twice = Err("it is no layer of this disk: it names a cluster twice".to_owned());
    assert_eq!(merge(), twice);
    // A file is as long as it is said to be, and has no more in it for that.
    let length = layer.metadata().unwrap().len();
    layer.set_len(qcow2::longest(SIZE)).unwrap();
    assert_eq!(merge(), twice);
    layer.write_all_at(&[0; 2048 * 8], table).unwrap();
    // A hole costs no room, but to be read; a table of nothing but zeros to be written.
    let hole = qcow2::longest(SIZE) / CLUSTER * CLUSTER - CLUSTER;
    for (entry, also) in [(hole, hole), (1, 0)] {
        layer.write_all_at(&entry.to_be_bytes(), table).unwrap();
        layer.write_all_at(&also.to_be_bytes(), table + 8).unwrap();
        layer.write_all_at(&word(CLUSTER).to_be_bytes(), CLUSTER + 8).unwrap();
        assert_eq!(merge(), twice, "{entry}");
        layer.write_all_at(&[0; 8], CLUSTER + 8).unwrap();
    }
    layer.write_all_at(&(good + 512).to_be_bytes(), table).unwrap();
    assert_eq!(merge(), Err("it is no layer of this disk: it has something between two clusters".to_owned()));
    layer.set_len(qcow2::longest(SIZE) + 1).unwrap();
    assert_eq!(merge(), Err("it is no layer of this disk: it is longer than one can become".to_owned()));
    layer.set_len(length).unwrap();
    layer.write_all_at(&(good | 1 << 62).to_be_bytes(), table).unwrap();
    assert_eq!(merge(), Err("it is no layer of this disk: it is compressed".to_owned()));
    // Beyond the end of the file there is nothing.
    layer.write_all_at(&[0; 2048 * 8], table).unwrap();
    layer.write_all_at(&(1_u64 << 50).to_be_bytes(), table).unwrap();
    layer.write_all_at(&(1_u64 << 51).to_be_bytes(), CLUSTER + 8).unwrap();
    merge().unwrap();
    assert!(content(&chain, dir.path())[..4096].iter().all(|byte| *byte == 0));
    assert!(!dir.path().join("data.img.layer").exists());
}

/// One block in each cluster, and that is all that is paid for.
#[test]
fn a_layer_of_holes_is_merged_into_one_of_holes() {
    let dir = tempfile::tempdir().unwrap();
    let lowest = disk(dir.path());
    add_layer(&lowest, 1, SIZE).unwrap();
    let chain = Chain::read(&lowest).unwrap();
    write(&chain, &["write -P 0x22 0 4M".to_owned()]);
    let layer = OpenOptions::new().read(true).write(true).open(chain.path(1)).unwrap();
    let word = |at: u64| {
        let mut bytes = [0; 8];
        layer.read_exact_at(&mut bytes, at).unwrap();
        u64::from_be_bytes(bytes) & 0x00ff_ffff_ffff_fe00
    };
    let table = word(CLUSTER);
    for place in 0..256 {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&layer, flags, word(table + place * 8) + 4096, CLUSTER - 4096).unwrap();
    }
    let before = layer.metadata().unwrap().blocks();
    let read = content(&chain, dir.path());
    merge_layers(&chain, &[1], SIZE).unwrap();
    let after = std::fs::metadata(chain.path(1)).unwrap().blocks();
    assert!(after <= before, "{before} became {after}");
    assert!(
        content(&chain, dir.path()) == read
            && read[..4096].iter().all(|byte| *byte == 0x22)
            && read[4096..16384].iter().all(|byte| *byte == 0)
    );
}

#[expect(clippy::unnecessary_wraps, reason = "it stands for one that looks")]
fn anything(_bytes: u64) -> Result<(), FsError> {
    Ok(())
}

#[test]
fn room_is_asked_for_what_is_copied_and_for_nothing_else() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let lowest = disk(dir.path());
    add_layer(&lowest, 4, SIZE).unwrap();
    let chain = Chain::read(&lowest).unwrap();
    let other = dir.path().join("disk");
    let asked = std::cell::RefCell::new(Vec::new());
    let none = |bytes| {
        asked.borrow_mut().push(bytes);
        Err(FsError::on("fill", &other)(ErrorKind::StorageFull.into()))
    };
    // With nobody who writes, everything is named again; no room is needed for that.
    share(&chain, &other, none).unwrap();
    assert_eq!(*asked.borrow(), [] as [u64; 0]);
    remove_layers(&Chain::read(&other).unwrap(), &[0, 4, 5]).unwrap();
    assert_eq!(Chain::read(&other).unwrap().numbers(), [0], "the lowest is no layer");
    let _writer = OpenOptions::new().write(true).open(chain.path(4)).unwrap();
    assert!(share(&chain, &other, none).unwrap_err().is_full());
    assert_eq!(*asked.borrow(), [std::fs::metadata(chain.path(4)).unwrap().blocks() * 512]);
    assert_eq!(Chain::read(&other).unwrap().numbers(), [0], "it was copied all the same");
}

#[test]
fn what_nobody_writes_is_named_again_and_what_somebody_writes_is_copied() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let lowest = disk(dir.path());
    add_layer(&lowest, 4, SIZE).unwrap();
    let chain = Chain::read(&lowest).unwrap();
    let inode = |path: PathBuf| std::fs::metadata(path).unwrap().ino();
    let writer = OpenOptions::new().write(true).open(chain.path(4)).unwrap();
    let other = dir.path().join("disk");
    for _twice in 0..2 {
        share(&chain, &other, anything).unwrap();
        let copied = Chain::read(&other).unwrap();
        assert_eq!(copied.numbers(), [0, 4]);
        assert_eq!(inode(copied.path(0)), inode(chain.path(0)));
        assert_ne!(inode(copied.path(4)), inode(chain.path(4)));
        assert!(std::fs::read(copied.path(4)).unwrap() == std::fs::read(chain.path(4)).unwrap());
        assert!(!copied.is_shared().unwrap() && !chain.is_shared().unwrap());
    }
    drop(writer);
    share(&chain, &other, anything).unwrap();
    assert_eq!(inode(dir.path().join("disk.4")), inode(chain.path(4)));
    assert!(chain.is_shared().unwrap());
    std::fs::remove_file(dir.path().join("disk.4")).unwrap();
    assert!(!chain.is_shared().unwrap(), "the last one has it to itself");
}

#[test]
fn another_file_system_gets_a_copy() {
    let here = tempfile::tempdir().unwrap();
    let there = tempfile::tempdir_in("/dev/shm").unwrap();
    let chain = Chain::read(&disk(here.path())).unwrap();
    let other = there.path().join("disk");
    share(&chain, &other, anything).unwrap();
    assert!(std::fs::read(&other).unwrap() == std::fs::read(chain.path(0)).unwrap());
    assert!(!can_clone(there.path()) && std::fs::read_dir(there.path()).unwrap().count() == 1);
}
