#![allow(unsafe_code, reason = "an allocator is unsafe by its trait; each call is passed on as it came")]

//! An allocator that counts, so that a length somebody claims cannot become memory unnoticed.
//!
//! libFuzzer looks at the process's memory once a second; a reader that takes too much and gives it back is not seen by that.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, and a count.
pub(crate) struct Counting;

fn took(size: usize) {
    let live = LIVE.fetch_add(size, Relaxed) + size;
    MOST.fetch_max(live, Relaxed);
}

fn gave(size: usize) {
    LIVE.fetch_sub(size, Relaxed);
}

// SAFETY: everything is done by the system's allocator, with the arguments as they came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        gave(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both at once, as a move would have them.
        took(size);
        gave(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Fails when `work` holds more than `most` bytes at any time.
pub(crate) fn bounded(most: usize, work: impl FnOnce()) {
    let before = LIVE.load(Relaxed);
    MOST.store(before, Relaxed);
    work();
    let held = MOST.load(Relaxed).saturating_sub(before);
    assert!(held <= most, "{held} bytes were held at once, and {most} are allowed");
}
