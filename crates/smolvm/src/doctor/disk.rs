//! Is there room for images and for sandboxes?

use std::path::{Path, PathBuf};

use rustix::fs::statvfs;
use smolvm_model::quantity::display_bytes;

use super::report::CheckReport;
use crate::installation::Smolvm;

/// Below this `create` refuses.
const NEEDED: u64 = 128 << 20;
/// Below this one busy sandbox, or the next image, fills the disk.
const COMFORT: u64 = 2 << 30;
/// A sandbox takes some ten files.
const INODES: u64 = 1000;

/// What a file system has left.
#[derive(Debug, Clone)]
struct Room {
    at: PathBuf,
    bytes: u64,
    /// `None` where the file system does not count them.
    inodes: Option<u64>,
}

pub(super) fn look(vm: &Smolvm) -> Vec<CheckReport> {
    let paths = vm.paths();
    [("disk.state", "sandboxes", &paths.state), ("disk.cache", "images", &paths.cache)]
        .map(|(id, whose, path)| match room(path) {
            Ok(room) => judge(id, whose, &room),
            Err(e) => CheckReport::fail(id, "free space cannot be measured", e.to_string()).mended_by(format!("df -h {}", path.display())),
        })
        .into()
}

/// Measured where the directory is, or will be made.
fn room(path: &Path) -> std::io::Result<Room> {
    let at = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let stat = statvfs(at)?;
    let inodes = (stat.f_files > 0).then_some(stat.f_favail);
    Ok(Room { at: at.to_owned(), bytes: stat.f_bavail.saturating_mul(stat.f_frsize), inodes })
}

fn judge(id: &str, whose: &str, room: &Room) -> CheckReport {
    let free = format!("{} free for {whose}", display_bytes(room.bytes));
    let evidence = match room.inodes {
        Some(inodes) => format!("{}: {} bytes, {inodes} inodes", room.at.display(), room.bytes),
        None => format!("{}: {} bytes", room.at.display(), room.bytes),
    };
    let mend = format!("smolvm cleanup; df -h {0}; df -i {0}", room.at.display());
    let out_of_inodes = room.inodes.is_some_and(|n| n < INODES);
    if room.bytes < NEEDED || out_of_inodes {
        let why = if out_of_inodes {
            format!("no inodes are free for {whose}")
        } else {
            format!("only {free}, {} are needed", display_bytes(NEEDED))
        };
        CheckReport::fail(id, why, evidence).mended_by(mend)
    } else if room.bytes < COMFORT {
        CheckReport::warn(id, format!("only {free}"), evidence).mended_by(mend)
    } else {
        CheckReport::pass(id, free, evidence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::CheckStatus;

    #[test]
    fn little_room_warns_and_none_fails() {
        let table = [
            (10 << 30, Some(1_000_000), CheckStatus::Pass),
            (10 << 30, None, CheckStatus::Pass),
            (COMFORT - 1, None, CheckStatus::Warn),
            (NEEDED - 1, None, CheckStatus::Fail),
            (0, None, CheckStatus::Fail),
            (10 << 30, Some(3), CheckStatus::Fail),
        ];
        for (bytes, inodes, status) in table {
            let report = judge("disk.state", "sandboxes", &Room { at: "/var".into(), bytes, inodes });
            assert_eq!(report.status, status, "{report:?}");
            assert_eq!(report.fix.is_some(), status != CheckStatus::Pass);
        }
    }
}
