//! Everything the child needs, laid out in memory before it exists.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::{CString, c_char, c_int};
use std::fmt::Write as _;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::order;
use super::spawn::{JailError, JailFile, JailIdentity, JailSpec};

/// Where the host's files are while the child still sees them.
const HOST: &str = "/host";
/// What becomes the program's root.
const ROOT: &str = "/jail";

/// A file to bind.
#[derive(Debug)]
pub(super) struct Bind {
    pub source: CString,
    pub target: CString,
    pub executable: bool,
}

/// A device node to bind; `tree` is the detached mount while the child is at it.
#[derive(Debug)]
pub(super) struct Device {
    pub source: CString,
    pub target: CString,
    pub tree: Cell<c_int>,
}

/// The text of the two id maps of a user namespace.
#[derive(Debug)]
pub(super) struct IdMaps {
    pub uid: Vec<u8>,
    pub gid: Vec<u8>,
}

/// The child's instructions.
#[derive(Debug)]
pub(super) struct Plan {
    pub dirs: Vec<CString>,
    pub files: Vec<Bind>,
    pub devices: Vec<Device>,
    pub limits: Vec<(u32, u64)>,
    pub huge_pages: bool,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub id_maps: Option<IdMaps>,
    pub landlock: Option<c_int>,
    pub opens: Option<c_int>,
    pub status: c_int,
    pub orders: c_int,
    /// Set by the child once its own descriptors stand at their numbers.
    pub moved: Cell<bool>,
    pub program: CString,
    /// Room for the arguments, and for what points to them.
    pub text: Box<[Cell<u8>]>,
    pub argv: Box<[Cell<*const c_char>]>,
    pub envp: [*const c_char; 1],
}

/// The descriptors the plan names besides the caller's.
pub(super) struct Pipes<'a> {
    pub status: BorrowedFd<'a>,
    pub orders: BorrowedFd<'a>,
    pub landlock: Option<BorrowedFd<'a>>,
    pub opens: Option<BorrowedFd<'a>>,
}

impl Plan {
    pub(super) fn new(spec: &JailSpec, identity: JailIdentity, pipes: &Pipes<'_>) -> Result<Self, JailError> {
        let mut dirs = BTreeSet::new();
        let mut bind = |file: &JailFile| -> Result<Bind, JailError> {
            let target = beneath(ROOT, &file.target)?;
            add_parents(&mut dirs, &file.target)?;
            Ok(Bind { source: beneath(HOST, &file.source)?, target, executable: file.executable })
        };
        let files = spec.files.iter().map(&mut bind).collect::<Result<Vec<_>, _>>()?;
        let mut devices = Vec::new();
        for path in &spec.devices {
            add_parents(&mut dirs, path)?;
            devices.push(Device { source: beneath(HOST, path)?, target: beneath(ROOT, path)?, tree: Cell::new(-1) });
        }
        let (uid, gid) = match identity {
            JailIdentity::Uid(uid) => (uid, uid),
            JailIdentity::Caller => (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
        };
        let id_maps = (identity == JailIdentity::Caller)
            .then(|| IdMaps { uid: format!("{uid} {uid} 1").into_bytes(), gid: format!("{gid} {gid} 1").into_bytes() });
        Ok(Self {
            dirs: dirs.into_iter().map(|d| c_string(d.as_bytes())).collect::<Result<_, _>>()?,
            files,
            devices,
            limits: spec.limits.table(),
            huge_pages: spec.huge_pages,
            uid,
            gid,
            groups: spec.groups.clone(),
            id_maps,
            landlock: pipes.landlock.map(|fd| fd.as_raw_fd()),
            opens: pipes.opens.map(|fd| fd.as_raw_fd()),
            status: pipes.status.as_raw_fd(),
            orders: pipes.orders.as_raw_fd(),
            moved: Cell::new(false),
            program: absolute(&spec.program)?,
            text: vec![Cell::new(0); order::MOST_TEXT].into(),
            // One more stays null, and ends the list.
            argv: vec![Cell::new(std::ptr::null()); order::MOST_WORDS + 1].into(),
            envp: [std::ptr::null()],
        })
    }
}

fn c_string(bytes: &[u8]) -> Result<CString, JailError> {
    CString::new(bytes).map_err(|_| JailError::NulByte)
}

/// A path that means the same whatever the working directory, and leads nowhere else by `..`.
fn absolute(path: &Path) -> Result<CString, JailError> {
    let plain = path.is_absolute() && path.components().all(|c| !matches!(c, std::path::Component::ParentDir));
    if plain { c_string(path.as_os_str().as_bytes()) } else { Err(JailError::PathNotPlain { path: path.to_owned() }) }
}

fn beneath(base: &str, path: &Path) -> Result<CString, JailError> {
    let path = absolute(path)?;
    c_string(&[base.as_bytes(), path.as_bytes()].concat())
}

/// Adds every directory above `path`; sorted order makes parents come first.
fn add_parents(dirs: &mut BTreeSet<String>, path: &Path) -> Result<(), JailError> {
    let parent = path.parent().ok_or_else(|| JailError::PathNotPlain { path: path.to_owned() })?;
    let mut dir = ROOT.to_owned();
    for part in parent.components().skip(1) {
        let part = part.as_os_str().to_str().ok_or_else(|| JailError::PathNotPlain { path: path.to_owned() })?;
        let _ = write!(dir, "/{part}");
        dirs.insert(dir.clone());
    }
    Ok(())
}
