//! Finds the kernel proper inside a bzImage.
//!
//! ```text
//!   0x000 boot sector … 0x1f1 setup header … │ (setup_sects+1)*512: protected-mode code
//!                        ├ 0x1f1 setup_sects │   └ + payload_offset: packed vmlinux, payload_length bytes
//!                        ├ 0x202 "HdrS"      │
//!                        ├ 0x206 version     │   (both fields since boot protocol 2.08)
//!                        └ 0x248, 0x24c      │
//! ```

use super::lz4::{self, Lz4Error};

/// The boot protocol that introduced the payload fields.
const PAYLOAD_SINCE: u16 = 0x0208;

/// How a kernel is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadFormat {
    /// Not at all.
    Elf,
    /// LZ4 legacy frame: Debian's 6.1.
    Lz4,
    /// Zstandard: Debian's 6.12.
    Zstd,
    /// gzip.
    Gzip,
    /// xz.
    Xz,
    /// bzip2.
    Bzip2,
    /// LZMA.
    Lzma,
    /// LZO.
    Lzo,
    /// None of those.
    Unknown,
}

/// Why there is no kernel in a file.
#[derive(Debug, thiserror::Error)]
pub enum BzImageError {
    /// It is no bzImage.
    #[error("it has no Linux boot header")]
    NoHeader,
    /// It is one of before 2008.
    #[error("its boot protocol {}.{:02} does not say where the kernel is", version >> 8, version & 0xff)]
    TooOld {
        /// The protocol's version.
        version: u16,
    },
    /// The header leads outside the file.
    #[error("its header places the kernel at byte {start} with {length} bytes, and the file has {size}")]
    OutOfBounds {
        /// Where the kernel shall begin.
        start: u64,
        /// How long it shall be.
        length: u32,
        /// What the file has.
        size: usize,
    },
    /// It is packed in a way that is not supported.
    #[error("its kernel is packed as {}, which is not supported", format.name())]
    Unsupported {
        /// The way.
        format: PayloadFormat,
    },
    /// The LZ4 frame is broken.
    #[error("its kernel does not unpack")]
    Lz4(#[source] Lz4Error),
}

impl PayloadFormat {
    /// By the first bytes.
    fn of(payload: &[u8]) -> Self {
        const MAGICS: [(&[u8], PayloadFormat); 8] = [
            (b"\x7fELF", PayloadFormat::Elf),
            (&lz4::MAGIC, PayloadFormat::Lz4),
            (b"\x28\xb5\x2f\xfd", PayloadFormat::Zstd),
            (b"\x1f\x8b", PayloadFormat::Gzip),
            (b"\xfd7zXZ\0", PayloadFormat::Xz),
            (b"BZh", PayloadFormat::Bzip2),
            (b"\x5d\0\0", PayloadFormat::Lzma),
            (b"\x89LZO", PayloadFormat::Lzo),
        ];
        MAGICS.iter().find(|(magic, _)| payload.starts_with(magic)).map_or(Self::Unknown, |(_, format)| *format)
    }

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Elf => "plain ELF",
            Self::Lz4 => "LZ4",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "LZMA",
            Self::Lzo => "LZO",
            Self::Unknown => "something unknown",
        }
    }
}

/// The unpacked kernel.
pub(super) fn unpack(image: &[u8]) -> Result<Vec<u8>, BzImageError> {
    let payload = payload(image)?;
    match PayloadFormat::of(payload) {
        PayloadFormat::Elf => Ok(payload.to_vec()),
        PayloadFormat::Lz4 => lz4::unpack(payload).map_err(BzImageError::Lz4),
        format => Err(BzImageError::Unsupported { format }),
    }
}

/// The packed kernel, still packed.
fn payload(image: &[u8]) -> Result<&[u8], BzImageError> {
    if array::<2>(image, 0x1fe) != Some([0x55, 0xaa]) || array::<4>(image, 0x202) != Some(*b"HdrS") {
        return Err(BzImageError::NoHeader);
    }
    let version = u16::from_le_bytes(array(image, 0x206).ok_or(BzImageError::NoHeader)?);
    if version < PAYLOAD_SINCE {
        return Err(BzImageError::TooOld { version });
    }
    let [sectors] = array(image, 0x1f1).ok_or(BzImageError::NoHeader)?;
    let offset = u32::from_le_bytes(array(image, 0x248).ok_or(BzImageError::NoHeader)?);
    let length = u32::from_le_bytes(array(image, 0x24c).ok_or(BzImageError::NoHeader)?);
    // Zero means four, for reasons from 1991.
    let sectors = if sectors == 0 { 4 } else { u64::from(sectors) };
    let start = (sectors + 1) * 512 + u64::from(offset);
    let range = usize::try_from(start).ok().zip(usize::try_from(start + u64::from(length)).ok());
    range.and_then(|(start, end)| image.get(start..end)).ok_or(BzImageError::OutOfBounds { start, length, size: image.len() })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A bzImage with two setup sectors and this payload, 16 bytes into the code.
    pub(crate) fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 3 * 512 + 16];
        image[0x1f1] = 2;
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        image.extend(payload);
        image
    }

    #[test]
    fn a_plain_kernel_comes_out() {
        assert_eq!(unpack(&image(b"\x7fELF rest")).unwrap(), b"\x7fELF rest");
    }

    #[test]
    fn other_packings_are_named() {
        let error = unpack(&image(b"\x28\xb5\x2f\xfd....")).unwrap_err();
        assert!(matches!(error, BzImageError::Unsupported { format: PayloadFormat::Zstd }));
        assert_eq!(error.to_string(), "its kernel is packed as zstd, which is not supported");
        assert!(matches!(unpack(&image(b"")), Err(BzImageError::Unsupported { format: PayloadFormat::Unknown })));
    }

    #[test]
    fn hostile_headers_are_refused() {
        assert!(matches!(unpack(b""), Err(BzImageError::NoHeader)));
        assert!(matches!(unpack(&[0; 4096]), Err(BzImageError::NoHeader)));
        assert!(matches!(unpack(&image(b"\x7fELF")[..0x203]), Err(BzImageError::NoHeader)));
        assert!(matches!(unpack(&image(b"\x7fELF")[..0x24e]), Err(BzImageError::NoHeader)));
        let with = |at: usize, bytes: &[u8]| {
            let mut image = image(b"\x7fELF");
            image[at..at + bytes.len()].copy_from_slice(bytes);
            image
        };
        assert!(matches!(unpack(&with(0x206, &[7, 2])), Err(BzImageError::TooOld { version: 0x0207 })));
        for (at, bytes) in [(0x1f1, &[0xff_u8][..]), (0x248, &[0xff; 4]), (0x24c, &[0xff; 4]), (0x248, &[0xff; 8]), (0x24c, &[5, 0, 0, 0])]
        {
            assert!(matches!(unpack(&with(at, bytes)), Err(BzImageError::OutOfBounds { .. })), "{at:#x}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(fields in proptest::collection::vec((0x1f1_usize..0x260, any::<u8>()), 0..40), tail in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut bytes = image(&tail);
            for (at, value) in fields {
                bytes[at] = value;
            }
            let _ = unpack(&bytes);
        }
    }
}
