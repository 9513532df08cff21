//! Images of strangers: what they are called, the documents that describe them, and their layers.

use std::io::Read;

use smolvm_model::reference::{Reference, Registry};
use smolvm_oci::Digest;
use smolvm_oci::document::{Config, Top, Unread};
use smolvm_oci::ext4::Layout;
use smolvm_oci::layer::{EntryName, Kind, Layer, decompress};
use smolvm_oci::registry::LoginFile;
use smolvm_oci::tree::{Source, Tree};

use crate::input;

/// A reference is complete, is the same when it is read again, and has a file name of its own.
pub(crate) fn reference(bytes: &[u8]) {
    let text = input::text(bytes);
    let Ok(reference) = Reference::parse(text, &Registry::default()) else { return };
    let whole = reference.to_string();
    assert_eq!(Reference::parse(&whole, &Registry::default()).as_ref(), Ok(&reference), "{text:?}");
    assert!(reference.tag().is_some() || reference.digest().is_some());
    let name = reference.file_name();
    assert!(name.len() <= 240 && !name.contains('/') && !name.starts_with('.'), "{name:?}");
    assert_eq!(Reference::of_file_name(&name), Some(reference));
}

/// What is read of a document is within its caps.
pub(crate) fn documents(bytes: &[u8]) {
    let (which, rest) = input::choice(bytes);
    match which % 3 {
        0 => {
            if let Ok(Top::Manifest(manifest)) = (Unread { bytes: rest, architecture: "amd64" }).read() {
                assert!(manifest.layers.len() <= 256 && manifest.config.size <= 4 << 20);
                assert!(manifest.layers.iter().all(|layer| layer.size <= 64 << 30 && layer.digest.hex().len() == 64));
            }
        }
        1 => {
            if let Ok(config) = Config::read(rest, 1) {
                let run = &config.run;
                assert_eq!(config.diff_ids.len(), 1);
                assert!(run.env.iter().all(|(key, value)| !key.is_empty() && !key.contains('\0') && !value.contains('\0')));
                assert!(run.working_dir.as_ref().is_none_or(|dir| dir.starts_with('/')));
            }
        }
        _ => {
            if let Ok(file) = LoginFile::read(rest) {
                let _ = file.login(&Registry::default(), "library/app");
            }
        }
    }
}

/// Two layers come to a tree without a way out, and to a file system whose stretches lie within it; or they are refused.
pub(crate) fn layers(bytes: &[u8]) {
    let (part, rest) = input::choice(bytes);
    let (first, second) = rest.split_at(rest.len() * usize::from(part) / 255);
    let mut tree = Tree::new();
    for (number, layer) in [first, second].into_iter().enumerate() {
        let Ok(stream) = decompress(layer) else { return };
        // What a few kilobytes unpack to is not what is tried here.
        let mut reader = Layer::new(stream.take(1 << 20));
        let mut member = 0;
        while let Ok(Some(next)) = reader.next_member() {
            let size = match &next.kind {
                Kind::File { size, .. } => *size,
                _ => 0,
            };
            let source = Source { layer: u32::try_from(number).unwrap_or_default(), member };
            let entry = EntryName::of(&next.path);
            member += 1;
            let Ok(placed) = tree.apply(source, next) else { return };
            if let Some(file) = placed.filter(|_| size < 1 << 30) {
                let parts = vec![smolvm_oci::layer::Part { offset: 0, length: size.next_multiple_of(4096) }];
                let Ok(()) = tree.set_data(file, parts, &entry) else { return };
            }
        }
    }
    let nodes = tree.walk();
    let Ok(layout) = Layout::of(&tree) else { return };
    let blocks = layout.image_bytes() / 4096;
    for id in nodes {
        for run in layout.runs(&tree, id) {
            assert!(run.physical > 0 && run.physical + run.length <= blocks, "{run:?} of {blocks}");
        }
    }
    assert_eq!(Digest::of(bytes).to_string().parse::<Digest>().map(|digest| digest.identity().len()), Ok(16));
}
