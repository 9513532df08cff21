//! A newc archive of a few programs: the initramfs of a guest that is not smolvm's.

const DIRECTORY: u32 = 0o040_755;
const CHARACTER: u32 = 0o020_600;
const PROGRAM: u32 = 0o100_755;

/// What goes into it.
pub(super) struct File {
    path: String,
    mode: u32,
    content: Vec<u8>,
}

impl File {
    pub(super) fn program(path: &str, content: Vec<u8>) -> Self {
        Self { path: path.to_owned(), mode: PROGRAM, content }
    }

    pub(super) fn directory(path: &str) -> Self {
        Self { path: path.to_owned(), mode: DIRECTORY, content: Vec::new() }
    }
}

/// The files, and `/dev/console` for `/init` to write to.
pub(super) fn archive(files: &[File]) -> Vec<u8> {
    let mut out = Vec::new();
    entry(&mut out, "dev", DIRECTORY, (0, 0), &[]);
    entry(&mut out, "dev/console", CHARACTER, (5, 1), &[]);
    for file in files {
        entry(&mut out, &file.path, file.mode, (0, 0), &file.content);
    }
    entry(&mut out, "TRAILER!!!", 0, (0, 0), &[]);
    out
}

fn entry(out: &mut Vec<u8>, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
    let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
    let name_size = u32::try_from(name.len()).unwrap_or(u32::MAX) + 1;
    // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    let fields = [u32::try_from(out.len()).unwrap_or(0), mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(content);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    while !out.len().is_multiple_of(4) {
        out.push(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_aligned_and_the_end_is_marked() {
        let archive = archive(&[File::program("init", b"abcde".to_vec())]);
        assert_eq!(archive.len() % 4, 0);
        assert!(archive.starts_with(b"070701"));
        let at = archive.windows(5).position(|w| w == b"abcde").unwrap();
        assert_eq!(at % 4, 0);
        assert!(archive.windows(10).any(|w| w == b"TRAILER!!!"));
    }
}
