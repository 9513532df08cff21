//! Whether the host has what is asked for, before anything is made.

use std::fs;
use std::path::Path;

use rustix::fs::statvfs;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::quantity::display_bytes;
use smolvm_model::spec::Spec;

use crate::error::Error;
use crate::paths::Paths;

/// Free disk that a new sandbox needs at least: its formatted disk, its logs, and some room to work.
const DISK_FLOOR: u64 = 128 << 20;
/// What the hypervisor and the monitor take beside the guest's memory (15 MiB private, measured) with a margin.
const OVERHEAD: u64 = 48 << 20;

/// Checks a new sandbox's disk against free space, and its memory against the machine.
pub(crate) fn check_create(paths: &Paths, spec: &Spec, disk_was_chosen: bool) -> Result<(), Error> {
    let free = free_bytes(&paths.state)?;
    // A sparse disk of the default size may be larger than what is free; one that somebody asked for shall fit.
    let needed = if disk_was_chosen { spec.disk.bytes() } else { DISK_FLOOR };
    if free < needed.max(DISK_FLOOR) {
        return Err(Error::new(
            ErrorCode::ResourceExhausted,
            format!(
                "{} of disk are needed in {}, and {} are free",
                display_bytes(needed.max(DISK_FLOOR)),
                paths.state.display(),
                display_bytes(free)
            ),
        )
        .hint("ask for less with --disk-size, or free some space: smolvm cleanup"));
    }
    if let Some(total) = meminfo("MemTotal:") {
        memory_fits(spec, total, "the machine has")?;
    }
    Ok(())
}

/// Checks what a copy of a sandbox takes of the disk, so that those that run have some left.
pub(crate) fn check_copy(paths: &Paths, bytes: u64) -> Result<(), Error> {
    let (free, needed) = (free_bytes(&paths.state)?, bytes.saturating_add(DISK_FLOOR));
    if free >= needed {
        return Ok(());
    }
    let message =
        format!("{} of disk are needed in {}, and {} are free", display_bytes(needed), paths.state.display(), display_bytes(free));
    Err(Error::new(ErrorCode::ResourceExhausted, message).hint("free some space: smolvm df; smolvm prune; smolvm cleanup"))
}

/// Checks a start's memory against what is available now.
pub(crate) fn check_start(paths: &Paths, spec: &Spec) -> Result<(), Error> {
    if let Some(available) = meminfo("MemAvailable:") {
        memory_fits(spec, available, "are available")?;
    }
    let free = free_bytes(&paths.state)?;
    if free < DISK_FLOOR / 8 {
        return Err(Error::new(
            ErrorCode::ResourceExhausted,
            format!("only {} of disk are free in {}", display_bytes(free), paths.state.display()),
        )
        .hint("free some space: smolvm cleanup"));
    }
    Ok(())
}

fn memory_fits(spec: &Spec, have: u64, how: &str) -> Result<(), Error> {
    let need = spec.memory.bytes() + OVERHEAD;
    if need > have {
        let text = format!("{} of memory are needed, and {how} {}", display_bytes(need), display_bytes(have));
        return Err(Error::new(ErrorCode::ResourceExhausted, text).hint("ask for less with --memory"));
    }
    Ok(())
}

/// Free bytes for this user on the file system that holds `path` or will hold it.
pub(crate) fn free_bytes(path: &Path) -> Result<u64, Error> {
    let present = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let stat = statvfs(present)
        .map_err(|e| Error::new(ErrorCode::Internal, format!("the free space of {} cannot be read", path.display())).because(e))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Memory that can be had without taking it from somebody; nothing where the host does not tell.
pub(crate) fn available_memory() -> u64 {
    meminfo("MemAvailable:").unwrap_or(0)
}

/// One line of `/proc/meminfo` in bytes; a host that does not tell is not refused.
fn meminfo(key: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with(key))?;
    line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}
