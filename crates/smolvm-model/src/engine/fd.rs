//! The descriptors a hypervisor starts with: one fixed table, so that its argument vector is constant
//! and a test can say that nothing else was inherited.

/// Standard input: `/dev/null`.
pub const STDIN: i32 = 0;
/// Standard output: `/dev/null`.
pub const STDOUT: i32 = 1;
/// Standard error: a pipe the monitor reads.
pub const STDERR: i32 = 2;
/// The root image, opened read-only.
pub const ROOT: i32 = 3;
/// The data disk, opened read-write.
pub const DATA: i32 = 4;
/// QMP: a connected stream socket.
pub const QMP: i32 = 5;
/// The agent's virtio-serial port: a connected stream socket.
pub const AGENT: i32 = 6;
/// The serial console: a connected stream socket; nobody writes to the guest through it.
pub const CONSOLE: i32 = 7;
/// The network device's TAP or stream socket, if the machine has one.
pub const NET: i32 = 8;
/// The state of a template's devices, for a fork: opened read-only.
pub const DEVICES: i32 = 9;
/// The data disk, opened read-only.
pub const DATA_READ: i32 = 10;
/// The lowest layer of a data disk that has several, opened read-only; those above it follow.
pub const LAYERS: i32 = 11;
