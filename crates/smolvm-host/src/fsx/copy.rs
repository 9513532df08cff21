//! Copies files without filling their holes.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{copy_file_range, ftruncate};
use rustix::io::Errno;

use super::FsError;
use super::behind::WriteBehind;
use super::segment::data_from;

/// Copied together where something is to be done or asked in between.
const PIECE: u64 = 1 << 20;

/// How a segment is carried over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Inside the kernel; shares blocks where the file system can.
    Kernel,
    /// Read and written here: cache and state may lie on two file systems.
    Hand,
}

/// Copies `from` to the new file `to` (mode 0600), data segments only; the length becomes `len`.
pub fn copy_sparse(from: &Path, to: &Path, len: u64) -> Result<(), FsError> {
    let source = File::open(from).map_err(FsError::on("open", from))?;
    let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(FsError::on("make", to))?;
    copy_segments(&source, &target, len, Way::Kernel).map_err(FsError::on("copy into", to))
}

/// Copies the data segments of one open file into another, which is empty; its length becomes `len`.
pub fn copy_data(source: &File, target: &File, len: u64) -> io::Result<()> {
    copy_segments(source, target, len, Way::Kernel)
}

/// The same into a file that has its length, and leaves alone what of it lies in `kept`: ranges in their order. It ends with an error as soon
/// as somebody has told it to.
pub fn copy_data_around(source: &File, target: &File, kept: impl Iterator<Item = Range<u64>>, give_up: &AtomicBool) -> io::Result<()> {
    copy_around(source, target, kept, &mut |_, _| {
        if give_up.load(Ordering::Relaxed) { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    })
}

/// Copies what lies in these ranges, in their order, into a file that is synced afterwards: most of it is on the disk by then. As soon as it is
/// told to, it ends; gives the ranges that are left.
pub(crate) fn copy_data_to_disk(source: &File, target: &File, ranges: &[Range<u64>], end: &AtomicBool) -> io::Result<Vec<Range<u64>>> {
    let (mut behind, mut way) = (WriteBehind::until(target, end), Way::Kernel);
    for (number, range) in ranges.iter().enumerate() {
        let mut at = range.start;
        while at < range.end {
            if end.load(Ordering::Relaxed) {
                return Ok(std::iter::once(at..range.end).chain(ranges[number + 1..].iter().cloned()).collect());
            }
            let Some(data) = data_from(source, at)?.filter(|data| data.start < range.end) else { break };
            at = range.end.min(data.end).min(data.start + PIECE);
            copy_range(source, target, data.start..at, &mut way, None)?;
            behind.wrote(data.start, at)?;
        }
    }
    Ok(Vec::new())
}

/// The same of a part.
pub(crate) fn copy_data_of(source: &File, target: &File, part: Range<u64>) -> io::Result<()> {
    copy_range(source, target, part, &mut Way::Kernel, None)
}

fn copy_around(source: &File, target: &File, kept: impl Iterator<Item = Range<u64>>, piece: Piece<'_>) -> io::Result<()> {
    let (mut way, mut at) = (Way::Kernel, 0);
    for range in kept {
        copy_range(source, target, at..range.start, &mut way, Some(piece))?;
        at = at.max(range.end);
    }
    copy_range(source, target, at..u64::MAX, &mut way, Some(piece))
}

fn copy_segments(source: &File, target: &File, len: u64, mut way: Way) -> io::Result<()> {
    ftruncate(target, len)?;
    copy_range(source, target, 0..u64::MAX, &mut way, None)
}

/// Hears of each piece that was copied: from where to where.
type Piece<'a> = &'a mut dyn FnMut(u64, u64) -> io::Result<()>;

/// Copies the data segments within a range; in pieces, if somebody wants to hear of them.
fn copy_range(source: &File, target: &File, range: Range<u64>, way: &mut Way, mut piece: Option<Piece<'_>>) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let Some(data) = data_from(source, at)?.filter(|data| data.start < range.end) else { return Ok(()) };
        let end = data.end.min(range.end);
        at = data.start;
        while at < end {
            let (mut done, until) = (at, if piece.is_some() { end.min(at + PIECE) } else { end });
            if *way == Way::Kernel {
                *way = copy_in_kernel(source, target, &mut done, until)?;
            }
            copy_by_hand(source, target, done, until)?;
            piece.as_mut().map_or(Ok(()), |piece| piece(at, until))?;
            at = until;
        }
    }
    Ok(())
}

/// Moves `at` towards `end` as far as the kernel carries it; tells how to go on.
fn copy_in_kernel(source: &File, target: &File, at: &mut u64, end: u64) -> io::Result<Way> {
    let mut write_at = *at;
    while *at < end {
        let chunk = usize::try_from(end - *at).unwrap_or(usize::MAX).min(1 << 30);
        match copy_file_range(source, Some(at), target, Some(&mut write_at), chunk) {
            // Some file systems say this instead of an error.
            Ok(0) | Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => return Ok(Way::Hand),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(Way::Kernel)
}

fn copy_by_hand(source: &File, target: &File, mut at: u64, end: u64) -> io::Result<()> {
    if at == end {
        return Ok(());
    }
    let mut buffer = vec![0; 256 << 10];
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        match source.read_at(&mut buffer[..wanted], at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                target.write_all_at(&buffer[..n], at)?;
                at += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn with_a_hole(path: &Path) -> File {
        let file = File::create(path).unwrap();
        file.write_all_at(b"head", 0).unwrap();
        file.write_all_at(b"tail", 64 << 20).unwrap();
        File::open(path).unwrap()
    }

    fn assert_copied(path: &Path) {
        let copy = File::open(path).unwrap();
        let mut buf = [0; 4];
        copy.read_exact_at(&mut buf, 0).unwrap();
        assert_eq!(&buf, b"head");
        copy.read_exact_at(&mut buf, 64 << 20).unwrap();
        assert_eq!(&buf, b"tail");
        let meta = copy.metadata().unwrap();
        assert_eq!(meta.len(), 128 << 20);
        assert!(meta.blocks() * 512 < 1 << 20);
    }

    #[test]
    fn content_is_kept_and_holes_stay_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        with_a_hole(&a);
        copy_sparse(&a, &b, 128 << 20).unwrap();
        assert_copied(&b);
        assert!(copy_sparse(&a, &b, 1).is_err(), "an existing file was overwritten");
    }

    #[test]
    fn the_way_by_hand_does_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let source = with_a_hole(&a);
        copy_segments(&source, &File::create(&b).unwrap(), 128 << 20, Way::Hand).unwrap();
        assert_copied(&b);
    }

    #[test]
    fn what_goes_to_the_disk_meanwhile_is_the_same_in_any_order() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let target = |len| {
            let file = File::create(&b).unwrap();
            file.set_len(len).unwrap();
            file
        };
        let ranges = |ranges: &[(u64, u64)]| ranges.iter().map(|(start, end)| *start..*end).collect::<Vec<_>>();
        let go_on = AtomicBool::new(false);
        let left = copy_data_to_disk(&with_a_hole(&a), &target(128 << 20), &ranges(&[(0, 128 << 20)]), &go_on).unwrap();
        assert_eq!(left, []);
        assert_copied(&b);
        // More than may be on its way, in pieces that are no piece.
        let noise: Vec<u8> = (0..(30_u32 << 20) + 5).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        std::fs::write(&a, &noise).unwrap();
        let (source, len) = (File::open(&a).unwrap(), noise.len() as u64);
        let order = ranges(&[((9 << 20) + 3, (20 << 20) + 1), (0, 5 << 20), ((20 << 20) + 1, u64::MAX)]);
        let around = target(len);
        assert_eq!(copy_data_to_disk(&source, &around, &order, &go_on).unwrap(), []);
        let copied = std::fs::read(&b).unwrap();
        let (middle, place) = ((5 << 20)..(9 << 20) + 3, (5 << 20)..(9 << 20) + 3);
        assert!(copied[..5 << 20] == noise[..5 << 20] && copied[place.end..] == noise[place.end..]);
        assert!(copied[place].iter().all(|byte| *byte == 0), "what nobody named was copied");
        copy_data_of(&source, &around, middle).unwrap();
        assert!(std::fs::read(&b).unwrap() == noise);
    }

    #[test]
    fn who_is_told_to_end_says_what_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (with_a_hole(&dir.path().join("a")), File::create(dir.path().join("b")).unwrap());
        let (order, end) = ([5..9, 64 << 20..u64::MAX, 0..3], AtomicBool::new(true));
        assert_eq!(copy_data_to_disk(&source, &target, &order, &end).unwrap(), order);
        assert_eq!(target.metadata().unwrap().len(), 0, "it went on");
    }

    /// `/dev/shm` is a file system of its own on every Linux host.
    #[test]
    fn two_file_systems_are_no_obstacle() {
        let here = tempfile::tempdir().unwrap();
        let there = tempfile::tempdir_in("/dev/shm").unwrap();
        let (a, b) = (here.path().join("a"), there.path().join("b"));
        with_a_hole(&a);
        copy_sparse(&a, &b, 128 << 20).unwrap();
        assert_copied(&b);
    }

    #[test]
    fn what_is_to_be_kept_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let target = File::options().read(true).write(true).create_new(true).open(dir.path().join("b")).unwrap();
        target.set_len(128 << 20).unwrap();
        let source = with_a_hole(&dir.path().join("a"));
        // A range in a hole, one in data and one behind all data.
        let kept = [2..4, (8 << 20)..(9 << 20), (64 << 20)..(64 << 20) + 2, (100 << 20)..(128 << 20)];
        let go_on = AtomicBool::new(false);
        let told = copy_data_around(&source, &target, kept.clone().into_iter(), &AtomicBool::new(true)).unwrap_err();
        assert_eq!(told.kind(), io::ErrorKind::Interrupted);
        copy_data_around(&source, &target, kept.into_iter(), &go_on).unwrap();
        let mut buf = [1; 4];
        target.read_exact_at(&mut buf, 0).unwrap();
        assert_eq!(&buf, b"he\0\0");
        target.read_exact_at(&mut buf, 64 << 20).unwrap();
        assert_eq!(&buf, b"\0\0il");
        let meta = target.metadata().unwrap();
        assert!((meta.len(), meta.blocks() * 512 < 1 << 20) == (128 << 20, true), "holes were filled");
    }
}
