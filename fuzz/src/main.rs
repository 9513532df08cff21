//! Fuzz targets for everything that smolvm reads from a guest, a file or a tool.
//!
//! ```text
//!   cargo xtask fuzz ──► this program, once per target (SMOLVM_FUZZ_TARGET) ──► libFuzzer ──► Target::run(bytes)
//!                              │ without a target: the list of them                  │ a property that does not hold,
//!                              │                                                     │ a panic, an overflow, too much
//!   corpus/<target>/           replayed first, by every run                          ▼ memory or time
//!   corpus/<target>/past/      inputs that once failed                  target/fuzz/artifacts/<target>/
//! ```
//!
//! One program, because the instrumented crates are then compiled and linked once. A target is a file's worth of readers with what
//! must hold for them: what is read and printed is read the same again, a cut in another place changes nothing, a cap is a cap.
//!
//! Invariants: a target is a function of its bytes; it changes nothing on the host but files in a directory of its own in memory;
//! the code under test is compiled as it ships, without `cfg(fuzzing)`.

#![no_main]

mod agent;
mod cli;
mod disk;
mod engine;
mod image;
mod input;
mod memory;
mod model;
mod net;
mod oci;
mod process;
mod proto;
mod sandbox;
mod store;
mod target;

use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

fuzz_target!(init: target::choose(), |bytes: &[u8]| target::run(bytes));
