//! The state directory and the ledger in it.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use smolvm_host::store::{BrokenRow, SCHEMA_VERSION, Store, StoreError};

use super::report::{CheckReport, chain, count};
use crate::installation::Smolvm;

const DIRECTORY: &str = "state.directory";
const DATABASE: &str = "state.database";
const ROWS: &str = "state.rows";

pub(super) fn look_directory(vm: &Smolvm) -> Vec<CheckReport> {
    let dir = &vm.paths().state;
    vec![judge_directory(dir, &directory(dir), rustix::process::geteuid().as_raw())]
}

/// The state directory as it is found.
#[derive(Debug)]
enum Directory {
    /// Not made yet.
    Absent {
        /// The nearest directory that is there.
        parent: PathBuf,
        writable: bool,
    },
    Present {
        is_dir: bool,
        uid: u32,
        mode: u32,
        writable: bool,
    },
    Unreadable(std::io::Error),
}

fn directory(path: &Path) -> Directory {
    let writable = |path: &Path| access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    match std::fs::metadata(path) {
        Ok(meta) => Directory::Present { is_dir: meta.is_dir(), uid: meta.uid(), mode: meta.mode() & 0o7777, writable: writable(path) },
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let parent = path.ancestors().skip(1).find(|p| p.exists()).unwrap_or(Path::new("/"));
            Directory::Absent { parent: parent.to_owned(), writable: writable(parent) }
        }
        Err(e) => Directory::Unreadable(e),
    }
}

fn judge_directory(path: &Path, found: &Directory, own_uid: u32) -> CheckReport {
    let shown = path.display();
    let remount = |at: &Path| format!("ls -ld {0}; findmnt -T {0}   shows who owns it and whether it is mounted read-only", at.display());
    match found {
        Directory::Absent { writable: true, .. } => {
            CheckReport::pass(DIRECTORY, "not made yet: the first sandbox makes it", shown.to_string())
        }
        Directory::Absent { parent, writable: false } => {
            CheckReport::fail(DIRECTORY, "it cannot be made", format!("{shown}: {} cannot be written", parent.display()))
                .mended_by(remount(parent))
        }
        Directory::Unreadable(e) => {
            CheckReport::fail(DIRECTORY, "it cannot be looked at", format!("{shown}: {e}")).mended_by(remount(path))
        }
        Directory::Present { is_dir: false, .. } => {
            CheckReport::fail(DIRECTORY, "something that is no directory lies in its place", shown.to_string())
                .mended_by(format!("mv {shown} {shown}.away"))
        }
        Directory::Present { uid, .. } if *uid != own_uid => {
            CheckReport::fail(DIRECTORY, "it belongs to somebody else", format!("{shown}: uid {uid}, and this is uid {own_uid}"))
                .mended_by(format!("sudo chown -R {own_uid} {shown}"))
        }
        Directory::Present { writable: false, .. } => {
            CheckReport::fail(DIRECTORY, "it cannot be written", shown.to_string()).mended_by(remount(path))
        }
        Directory::Present { mode, .. } if mode & 0o077 != 0 => {
            CheckReport::warn(DIRECTORY, "others can look into it", format!("{shown}: mode {mode:04o}"))
                .mended_by(format!("chmod 0700 {shown}"))
        }
        Directory::Present { mode, .. } => CheckReport::pass(DIRECTORY, "private and writable", format!("{shown}: mode {mode:04o}")),
    }
}

pub(super) fn look_database(vm: &Smolvm) -> Vec<CheckReport> {
    let path = vm.paths().database();
    let head = head(&path);
    // A ledger of another version is not opened: opening an older one would convert it.
    let opened = match &head {
        Head::Version(version) if *version == SCHEMA_VERSION => open(&path),
        Head::Absent | Head::Empty | Head::Version(_) | Head::Garbage | Head::Unreadable(_) => None,
    };
    let mut reports = vec![judge_database(&path, &head, opened.as_ref().map(|o| o.as_ref().map(|rows| rows.sandboxes)))];
    if let Some(Ok(rows)) = &opened {
        reports.push(judge_rows(&rows.broken));
    }
    reports
}

/// What stands in the first bytes of the file.
#[derive(Debug)]
enum Head {
    Absent,
    /// A file of no bytes: `SQLite` takes it for a new database.
    Empty,
    Version(i64),
    Garbage,
    Unreadable(std::io::Error),
}

struct Rows {
    sandboxes: usize,
    broken: Vec<BrokenRow>,
}

/// Reads version and magic without `SQLite`, which takes locks and makes files.
fn head(path: &Path) -> Head {
    const MAGIC: &[u8; 16] = b"SQLite format 3\0";
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(100).read_to_end(&mut bytes)) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Head::Absent,
        Err(e) => return Head::Unreadable(e),
        Ok(0) => return Head::Empty,
        Ok(_) => {}
    }
    match (bytes.starts_with(MAGIC), bytes.get(60..64).and_then(|v| <[u8; 4]>::try_from(v).ok())) {
        (true, Some(version)) if bytes.len() == 100 => Head::Version(i64::from(i32::from_be_bytes(version))),
        _ => Head::Garbage,
    }
}

fn open(path: &Path) -> Option<Result<Rows, StoreError>> {
    let read = || -> Result<Option<Rows>, StoreError> {
        let Some(store) = Store::open_existing(path)? else { return Ok(None) };
        let table = store.table()?;
        Ok(Some(Rows { sandboxes: table.sandboxes.len(), broken: table.broken }))
    };
    read().transpose()
}

fn judge_database(path: &Path, head: &Head, opened: Option<Result<usize, &StoreError>>) -> CheckReport {
    let shown = path.display().to_string();
    let set_aside = || "smolvm doctor --fix   sets it aside; then smolvm cleanup --all   removes by their marks what it knew".to_owned();
    match (head, opened) {
        (Head::Absent | Head::Empty, _) => CheckReport::pass(DATABASE, "none yet: the first sandbox makes it", shown),
        (Head::Unreadable(e), _) => {
            CheckReport::fail(DATABASE, "it cannot be read", format!("{shown}: {e}")).mended_by(format!("ls -l {shown}"))
        }
        (Head::Garbage, _) => CheckReport::fail(DATABASE, "it is damaged", format!("{shown} is no SQLite database")).mended_by(set_aside()),
        (Head::Version(found), _) if *found > SCHEMA_VERSION => {
            let evidence = format!("{shown} has version {found}, and this smolvm knows up to {SCHEMA_VERSION}");
            CheckReport::fail(DATABASE, "a newer smolvm made it", evidence).mended_by("smolvm version   use the newer smolvm that made it")
        }
        (Head::Version(_), Some(Ok(sandboxes))) => {
            CheckReport::pass(DATABASE, format!("version {SCHEMA_VERSION}, {}", count(sandboxes, "sandbox", "sandboxes")), shown)
        }
        (Head::Version(_), Some(Err(e @ StoreError::Busy))) => {
            CheckReport::warn(DATABASE, "another process keeps it locked", chain(e)).mended_by(format!("fuser -v {shown}"))
        }
        (Head::Version(_), Some(Err(e @ (StoreError::Open { .. } | StoreError::ReadOnly | StoreError::Full)))) => {
            CheckReport::fail(DATABASE, "it cannot be opened for writing", chain(e)).mended_by(format!("ls -l {shown}; findmnt -T {shown}"))
        }
        (Head::Version(_), Some(Err(e))) => CheckReport::fail(DATABASE, "it is damaged", chain(e)).mended_by(set_aside()),
        (Head::Version(found), None) => {
            CheckReport::pass(DATABASE, format!("version {found}; the next command converts it to {SCHEMA_VERSION}"), shown)
        }
    }
}

fn judge_rows(broken: &[BrokenRow]) -> CheckReport {
    let Some(first) = broken.first() else {
        return CheckReport::pass(ROWS, "every row of the ledger is a valid sandbox", "");
    };
    // The text is a stranger's: shown with everything unprintable escaped, and not all of it.
    let id: String = first.raw_id.chars().take(60).collect();
    let problem: String = first.problem.chars().take(120).collect();
    let more = if broken.len() > 1 { format!(", and {} more", broken.len() - 1) } else { String::new() };
    CheckReport::fail(
        ROWS,
        format!("{} no valid sandbox", count(broken.len(), "row of the ledger is", "rows of the ledger are")),
        format!("{id:?}: {}{more}", problem.escape_debug()),
    )
    .mended_by("smolvm doctor --fix   drops them and touches no file")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::CheckStatus;

    #[test]
    fn directories() {
        let present = |uid, mode, writable| Directory::Present { is_dir: true, uid, mode, writable };
        let denied = || std::io::Error::from(ErrorKind::PermissionDenied);
        let table = [
            (Directory::Absent { parent: "/v".into(), writable: true }, CheckStatus::Pass),
            (Directory::Absent { parent: "/v".into(), writable: false }, CheckStatus::Fail),
            (present(7, 0o700, true), CheckStatus::Pass),
            (present(7, 0o755, true), CheckStatus::Warn),
            (present(7, 0o700, false), CheckStatus::Fail),
            (present(8, 0o700, true), CheckStatus::Fail),
            (Directory::Present { is_dir: false, uid: 7, mode: 0o700, writable: true }, CheckStatus::Fail),
            (Directory::Unreadable(denied()), CheckStatus::Fail),
        ];
        for (found, status) in table {
            let report = judge_directory(Path::new("/v/state"), &found, 7);
            assert_eq!((report.status, report.fix.is_some()), (status, status != CheckStatus::Pass), "{found:?}");
        }
    }

    #[test]
    fn databases() {
        let path = Path::new("/v/state.db");
        let judge = |head: Head, opened: Option<Result<usize, &StoreError>>| judge_database(path, &head, opened);
        assert_eq!(judge(Head::Absent, None).status, CheckStatus::Pass);
        assert_eq!(judge(Head::Version(SCHEMA_VERSION), Some(Ok(3))).summary, "version 1, 3 sandboxes");
        let newer = judge(Head::Version(SCHEMA_VERSION + 1), None);
        assert_eq!((newer.status, newer.fix.unwrap().contains("newer")), (CheckStatus::Fail, true));
        let garbage = judge(Head::Garbage, None);
        assert!(garbage.fix.unwrap().starts_with("smolvm doctor --fix"));
        assert_eq!(judge(Head::Version(SCHEMA_VERSION), Some(Err(&StoreError::Busy))).status, CheckStatus::Warn);
        assert_eq!(judge(Head::Version(SCHEMA_VERSION), Some(Err(&StoreError::ReadOnly))).status, CheckStatus::Fail);
        assert_eq!(judge(Head::Unreadable(ErrorKind::PermissionDenied.into()), None).status, CheckStatus::Fail);
    }

    #[test]
    fn a_hostile_row_is_shown_harmlessly() {
        let row = BrokenRow {
            raw_id: format!("../..\n\u{1b}[2J{}", "x".repeat(500)),
            problem: "\u{1b}]0;x\u{7}".to_owned(),
            place: smolvm_host::store::BrokenPlace::Sandbox,
        };
        let report = judge_rows(&[row]);
        assert_eq!(report.status, CheckStatus::Fail);
        assert!(!report.evidence.contains(['\n', '\u{1b}', '\u{7}']) && report.evidence.len() < 300, "{:?}", report.evidence);
    }

    #[test]
    fn the_head_of_a_file_is_read_without_sqlite() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        assert!(matches!(head(&path), Head::Absent));
        std::fs::write(&path, "").unwrap();
        assert!(matches!(head(&path), Head::Empty));
        std::fs::write(&path, "SQLite format 3\0 but short").unwrap();
        assert!(matches!(head(&path), Head::Garbage));
        std::fs::remove_file(&path).unwrap();
        drop(Store::open(&path).unwrap());
        assert!(matches!(head(&path), Head::Version(v) if v == SCHEMA_VERSION));
        assert!(matches!(head(dir.path()), Head::Unreadable(_)));
    }
}
