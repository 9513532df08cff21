//! The id of this boot of the host: what was recorded under another one is gone.

use std::path::Path;

/// Where the kernel tells it.
pub const SOURCE: &str = "/proc/sys/kernel/random/boot_id";

/// Reads the boot id; `source` is [`SOURCE`] but in tests that simulate a reboot.
pub fn boot_id(source: &Path) -> std::io::Result<String> {
    let text = std::fs::read_to_string(source)?;
    Ok(text.trim().to_owned())
}
