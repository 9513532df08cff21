//! The uids that accounts and subordinate ranges of this host take.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use smolvm_model::network::IdRange;

/// A file of accounts that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// The kernel would not.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// It is larger than any real one.
    #[error("{} is larger than {MAX} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// Half a million accounts fit.
const MAX: u64 = 32 << 20;

/// What `/etc/passwd`, `/etc/subuid` and `/etc/subgid` take; a hypervisor's gid is its uid.
pub fn used_ids() -> Result<Vec<IdRange>, AccountsError> {
    let mut ranges: Vec<IdRange> = read(Path::new("/etc/passwd"))?.lines().filter_map(account).collect();
    for path in ["/etc/subuid", "/etc/subgid"] {
        ranges.extend(read(Path::new(path))?.lines().filter_map(subordinate));
    }
    Ok(ranges)
}

/// A file that is not there names nobody.
fn read(path: &Path) -> Result<String, AccountsError> {
    let fail = |source| AccountsError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(fail(e)),
    };
    let mut bytes = Vec::new();
    file.take(MAX + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > MAX {
        return Err(AccountsError::TooLarge { path: path.to_owned() });
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

pub(super) fn account(line: &str) -> Option<IdRange> {
    Some(IdRange { start: line.split(':').nth(2)?.parse().ok()?, count: 1 })
}

pub(super) fn subordinate(line: &str) -> Option<IdRange> {
    let mut fields = line.split(':').skip(1);
    Some(IdRange { start: fields.next()?.parse().ok()?, count: fields.next()?.trim().parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_kinds_and_broken_ones() {
        assert_eq!(account("root:x:0:0:root:/root:/bin/sh"), Some(IdRange { start: 0, count: 1 }));
        assert_eq!(subordinate("joe:100000:65536"), Some(IdRange { start: 100_000, count: 65_536 }));
        for broken in ["", "#", "a:b", "+::::::", "joe:-1:-5", "joe:99999999999:99999999999"] {
            assert_eq!((account(broken), subordinate(broken)), (None, None), "{broken:?}");
        }
    }
}
