//! What a hypervisor is told: which accelerator, which machine, which kernel command line.
//!
//! ```text
//!   KvmProbe ──► accelerator::decide ──► MachineShape ─┬─► cmdline::kernel_command_line
//!                                                      └─► argv::qemu_argv ◄── fd (the table both sides keep to)
//! ```
//!
//! Invariants: everything that differs between two starts of the same machine shape is the mark, the
//! launch token and the network device's address; nothing a user typed reaches the argument vector
//! but through a type that cannot hold a comma, a space or a path.

pub mod accelerator;
pub mod argv;
pub mod cmdline;
pub mod fd;

pub use accelerator::{Accelerator, AcceleratorError, AcceleratorRequest, AcceleratorRequestError, Choice, KvmProbe, NATIVE_PICOS, decide};
pub use argv::{DiskNode, GuestMemory, LaunchArgs, MachineShape, NetDevice, NetKind, common_argv, qemu_argv};
pub use cmdline::kernel_command_line;
