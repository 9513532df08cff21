//! A newc archive (`cpio -H newc`), as the kernel unpacks it, the same bytes for the same content.
//!
//! No time, no owner but root, no inode number that depends on the host.

/// An archive being written.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_000;
const CHARACTER: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;

/// A file is longer than the format can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a file in an initramfs has less than 4 GiB")]
pub struct TooLong;

impl Archive {
    /// Adds an empty directory.
    pub(super) fn directory(&mut self, path: &str, mode: u32) -> Result<(), TooLong> {
        self.entry(path, DIRECTORY | mode, 2, (0, 0), b"").map(drop)
    }

    /// Adds a file; gives back where its content begins.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<u64, TooLong> {
        self.entry(path, REGULAR | mode, 1, (0, 0), content)
    }

    /// Adds a character device.
    pub(super) fn device(&mut self, path: &str, mode: u32, major: u32, minor: u32) -> Result<(), TooLong> {
        self.entry(path, CHARACTER | mode, 1, (major, minor), b"").map(drop)
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> Result<Vec<u8>, TooLong> {
        self.entry("TRAILER!!!", 0, 1, (0, 0), b"")?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &str, mode: u32, links: u32, device: (u32, u32), content: &[u8]) -> Result<u64, TooLong> {
        let length = u32::try_from(content.len()).map_err(|_| TooLong)?;
        let name_length = u32::try_from(path.len() + 1).map_err(|_| TooLong)?;
        self.entries += 1;
        let (uid, gid, mtime, checksum) = (0, 0, 0, 0);
        let fields = [self.entries, mode, uid, gid, links, mtime, length, 0, 0, device.0, device.1, name_length, checksum];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        let at = self.bytes.len() as u64;
        self.bytes.extend(content);
        self.pad();
        Ok(at)
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Path, mode, device and content.
    pub(crate) type Entry = (String, u32, (u32, u32), Vec<u8>);

    /// Every entry, read back.
    pub(crate) fn read_back(mut bytes: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |n: usize| u32::from_str_radix(std::str::from_utf8(&bytes[6 + n * 8..14 + n * 8]).unwrap(), 16).unwrap();
            let (mode, length, name_length) = (field(1), field(6) as usize, field(11) as usize);
            assert_eq!((field(2), field(3), field(5), field(12)), (0, 0, 0, 0), "owner, time and checksum are zero");
            let device = (field(9), field(10));
            let name = String::from_utf8(bytes[110..110 + name_length - 1].to_vec()).unwrap();
            let start = (110 + name_length).next_multiple_of(4);
            let content = bytes[start..start + length].to_vec();
            bytes = &bytes[(start + length).next_multiple_of(4)..];
            if name == "TRAILER!!!" {
                assert!(bytes.is_empty());
                return entries;
            }
            entries.push((name, mode, device, content));
        }
    }

    #[test]
    fn what_goes_in_comes_out() {
        let mut archive = Archive::default();
        archive.directory("dev", 0o755).unwrap();
        archive.device("dev/console", 0o600, 5, 1).unwrap();
        let at = archive.file("init", 0o755, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(&bytes[usize::try_from(at).unwrap()..][..5], b"hello");
        assert_eq!(
            read_back(&bytes),
            [
                ("dev".into(), 0o040_755, (0, 0), vec![]),
                ("dev/console".into(), 0o020_600, (5, 1), vec![]),
                ("init".into(), 0o100_755, (0, 0), b"hello".to_vec())
            ]
        );
    }
}
