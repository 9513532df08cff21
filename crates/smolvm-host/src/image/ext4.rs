//! ext4 file systems in files, made by e2fsprogs without mounting anything.
//!
//! All features are listed here and the host's `mke2fs.conf` is not read, so an image does not depend
//! on the machine it is made on. Left out on purpose: `metadata_csum`, whose CRC of every block a
//! guest under TCG would compute in software, and `resize_inode`, for nothing grows. Time, uuid and
//! hash seed are fixed: the same content gives the same bytes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::namespace::Identity;
use crate::fsx::FsError;
use crate::proc::tool::{Output, Tool, ToolError};

const FEATURES: &str = "ext_attr,dir_index,filetype,extent,large_file,huge_file,dir_nlink,extra_isize,uninit_bg";
/// Copies of the superblock where ext4 usually has them.
const WITH_BACKUPS: &str = "sparse_super";
/// None, with `num_backup_sb=0`.
const WITHOUT_BACKUPS: &str = "sparse_super2";
/// Bitmaps and tables of several groups lie together.
const TOGETHER: &str = "flex_bg";
/// Whatever says when a file was made says this: 2024-01-01, so that tools that dislike 1970 are content.
pub(super) const TIME: &str = "1704067200";
const TIMEOUT: Duration = Duration::from_mins(5);
pub(super) const BLOCK: u64 = 4096;
pub(super) const INODE: u64 = 256;
const GROUP: u64 = 8 * BLOCK;
const DESCRIPTOR: u64 = 32;
/// `mke2fs` leaves out a last group that hardly holds its own two bitmaps, its inodes and 50 blocks more.
const SMALLEST_LAST_GROUP: u64 = 2 + 512 + 50;
/// `/` and, as `mke2fs` makes it, `lost+found`.
const FIRST_DIRECTORIES: u64 = 1 + 4;

/// Why a file system could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Ext4Error {
    /// The disk is full.
    #[error("no space is left for the file system {}: {complaint}", path.display())]
    NoSpace {
        /// The image file.
        path: PathBuf,
        /// What the tool says.
        complaint: String,
    },
    /// e2fsprogs refused.
    #[error("the file system {} cannot be made: {complaint}", path.display())]
    Refused {
        /// The image file.
        path: PathBuf,
        /// What the tool says.
        complaint: String,
    },
    /// `e2fsck` finds faults in what was just made.
    #[error("the file system {} came out broken: {complaint}", path.display())]
    Broken {
        /// The image file.
        path: PathBuf,
        /// What the tool says.
        complaint: String,
    },
    /// A tool could not be run.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] FsError),
}

/// What a file system shall be like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) bytes: u64,
    pub(super) inodes: u64,
    pub(super) journal: Journal,
    pub(super) uuid: &'static str,
}

/// Whether writes are journalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Journal {
    /// Never written to, so never.
    None,
    /// The smallest there is, 4 MiB, and so many blocks left before it for directories that are made at once.
    Small {
        /// How many.
        spare: u64,
    },
}

impl Shape {
    /// The size that holds this many blocks of content and this many inodes, and little more.
    pub(super) fn tight(blocks: u64, inodes: u64, uuid: &'static str) -> Self {
        let inodes = (inodes + 16).next_multiple_of(BLOCK / INODE);
        // lost+found, group descriptors, directory and extent blocks beyond the counted ones.
        let mut total = blocks + blocks / 64 + inodes * INODE / BLOCK + 64;
        // Two bitmaps in each group, a copy of the superblock and descriptors in some.
        total += (total / GROUP + 1) * 4;
        Self { bytes: total * BLOCK, inodes, journal: Journal::None, uuid }
    }

    /// The arguments for `mke2fs`, without the image file.
    pub(super) fn arguments(self) -> Vec<String> {
        let features = match self.journal {
            Journal::None => format!("none,{WITH_BACKUPS},{FEATURES},{TOGETHER}"),
            // One group's worth of metadata at the start, instead of every group's: see `journal_at`.
            Journal::Small { .. } => format!("none,has_journal,{WITHOUT_BACKUPS},{FEATURES}"),
        };
        let mut arguments: Vec<String> = ["-q", "-F", "-b", "4096", "-I", "256", "-m", "0", "-O"].map(str::to_owned).into();
        arguments.push(features);
        arguments.extend(["-N".to_owned(), self.inodes.to_string(), "-U".to_owned(), self.uuid.to_owned(), "-E".to_owned()]);
        let extended = format!("hash_seed={},root_owner=0:0,lazy_journal_init=1", self.uuid);
        match self.journal {
            Journal::None => arguments.push(extended),
            // Copies of the superblock help nobody on a disk that is thrown away.
            Journal::Small { spare } => {
                arguments.push(format!("{extended},num_backup_sb=0"));
                arguments.extend(["-J".to_owned(), format!("size=4,location={}", self.journal_at(spare))]);
            }
        }
        arguments
    }

    /// The block where the journal begins, right behind what else is written in the first group:
    ///
    /// ```text
    ///   superblock, descriptors, two bitmaps, inodes │ (inodes: a hole) │ directories, journal │ (a hole) … bitmap of the last group
    /// ```
    ///
    /// A disk is copied a thousand times, written into and thrown away, and each piece of it that lies apart costs every
    /// copy and every removal an extent: these are 3. With the bitmaps of all groups together and the journal where
    /// `mke2fs` puts it, in the middle, they were 6, and unlinking a thousand such files took two to four times as long.
    fn journal_at(self, spare: u64) -> u64 {
        let blocks = self.bytes / BLOCK;
        let last = u64::from(blocks % GROUP >= SMALLEST_LAST_GROUP);
        let groups = (blocks / GROUP + last).max(1);
        let inodes_each = self.inodes.div_ceil(groups).next_multiple_of(BLOCK / INODE);
        let descriptors = (groups * DESCRIPTOR).div_ceil(BLOCK);
        1 + descriptors + 2 + inodes_each * INODE / BLOCK + FIRST_DIRECTORIES + spare
    }
}

/// The environment in which e2fsprogs gives the same result everywhere.
pub(super) const ENVIRONMENT: [(&str, &str); 2] = [("MKE2FS_CONFIG", "/dev/null"), ("E2FSPROGS_FAKE_TIME", TIME)];

/// Makes an empty file system in a new sparse file.
pub(super) fn format(image: &Path, shape: Shape) -> Result<(), Ext4Error> {
    let kib = shape.bytes / 1024;
    let output = tool("mke2fs").args(shape.arguments()).arg(image).arg(format!("{kib}k")).timeout(TIMEOUT).run()?;
    if output.status.success() { Ok(()) } else { Err(complain(image, &output)) }
}

/// Makes a file system with the content of the directory `tree`, whose owners are taken as `identity` sees them.
pub(super) fn format_from(image: &Path, shape: Shape, tree: &Path, identity: Identity) -> Result<(), Ext4Error> {
    let mke2fs = ENVIRONMENT.iter().fold(identity.tool("mke2fs"), |tool, (key, value)| tool.env(key, value));
    let mke2fs = mke2fs.args(shape.arguments()).arg("-d").arg(tree).arg(image).arg(format!("{}k", shape.bytes / 1024));
    let output = mke2fs.timeout(TIMEOUT).run()?;
    if output.status.success() { Ok(()) } else { Err(complain(image, &output)) }
}

/// Runs `debugfs` commands on it; relative names in them are looked up in `directory`.
///
/// This fills a file system without mounting it and without rights: what it writes belongs to root.
pub(super) fn edit(image: &Path, script: &str, directory: &Path) -> Result<(), Ext4Error> {
    let output = tool("debugfs").args(["-w", "-f", "-"]).arg(image).dir(directory).stdin(script).timeout(TIMEOUT).run()?;
    // Failed commands do not show in its status; apart from a line with its version, it then complains.
    let complaints: Vec<String> = String::from_utf8_lossy(&output.stderr)
        .lines()
        .filter(|l| !l.starts_with("debugfs ") && !l.is_empty())
        .map(str::to_owned)
        .collect();
    if output.status.success() && complaints.is_empty() {
        return Ok(());
    }
    let complaint = complaints.into_iter().take(3).collect::<Vec<_>>().join("; ");
    Err(Ext4Error::Refused { path: image.to_owned(), complaint })
}

/// Has `e2fsck` look through it, changing nothing.
pub(super) fn check(image: &Path) -> Result<(), Ext4Error> {
    let output = tool("e2fsck").args(["-f", "-n"]).arg(image).timeout(TIMEOUT).run()?;
    if output.status.success() {
        return Ok(());
    }
    let text = output.text();
    let complaint = text.lines().filter(|line| !line.starts_with("Pass ")).take(3).collect::<Vec<_>>().join("; ");
    Err(Ext4Error::Broken { path: image.to_owned(), complaint })
}

fn tool(program: &str) -> Tool {
    ENVIRONMENT.iter().fold(Tool::new(program), |tool, (key, value)| tool.env(key, value))
}

fn complain(image: &Path, output: &Output) -> Ext4Error {
    // Without a configuration file it misses names it does not need.
    let complaint = output.complaint();
    let complaint = complaint.split("; ").filter(|line| !line.starts_with("Warning: the fs_type")).collect::<Vec<_>>().join("; ");
    let path = image.to_owned();
    let full = ["No space left on device", "Disk quota exceeded"].iter().any(|phrase| complaint.contains(phrase));
    if full { Ext4Error::NoSpace { path, complaint } } else { Ext4Error::Refused { path, complaint } }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "5a3c0f0e-0000-4000-8000-000000000001";

    #[test]
    fn filled_without_rights_and_the_same_twice() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), vec![7; 10_000]).unwrap();
        let make = |name: &str| {
            let image = dir.path().join(name);
            format(&image, Shape::tight(16, 8, UUID)).unwrap();
            edit(&image, "mkdir etc\nwrite f etc/f\nsif etc/f mode 0100600\nsymlink link etc/f\n", dir.path()).unwrap();
            check(&image).unwrap();
            std::fs::read(image).unwrap()
        };
        let (a, b) = (make("a"), make("b"));
        assert!(a == b, "two builds differ");
        // The second may well have been made within the same second: the time of the last write is ours.
        let written = u32::from_le_bytes(*a[1024 + 0x30..].first_chunk().unwrap());
        assert_eq!(written.to_string(), TIME);
        assert!(a.len() < 512 << 10, "{}", a.len());
    }

    #[test]
    fn failures_of_single_commands_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("i");
        format(&image, Shape::tight(16, 8, UUID)).unwrap();
        for script in ["write absent f\n", "mkdir a/b/c\n", "nonsense\n"] {
            assert!(matches!(edit(&image, script, dir.path()), Err(Ext4Error::Refused { .. })), "{script}");
        }
        std::fs::write(dir.path().join("big"), vec![1; 4 << 20]).unwrap();
        assert!(matches!(edit(&image, "write big big\n", dir.path()), Err(Ext4Error::Refused { .. })));
        assert!(matches!(format(&dir.path().join("no/such"), Shape::tight(16, 8, UUID)), Err(Ext4Error::Refused { .. })));
    }
}
