use super::*;

#[test]
fn a_mapping_is_read_as_the_kernel_writes_it() {
    let line = "7f3a40000000-7f3a48000000 rw-p 00000000 fe:00 393 /a b/memory (deleted)";
    let mapping = Mapping::parse(line).unwrap();
    assert_eq!((mapping.start, mapping.end, mapping.inode), (0x7f3a_4000_0000, 0x7f3a_4800_0000, 393));
    assert_eq!(mapping.path, PathBuf::from("/a b/memory (deleted)"));
    assert_eq!(Mapping::parse("7ffc-7ffd rw-p 00000000 00:00 0").unwrap().inode, 0);
    for odd in ["", "x", "1-2 r 0 a", "1-zz rw-p 0 0 0"] {
        assert_eq!(Mapping::parse(odd), None, "{odd:?}");
    }
}

#[test]
fn runs_are_maximal() {
    let yes = |text: &str| runs(text.chars().map(|c| c == 'x'));
    assert_eq!(yes("xx.x..xxx"), [(0, 2), (3, 1), (6, 3)]);
    assert_eq!(yes("..."), []);
}

#[test]
fn zeros_are_written_only_over_something() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(8 * PAGE).unwrap();
    let page = |byte| vec![byte; PAGE_LEN];
    write_page_wise(&file, &[page(0), page(7), page(0)].concat(), PAGE).unwrap();
    assert!(file.metadata().unwrap().blocks() * 512 <= 2 * PAGE, "a hole was filled with zeros");
    write_page_wise(&file, &[page(0), page(0), page(9)].concat(), PAGE).unwrap();
    let mut seen = page(1);
    file.read_exact_at(&mut seen, 2 * PAGE).unwrap();
    assert_eq!(seen, page(0), "what had become zero kept its old content");
    file.read_exact_at(&mut seen, 3 * PAGE).unwrap();
    assert_eq!(seen, page(9));
}

/// This very process is the hypervisor: a private mapping of a file, some of whose pages it wrote.
#[test]
fn own_pages_are_told_from_the_files() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let pages = 64;
    file.as_file().set_len(pages * PAGE).unwrap();
    file.as_file().write_all_at(&[1; PAGE_LEN], 0).unwrap();
    file.as_file().write_all_at(&[2; PAGE_LEN], 5 * PAGE).unwrap();
    let map = TestMap::of(file.as_file(), pages * PAGE);
    map.write(5 * PAGE, &[3; PAGE_LEN]);
    map.write(9 * PAGE, &[4; PAGE_LEN]);
    let _ = map.read(0);
    let memory = GuestMemory::open(Path::new("/proc"), std::process::id(), map.address(), pages * PAGE).unwrap();
    let copy = tempfile::tempfile().unwrap();
    memory.copy_backing(&copy, Fate::Lasting).unwrap();
    let before = memory.copy_own(&copy).unwrap();
    assert_eq!(before.bytes(), 2 * PAGE);
    let at = |page: u64| {
        let mut byte = [0];
        copy.read_exact_at(&mut byte, page * PAGE).unwrap();
        byte[0]
    };
    assert_eq!([0, 1, 5, 9].map(at), [1, 0, 3, 4]);
    assert!(copy.metadata().unwrap().blocks() * 512 <= 8 * PAGE, "holes were filled");
    // What changes meanwhile is what the second pass writes; also what becomes zero.
    map.write(9 * PAGE, &[0; PAGE_LEN]);
    map.write(11 * PAGE, &[6; PAGE_LEN]);
    assert_eq!(memory.copy_changed(&before, &copy).unwrap().bytes(), 3 * PAGE);
    let at = |page: u64| {
        let mut byte = [0];
        copy.read_exact_at(&mut byte, page * PAGE).unwrap();
        byte[0]
    };
    assert_eq!([0, 1, 5, 9, 11].map(at), [1, 0, 3, 0, 6]);
    // Its own pages first, and what is behind the others afterwards: what is zero now stays it.
    map.write(5 * PAGE, &[0; PAGE_LEN]);
    let late = tempfile::tempfile().unwrap();
    late.set_len(pages * PAGE).unwrap();
    let own = memory.copy_own(&late).unwrap();
    file.as_file().write_all_at(&[8; PAGE_LEN], 20 * PAGE).unwrap();
    memory.copy_backing_around(&own, &late, &AtomicBool::new(false)).unwrap();
    let at = |page: u64| {
        let mut byte = [7];
        late.read_exact_at(&mut byte, page * PAGE).unwrap();
        byte[0]
    };
    assert_eq!([0, 1, 5, 9, 11, 20].map(at), [1, 0, 0, 0, 6, 8]);
    // What it had to itself and has given back is the file's again.
    let before = memory.copy_own(&copy).unwrap();
    map.forget(11 * PAGE);
    assert_eq!(memory.copy_changed(&before, &copy).unwrap().bytes(), 2 * PAGE);
    let mut byte = [7];
    copy.read_exact_at(&mut byte, 11 * PAGE).unwrap();
    assert_eq!(byte, [0]);
    // The file loses its name: nobody can open it by that any more.
    file.close().unwrap();
    let again = GuestMemory::open(Path::new("/proc"), std::process::id(), map.address(), pages * PAGE).unwrap();
    let copy = tempfile::tempfile().unwrap();
    again.copy_backing(&copy, Fate::Passing).unwrap();
    again.copy_own(&copy).unwrap();
    let mut byte = [0];
    copy.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(byte, [1]);
}

/// What the guest had to itself is not copied, unless it has given it back by the time it stands still.
#[test]
fn what_is_behind_much_of_its_own_is_copied_only_if_it_is_given_back() {
    const MIB: u64 = 1 << 20;
    let file = tempfile::tempfile().unwrap();
    file.set_len(8 * MIB).unwrap();
    file.write_all_at(&vec![1; 8 << 20], 0).unwrap();
    let map = TestMap::of(&file, 8 * MIB);
    for page in (2 * MIB..4 * MIB).chain(6 * MIB..7 * MIB).step_by(PAGE_LEN) {
        map.write(page, &[2; PAGE_LEN]);
    }
    // Less than pays.
    map.write(5 * MIB, &[2; PAGE_LEN]);
    let memory = GuestMemory::open(Path::new("/proc"), std::process::id(), map.address(), 8 * MIB).unwrap();
    let before = memory.pages().unwrap();
    assert_eq!(before.own.bytes(), 3 * MIB + PAGE);
    // What passes is copied as a whole.
    for (fate, around) in [(Fate::Lasting, 0), (Fate::Passing, 1)] {
        let copy = tempfile::tempfile().unwrap();
        let mut backing = BackingCopy::begin(&memory, &copy, fate, &before).unwrap();
        backing.check().unwrap();
        for page in (3 * MIB..4 * MIB).step_by(PAGE_LEN) {
            map.forget(page);
        }
        let now = memory.own().unwrap();
        backing.finish(&now, &Own::default()).unwrap();
        let at = |mib: u64| {
            let mut byte = [9];
            copy.read_exact_at(&mut byte, mib * MIB).unwrap();
            byte[0]
        };
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 7].map(at), [1, 1, around, 1, 1, 1, around, 1], "{fate:?}");
        let mut all = vec![9; 1 << 20];
        copy.read_exact_at(&mut all, 3 * MIB).unwrap();
        assert!(all.iter().all(|byte| *byte == 1), "a part of what was given back is missing");
        for page in (3 * MIB..4 * MIB).step_by(PAGE_LEN) {
            map.write(page, &[2; PAGE_LEN]);
        }
    }
    // One that is not waited for ends.
    drop(BackingCopy::begin(&memory, &tempfile::tempfile().unwrap(), Fate::Lasting, &before).unwrap());
}

#[test]
fn a_place_that_is_none_is_refused() {
    let me = std::process::id();
    for (address, bytes) in [(0, PAGE), (1, PAGE), (u64::MAX - PAGE + 1, PAGE), (PAGE, 2), (1 << 62, 1 << 62)] {
        assert!(GuestMemory::open(Path::new("/proc"), me, address, bytes).is_err(), "{address:x}");
    }
}

#[allow(unsafe_code, reason = "a mapping to be looked at")]
mod map {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    pub(in super::super) struct TestMap(*mut u8, usize);

    impl TestMap {
        pub(in super::super) fn of(file: &File, bytes: u64) -> Self {
            let bytes = usize::try_from(bytes).unwrap();
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a new mapping at a place that the kernel chooses.
            let address = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_PRIVATE, file.as_raw_fd(), 0) };
            assert_ne!(address, libc::MAP_FAILED);
            Self(address.cast(), bytes)
        }

        pub(in super::super) fn address(&self) -> u64 {
            self.0 as u64
        }

        pub(in super::super) fn write(&self, at: u64, bytes: &[u8]) {
            let at = usize::try_from(at).unwrap();
            assert!(at + bytes.len() <= self.1);
            // SAFETY: within the mapping, which nobody else knows.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.add(at), bytes.len()) }
        }

        pub(in super::super) fn forget(&self, at: u64) {
            let at = usize::try_from(at).unwrap();
            assert!(at + 4096 <= self.1);
            // SAFETY: within the mapping; the page is the file's again.
            unsafe { libc::madvise(self.0.add(at).cast(), 4096, libc::MADV_DONTNEED) };
        }

        pub(in super::super) fn read(&self, at: u64) -> u8 {
            let at = usize::try_from(at).unwrap();
            assert!(at < self.1);
            // SAFETY: within the mapping.
            unsafe { self.0.add(at).read_volatile() }
        }
    }

    impl Drop for TestMap {
        fn drop(&mut self) {
            // SAFETY: made by `of`, and not used any more.
            unsafe { libc::munmap(self.0.cast(), self.1) };
        }
    }
}
pub(super) use map::TestMap;
