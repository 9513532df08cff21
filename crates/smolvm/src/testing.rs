//! What the unit tests of this crate share.

use std::collections::BTreeMap;

use smolvm_host::store::{Run, Surroundings};
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
