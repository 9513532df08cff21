//! Where the C library hands over.
#![allow(unsafe_code, reason = "the linker must find it under C's name")]

// SAFETY: the only `main` of the program, with the signature the C library calls; `run` unwinds nowhere, for a
// panic aborts. In a test build the harness brings its own.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[cfg_attr(test, allow(dead_code, reason = "the harness has the name, and what hangs on this is tested all the same"))]
extern "C" fn main(_argc: libc::c_int, _argv: *const *const libc::c_char) -> libc::c_int {
    crate::run()
}
