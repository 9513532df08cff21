//! What the unit tests of this crate share.

use std::collections::BTreeMap;

use smolvm_model::engine::AcceleratorRequest;
use smolvm_model::quantity::{Cpus, DiskSize, Memory};
use smolvm_model::spec::{NetworkMode, Spec};

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
