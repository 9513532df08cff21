//! What images take of the disk: alone, and together with others.
//!
//! An image is one file, which is its own, and the layers it was made of, each of which lies here once however many images have it.

use std::collections::{BTreeMap, BTreeSet};

use smolvm_host::image::{Image, Origin};

/// What one image takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    /// What comes free if it goes: its file, and layers that no other image has.
    pub(super) own: u64,
    /// Layers that others have, too.
    pub(super) shared: u64,
}

/// Of every image, by its digest; several names of one count as one.
pub(super) fn sizes(images: &[Image]) -> BTreeMap<String, Sizes> {
    let by_digest: BTreeMap<String, &Image> = images.iter().map(|image| (image.digest.to_string(), image)).collect();
    let mut users: BTreeMap<&str, usize> = BTreeMap::new();
    for image in by_digest.values() {
        for layer in layers(image).keys() {
            *users.entry(layer).or_default() += 1;
        }
    }
    let of = |image: &Image| {
        let (mut own, mut shared) = (image.size_bytes, 0_u64);
        for (layer, bytes) in layers(image) {
            let part = if users.get(layer).is_some_and(|n| *n > 1) { &mut shared } else { &mut own };
            *part = part.saturating_add(bytes);
        }
        Sizes { own, shared }
    };
    by_digest.iter().map(|(digest, image)| (digest.clone(), of(image))).collect()
}

/// Digests of the parts of an image as registries have them.
pub(super) fn parts(image: &Image) -> BTreeSet<String> {
    image.origin.iter().flat_map(Origin::blobs).map(|digest| digest.hex().to_owned()).collect()
}

fn layers(image: &Image) -> BTreeMap<&str, u64> {
    let origin = image.origin.iter();
    origin.flat_map(|origin| origin.layers.iter().map(|layer| (layer.digest.as_str(), layer.size_bytes))).collect()
}
