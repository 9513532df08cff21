//! Memory of our own for what is read of a guest.
//!
//! The kernel promises memory, and gives and clears it when it is first used: that is when it is made, and not while a guest waits
//! for it. Large pages are made in an eighth of the time of small ones (6 to 45 ms for 128 MiB). Where this host is a virtual machine itself, and
//! its own host has taken back what was free for a while, each large page is brought back at a price, some 290 ms for all; small ones take
//! 50 ms then. So who needs little has small ones, and a snapshot needs little ([`super::Lane`]). Two threads gain nothing beside what else is done.

#![allow(unsafe_code, reason = "madvise has no safe wrapper")]

use std::fmt;

use super::PAGE_LEN;

/// Memory that begins at a page, as a disk wants it that takes something straight from it.
pub(super) struct Room {
    memory: Vec<u8>,
    /// In front of the first page.
    skipped: usize,
}

impl Room {
    pub(super) fn of(bytes: usize) -> Self {
        Self::prepared(bytes, in_large_pages)
    }

    /// For little: what a large page may cost is more than a few small ones do.
    pub(super) fn in_small_pages(bytes: usize) -> Self {
        Self::prepared(bytes, |_| ())
    }

    fn prepared(bytes: usize, prepare: impl FnOnce(&mut [u8])) -> Self {
        let mut memory = vec![0; bytes.next_multiple_of(PAGE_LEN) + PAGE_LEN];
        let skipped = memory.as_ptr().align_offset(PAGE_LEN).min(PAGE_LEN);
        prepare(&mut memory[skipped..]);
        memory[skipped..].iter_mut().step_by(PAGE_LEN).for_each(|byte| *byte = 1);
        memory.truncate(skipped + bytes);
        Self { memory, skipped }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.skipped..]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.skipped..]
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A guest's memory is nobody's business.
        f.debug_struct("Room").field("bytes", &self.bytes().len()).finish()
    }
}

/// Asks for memory that begins at a page in large ones.
fn in_large_pages(memory: &mut [u8]) {
    let len = memory.len() / PAGE_LEN * PAGE_LEN;
    // SAFETY: whole pages of memory that is this slice's alone; the advice changes nothing that is read from it. A kernel that
    // does not take it, or a slice that begins elsewhere, gets small pages.
    unsafe { libc::madvise(memory.as_mut_ptr().cast(), len, libc::MADV_HUGEPAGE) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_at_a_page_is_as_long_as_it_was_asked_for_and_all_of_it_was_used() {
        for bytes in [0, 1, PAGE_LEN, 3 * PAGE_LEN + 7, (2 << 20) - 1, (5 << 20) + 3 * PAGE_LEN] {
            let mut room = Room::of(bytes);
            assert_eq!((room.bytes().len(), room.bytes().as_ptr().align_offset(PAGE_LEN)), (bytes, 0));
            assert!(room.bytes().chunks(PAGE_LEN).all(|page| page[0] == 1), "{bytes}");
            room.bytes_mut().fill(7);
            assert_eq!(format!("{room:?}"), format!("Room {{ bytes: {bytes} }}"));
        }
    }
}
