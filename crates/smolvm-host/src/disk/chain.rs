//! Which files a disk consists of: what their names say.

use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::fsx::FsError;

/// The files of one disk: the lowest, and the numbers of those above it, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    lowest: PathBuf,
    above: Vec<u32>,
}

impl Chain {
    /// Looks which files there are of the disk whose lowest is `lowest`.
    pub fn read(lowest: &Path) -> Result<Self, FsError> {
        let odd = || FsError::on("use", lowest)(ErrorKind::InvalidInput.into());
        let (parent, name) = (lowest.parent().ok_or_else(odd)?, lowest.file_name().and_then(|name| name.to_str()).ok_or_else(odd)?);
        std::fs::symlink_metadata(lowest).map_err(FsError::on("look at", lowest))?;
        let mut above = Vec::new();
        for entry in std::fs::read_dir(parent).map_err(FsError::on("read", parent))? {
            let entry = entry.map_err(FsError::on("read", parent))?.file_name();
            above.extend(entry.to_str().and_then(|entry| number_in(name, entry)));
        }
        above.sort_unstable();
        Ok(Self { lowest: lowest.to_owned(), above })
    }

    /// The one of these numbers, which somebody says who has them open; 0 is the lowest.
    pub fn of(lowest: &Path, numbers: &[u32]) -> Option<Self> {
        let rising = numbers.windows(2).all(|pair| pair[0] < pair[1]);
        let above = numbers.strip_prefix(&[0]).filter(|_| rising)?.to_vec();
        Some(Self { lowest: lowest.to_owned(), above })
    }

    /// The numbers of its files, the lowest first.
    pub fn numbers(&self) -> Vec<u32> {
        std::iter::once(0).chain(self.above.iter().copied()).collect()
    }

    /// How many files.
    pub fn depth(&self) -> usize {
        self.above.len() + 1
    }

    /// The number of the highest.
    pub fn top(&self) -> u32 {
        self.above.last().copied().unwrap_or(0)
    }

    /// Where the layer of that number lies, if there is one.
    pub fn path(&self, number: u32) -> PathBuf {
        layer_path(&self.lowest, number)
    }

    /// All of them, the lowest first.
    pub fn files(&self) -> Vec<PathBuf> {
        self.numbers().into_iter().map(|number| self.path(number)).collect()
    }

    /// The same without those of these numbers.
    #[must_use]
    pub fn without(&self, numbers: &[u32]) -> Self {
        Self { lowest: self.lowest.clone(), above: self.above.iter().copied().filter(|number| !numbers.contains(number)).collect() }
    }

    /// Whether somebody else reads the highest: then it must not be written to.
    pub fn is_shared(&self) -> Result<bool, FsError> {
        let top = self.path(self.top());
        Ok(std::fs::symlink_metadata(&top).map_err(FsError::on("look at", &top))?.nlink() > 1)
    }

    /// Disk that its files take, whoever else uses them.
    pub fn blocks(&self) -> u64 {
        self.files().iter().map(|path| std::fs::symlink_metadata(path).map_or(0, |file| file.blocks() * 512)).sum()
    }

    /// The same without the lowest.
    pub fn blocks_above(&self) -> u64 {
        self.blocks().saturating_sub(std::fs::symlink_metadata(&self.lowest).map_or(0, |file| file.blocks() * 512))
    }

    /// Brings the highest to the disk, as far as it is written.
    pub fn sync_top(&self) -> Result<(), FsError> {
        sync(&self.path(self.top()))
    }

    /// The same of all its files. One that has reached the disk already costs nothing.
    pub fn sync(&self) -> Result<(), FsError> {
        self.files().iter().try_for_each(|path| sync(path))
    }
}

fn sync(path: &Path) -> Result<(), FsError> {
    File::open(path).and_then(|file| file.sync_data()).map_err(FsError::on("sync", path))
}

/// The file of that number of the disk with this lowest one.
pub(super) fn layer_path(lowest: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return lowest.to_owned();
    }
    let mut name = lowest.file_name().map_or_else(OsString::new, OsString::from);
    name.push(format!(".{number}"));
    lowest.with_file_name(name)
}

/// The number in the name of a layer, written in one way only.
fn number_in(lowest: &str, name: &str) -> Option<u32> {
    let digits = name.strip_prefix(lowest)?.strip_prefix('.')?;
    let plain = digits.starts_with(|c: char| ('1'..='9').contains(&c)) && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_what_the_names_say_in_the_order_of_their_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let lowest = dir.path().join("data.img");
        assert_eq!(Chain::read(&lowest).unwrap_err().source.kind(), ErrorKind::NotFound);
        for name in [
            "data.img",
            "data.img.10",
            "data.img.9",
            "data.img.new",
            "data.img.01",
            "data.img.0",
            "data.img.+3",
            "other.4",
            "data.img.4294967296",
        ] {
            File::create(dir.path().join(name)).unwrap();
        }
        let chain = Chain::read(&lowest).unwrap();
        assert_eq!((chain.numbers(), chain.top(), chain.depth()), (vec![0, 9, 10], 10, 3));
        assert_eq!(chain.files(), ["data.img", "data.img.9", "data.img.10"].map(|name| dir.path().join(name)));
        assert_eq!(chain.without(&[9]).numbers(), [0, 10]);
        assert!(!chain.is_shared().unwrap());
        std::fs::hard_link(dir.path().join("data.img.10"), dir.path().join("elsewhere")).unwrap();
        assert!(chain.is_shared().unwrap());
    }

    #[test]
    fn what_a_monitor_says_is_a_chain_or_none() {
        let lowest = Path::new("/x/data.img");
        assert_eq!(Chain::of(lowest, &[0, 2, 7]).unwrap().numbers(), [0, 2, 7]);
        for odd in [&[][..], &[1], &[0, 0], &[0, 3, 2]] {
            assert_eq!(Chain::of(lowest, odd), None, "{odd:?}");
        }
    }
}
