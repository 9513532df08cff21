//! What the unit tests of this crate share.

use std::collections::BTreeMap;

use smolvm_host::image::{self, Digest, LayerBlob, Origin};
use smolvm_host::store::{Run, Surroundings};
use smolvm_model::engine::AcceleratorRequest;
use smolvm_model::quantity::{Cpus, DiskSize, Memory};
use smolvm_model::reference::Registry;
use smolvm_model::spec::{ImageName, NetworkMode, Spec};

use crate::installation::Smolvm;

/// A sandbox of which nothing matters but its network.
pub(crate) fn spec(network: NetworkMode) -> Spec {
    Spec {
        workdir: None,
        user: None,
        init: None,
        restored_from: None,
        image: "minimal".parse().unwrap(),
        image_digest: "d".to_owned(),
        cpus: Cpus::default(),
        memory: Memory::from_mib(128).unwrap(),
        disk: DiskSize::default(),
        network,
        env: BTreeMap::new(),
        labels: BTreeMap::new(),
        accelerator: AcceleratorRequest::Auto,
    }
}

/// A run of which nothing matters but what it waits in the pool as.
pub(crate) fn run(pooled: &str) -> Run {
    Run {
        accelerator: "tcg".to_owned(),
        accelerator_reason: String::new(),
        started_ms: 0,
        enforced: serde_json::Value::Null,
        kernel: String::new(),
        hypervisor: String::new(),
        agent: String::new(),
        started_from: "cold".to_owned(),
        started_from_reason: String::new(),
        surroundings: Surroundings { hypervisor: String::new(), machine: String::new() },
        steps: Vec::new(),
        pooled: pooled.to_owned(),
    }
}

/// A digest of one digit.
pub(crate) fn digest(digit: char) -> String {
    format!("sha256:{}", String::from(digit).repeat(64))
}

/// An image of a registry with one digit for its digest, which has these layers of 10 bytes; the first is its configuration and manifest, too.
pub(crate) fn put_image(vm: &Smolvm, digit: char, layers: &str, name: Option<&str>) -> Digest {
    let cache = &vm.paths().cache;
    let hex = String::from(digit).repeat(64);
    let layers: Vec<LayerBlob> = layers.chars().map(|digit| LayerBlob { digest: digest(digit).parse().unwrap(), size_bytes: 10 }).collect();
    for layer in &layers {
        let blobs = cache.join("blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join(layer.digest.hex()), "0123456789").unwrap();
    }
    let first = &layers[0].digest;
    let origin = Origin {
        manifest: first.clone(),
        config: first.clone(),
        architecture: String::new(),
        created: None,
        run: smolvm_host::image::registry::RunConfig::default(),
        history: Vec::new(),
        layers: layers.clone(),
    };
    let directory = cache.join("images").join(&hex);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("image.ext4"), "x").unwrap();
    let manifest = serde_json::json!({
        "version": 1, "name": "x", "digest": digest(digit), "size_bytes": 1, "created_unix": 0, "default_memory_mib": 128, "env": {},
        "origin": origin,
    });
    std::fs::write(directory.join("manifest.json"), manifest.to_string()).unwrap();
    let made: Digest = digest(digit).parse().unwrap();
    if let Some(name) = name {
        let name: ImageName = name.parse().unwrap();
        image::name_image(cache, &name.reference(&Registry::default()).unwrap(), &made).unwrap();
    }
    made
}
