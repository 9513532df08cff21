//! The virtio-serial port that is the line to the host.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use smolvm_proto::PORT_NAME;

use super::failed;
use crate::serve::BootFailure;

const PORTS: &str = "/sys/class/virtio-ports";

/// How long the device may take to announce its ports.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks.
const PAUSE: Duration = Duration::from_micros(200);

/// Opens the port, once the device has announced it: its name comes in a message after the driver is there.
pub(super) fn open() -> Result<OwnedFd, BootFailure> {
    let start = Instant::now();
    loop {
        if let Some(device) = find() {
            let path = format!("/dev/{device}");
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            match rustix::fs::open(&path, flags, Mode::empty()) {
                // The node is made by a thread of the kernel, a moment after the name.
                Err(Errno::NOENT) => {}
                other => return other.map_err(failed("port", &path)),
            }
        }
        if start.elapsed() > PATIENCE {
            return Err(BootFailure { step: "port", message: format!("no port named {PORT_NAME} was announced") });
        }
        std::thread::sleep(PAUSE);
    }
}

fn find() -> Option<String> {
    for entry in std::fs::read_dir(PORTS).ok()?.flatten() {
        let name = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim_end() == PORT_NAME {
            return entry.file_name().into_string().ok();
        }
    }
    None
}
