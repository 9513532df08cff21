//! QEMU as data: accelerators, machine shapes, command lines.

mod accelerator;

pub use accelerator::{Accelerator, AcceleratorRequest};
