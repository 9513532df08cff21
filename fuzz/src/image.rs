//! What guests boot from: apt's answers, manifests, the kernel's own formats.

use smolvm_host::fuzzing::image;
use smolvm_host::fuzzing::image::{apt as packages, kernel};

use crate::input;

/// Nothing of the host's sources leaves its line or its quotation, and an answer of apt's names one file in one directory.
pub(crate) fn apt(bytes: &[u8]) {
    let (which, rest) = input::choice(bytes);
    let text = String::from_utf8_lossy(rest);
    let name = match which % 3 {
        0 => "x.list",
        1 => "x.sources",
        _ => {
            if let Some((file, size, digest)) = packages::candidate(&text) {
                assert!(!file.contains('/') && !file.starts_with('.') && file.ends_with(".deb"), "{file:?}");
                assert!(size <= 512 << 20 && digest.len() == 71);
            }
            assert!(!packages::is_package_name(&text) || !text.starts_with('-') && !text.contains(['=', '/', ' ']));
            let counted = image::counted(&text);
            assert!(counted.is_none_or(|(blocks, inodes)| blocks < 1 << 40 && inodes < 1 << 40));
            return;
        }
    };
    let (used, lines, guests) = packages::sources(name, &text, "bookworm");
    assert_eq!(lines.lines().count(), used);
    for line in lines.lines() {
        let rest = line.strip_prefix("deb [arch=amd64 signed-by=/k.gpg] ").expect("held to our keyring");
        let words: Vec<&str> = rest.split(' ').collect();
        assert!(matches!(words.as_slice(), [_, suite, "main"] if suite.starts_with("bookworm") || suite.starts_with("stable")), "{line:?}");
        assert!(rest.bytes().all(|b| b == b' ' || (b.is_ascii_graphic() && !b"[]#\"'\\".contains(&b))), "{line:?}");
    }
    for line in guests.lines().filter(|line| !line.is_empty()) {
        let fields = ["Types: deb", "URIs: http", "Suites: ", "Components: main", "Signed-By: /k.gpg"];
        assert!(fields.iter().any(|field| line.starts_with(field)), "{line:?}");
    }
}

/// A manifest that was read and written is read the same; the files it names lie in its directory.
pub(crate) fn manifests(bytes: &[u8]) {
    let (which, rest) = input::choice(bytes);
    let path = input::file("manifest.json", rest);
    if which % 2 == 0 {
        if let Ok(written) = image::image_manifest(&path) {
            let again = image::image_manifest(&input::file("again.json", &written)).expect("what was written can be read");
            assert_eq!(again, written);
        }
    } else if let Ok((written, modules)) = kernel::kernel_manifest(&path) {
        let (again, same) = kernel::kernel_manifest(&input::file("again.json", &written)).expect("what was written can be read");
        assert_eq!((again, &same), (written, &modules));
        for file in modules {
            assert!(!file.is_empty() && !file.starts_with('.') && !file.contains(['/', '\0', '\n', ' ']), "{file:?} is no module's file");
        }
    }
    if let Ok(written) = image::template_manifest(&path) {
        let again = image::template_manifest(&input::file("again.json", &written)).expect("what was written can be read");
        assert_eq!(again, written);
    }
    if let Ok(line) = image::line(&path) {
        assert_eq!(line.trim_end(), line);
    }
}

/// What comes out of an image is no longer than its kernel may be, and a plain one lies in the image.
pub(crate) fn bzimage(bytes: &[u8]) {
    // 512 bytes of nothing before the header would only make every input longer.
    let mut file = vec![0; 0x1f1];
    file.extend_from_slice(bytes);
    for image in [&file[..], bytes] {
        if let Ok(kernel) = kernel::unpack(image) {
            assert!(kernel.len() <= 256 << 20);
            if kernel.starts_with(b"\x7fELF") && kernel.len() < 64 {
                let inside = image.windows(kernel.len()).any(|part| part == kernel);
                assert!(inside || image.windows(4).any(|part| part == [2, 0x21, 0x4c, 0x18]));
            }
            let _ = kernel::check_kernel(&kernel);
        }
    }
}

/// Unpacked is exactly what the frame states, and what was packed here comes out as it was.
pub(crate) fn lz4(frame: &[u8]) {
    if let Ok(content) = kernel::lz4(frame) {
        let stated = frame.last_chunk().map_or(0, |length| u32::from_le_bytes(*length));
        assert_eq!(content.len(), stated as usize);
        assert!(content.len() <= 256 << 20);
    }
    let packed = lz4_flex::block::compress(frame);
    let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    let whole = [&[2, 0x21, 0x4c, 0x18][..], &length(packed.len()), &packed, &length(frame.len())].concat();
    assert_eq!(kernel::lz4(&whole).ok().as_deref(), Some(frame));
}

/// A module that is made smaller is a module with the same sections; one that is not understood stays as it is.
pub(crate) fn module(bytes: &[u8]) {
    let unsigned = image::without_signature(bytes);
    assert!(bytes.starts_with(unsigned));
    let _ = kernel::check_kernel(bytes);
    if let Ok(info) = kernel::modinfo(bytes) {
        assert!(info.iter().all(|item| !item.is_empty() && !item.contains('\0')));
        for name in info.iter().filter_map(|item| kernel::module_name(item)) {
            assert!(!name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
        }
    }
    let slim = kernel::slimmed(bytes);
    if slim == bytes {
        return;
    }
    let (before, after) = (kernel::sections(bytes).expect("it was understood"), kernel::sections(&slim).expect("it is a module still"));
    assert_eq!(before.len(), after.len());
    for ((was, name, length), (is, same, now)) in before.into_iter().zip(after) {
        // Dropped altogether, or kept under its name and no longer than before.
        assert!(is == 0 || (is == was && name == same && now <= length), "{name:?}");
    }
    assert!(slim.len() <= 2 * bytes.len() + 4096 * 64 + 64, "{} bytes became {}", bytes.len(), slim.len());
}
