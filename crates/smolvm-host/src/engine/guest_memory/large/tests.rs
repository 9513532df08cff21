use super::super::tests::TestMap;
use super::super::{PAGE, PAGE_LEN};
use super::*;
use std::os::unix::fs::MetadataExt;

const BYTES: u64 = 256 * BLOCK;
const BLOCK_LEN: usize = 16 * PAGE_LEN;

/// This very process is the hypervisor; a disk that is quick, and one for which nobody waits.
#[test]
fn what_is_read_at_rest_is_written_and_counted_however_quick_the_disk_is() {
    let (behind, dir) = (tempfile::tempfile().unwrap(), tempfile::tempdir().unwrap());
    behind.set_len(BYTES).unwrap();
    let map = TestMap::of(&behind, BYTES);
    for page in (0..BYTES / PAGE).filter(|page| *page != 2000) {
        map.write(page * PAGE, &[page.to_le_bytes()[0] | 1; PAGE_LEN]);
    }
    let memory = GuestMemory::open(Path::new("/proc"), std::process::id(), map.address(), BYTES).unwrap();
    for (name, writers) in [("quick", WRITERS), ("slow", 0)] {
        let path = dir.path().join(name);
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(BYTES).unwrap();
        let Some(lane) = Lane::of(&memory.own().unwrap(), &Own::default(), &file, &path).unwrap() else {
            panic!("tests need a file system with O_DIRECT")
        };
        assert_eq!(lane.bytes(), BYTES - BLOCK, "but for the block with the page that is not the guest's own");
        // Since then a block was given back, and of two all was overwritten with zeros.
        (64 * BLOCK..65 * BLOCK).step_by(PAGE_LEN).for_each(|at| map.forget(at));
        map.write(70 * BLOCK, &vec![0; 2 * BLOCK_LEN]);
        let own = memory.own().unwrap();
        assert_eq!(lane.takes(&own).bytes(), BYTES - 2 * BLOCK);
        let mut buffers = Buffers::make();
        buffers.0.truncate(writers);
        let mut stream = Stream::begin(&memory, (lane, buffers), &own, None).unwrap();
        stream.all_read().unwrap();
        assert!(writers > 0 || stream.late.len() as u64 >= (BYTES - 2 * BLOCK) / PIECE);
        // It runs again.
        map.write(0, &vec![99; 256 * BLOCK_LEN]);
        stream.all_written().unwrap();
        let counted = stream.into_counted().unwrap();
        let whole: Vec<_> = (0..256).map(|block| block * BLOCK..(block + 1) * BLOCK).collect();
        assert_eq!(counted.rest_of(whole).len(), 2);
        let mut digests = counted.digests().to_vec();
        digests.sort_unstable_by_key(|(number, _)| *number);
        let seen = std::fs::read(&path).unwrap();
        let zeros = |number: u64| [2000 * PAGE / BLOCK, 64, 70, 71].contains(&number);
        for (number, block) in (0..).zip(seen.chunks(BLOCK_LEN)) {
            let wanted = |page: usize| if zeros(number) { 0 } else { ((number * 16 + page as u64).to_le_bytes()[0]) | 1 };
            assert!(block.chunks(PAGE_LEN).enumerate().all(|(page, bytes)| bytes == [wanted(page); PAGE_LEN]), "{name} {number}");
        }
        let all: Vec<BlockDigest> = of_blocks(0, &seen).collect();
        assert!(digests == all, "{name}");
        let room = file.metadata().unwrap().blocks() * 512;
        assert!(room <= BYTES - 4 * BLOCK + (64 << 10), "{name}: room that was not needed is given back, {room}");
        for page in (0..BYTES / PAGE).filter(|page| *page != 2000) {
            map.write(page * PAGE, &[page.to_le_bytes()[0] | 1; PAGE_LEN]);
        }
        map.forget(2000 * PAGE);
    }
}

/// Also where no thread can be had.
#[test]
fn what_is_left_of_what_is_behind_goes_the_same_way_but_for_blocks_with_own_pages() {
    let (source, dir) = (tempfile::tempfile().unwrap(), tempfile::tempdir().unwrap());
    let blocks = |ranges: &[Range<u64>]| Own { ranges: ranges.iter().map(|blocks| blocks.start * BLOCK..blocks.end * BLOCK).collect() };
    source.set_len(64 * BLOCK).unwrap();
    let data = blocks(&[0..32, 48..64]);
    for block in data.pieces(BLOCK).map(|piece| piece.start / BLOCK) {
        // One of them is of zeros.
        let byte = if block == 8 { 0 } else { block.to_le_bytes()[0] + 1 };
        source.write_all_at(&vec![byte; BLOCK_LEN], block * BLOCK).unwrap();
    }
    let map = TestMap::of(&source, 64 * BLOCK);
    map.write(20 * BLOCK + PAGE, &[200; PAGE_LEN]);
    let memory = GuestMemory::open(Path::new("/proc"), std::process::id(), map.address(), 64 * BLOCK).unwrap();
    let mut whole = vec![0; 64 * BLOCK_LEN];
    source.read_exact_at(&mut whole, 0).unwrap();
    for writers in [WRITERS, 0] {
        let path = dir.path().join(writers.to_string());
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(64 * BLOCK).unwrap();
        let lane = Lane::of(&Own::default(), &data, &file, &path).unwrap().unwrap();
        let mut buffers = Buffers::make();
        buffers.0.truncate(writers);
        // It was told to end in the middle of a block.
        let left = Own { ranges: vec![5 * BLOCK + PAGE..32 * BLOCK, 48 * BLOCK..64 * BLOCK] };
        let behind = Behind { file: source.try_clone().unwrap(), left };
        let mut stream = Stream::begin(&memory, (lane, buffers), &memory.own().unwrap(), Some(behind)).unwrap();
        stream.all_read().unwrap();
        // It runs again.
        map.write(50 * BLOCK, &[99; PAGE_LEN]);
        stream.all_written().unwrap();
        let taken = stream.behind();
        assert_eq!(taken.ranges, blocks(&[6..20, 21..32, 48..64]).ranges);
        let seen = std::fs::read(&path).unwrap();
        for (number, (there, wanted)) in (0..).zip(seen.chunks(BLOCK_LEN).zip(whole.chunks(BLOCK_LEN))) {
            let is_taken = taken.ranges.iter().any(|range| range.contains(&(number * BLOCK)));
            assert!(if is_taken { there == wanted } else { are_zeros(there) }, "{number}");
        }
        assert!(file.metadata().unwrap().blocks() * 512 <= 47 * BLOCK + (64 << 10), "the block of zeros keeps its room");
        let counted = stream.into_counted().unwrap();
        // What others have copied and will copy is counted, too.
        let rest = counted.rest_of((0..64).map(|block| block * BLOCK..(block + 1) * BLOCK).collect());
        assert_eq!(rest, (20..21).chain(32..48).map(|block| block * BLOCK..(block + 1) * BLOCK).collect::<Vec<_>>());
        let mut digests = counted.digests().to_vec();
        digests.sort_unstable_by_key(|(number, _)| *number);
        let all = of_blocks(0, &whole).filter(|(number, _)| *number != 20);
        assert!(digests == all.collect::<Vec<_>>());
        map.forget(50 * BLOCK);
    }
}

#[test]
fn a_disk_is_slow_when_a_guest_would_stand_still_for_too_long() {
    let ms = Duration::from_millis;
    assert!(!too_slow(0, 100, ms(9)), "nobody can say yet");
    assert!(too_slow(0, 100, ms(10)) && too_slow(10, 100, ms(10)));
    assert!(!too_slow(20, 100, ms(10)) && !too_slow(99, 100, ms(59)));
    assert!(too_slow(99, 100, ms(60)) && too_slow(1, 2, ms(31)));
    assert!(!too_slow(usize::MAX, usize::MAX, ms(10)));
}

#[test]
fn only_what_was_laid_out_and_is_there_still_goes_past_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let file = File::create_new(&path).unwrap();
    file.set_len(BYTES).unwrap();
    let own = |ranges: &[Range<u64>]| Own { ranges: ranges.iter().map(|blocks| blocks.start * BLOCK..blocks.end * BLOCK).collect() };
    let lane = Lane::of(&own(&[0..3, 3..20, 30..37, 40..48]), &Own::default(), &file, &path).unwrap().unwrap();
    assert_eq!(lane.ranges, own(&[0..20, 40..48]).ranges);
    assert_eq!(lane.takes(&own(&[0..12, 13..20, 30..60])).ranges, own(&[0..12, 40..48]).ranges);
    let in_pages = Own { ranges: vec![PAGE..10 * BLOCK - PAGE, 15 * BLOCK..16 * BLOCK] };
    assert_eq!(lane.takes(&in_pages).ranges, [BLOCK..9 * BLOCK, 0..0][..1]);
}
