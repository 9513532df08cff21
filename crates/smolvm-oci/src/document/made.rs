//! The documents of an image that is made here, of one layer. They say nothing of when or where: the same layer and the same
//! configuration are the same image on every host.

use serde_json::{Map, Value, json};

use super::config::{RunConfig, Step};
use super::manifest::{Descriptor, media};
use crate::Digest;
use crate::layer::Packing;

/// What the one layer is, and how the image is run.
#[derive(Debug, Clone, Copy)]
pub struct SingleLayer<'a> {
    /// Digest of the layer as it lies there.
    pub digest: &'a Digest,
    /// Its length.
    pub size: u64,
    /// What it is packed with.
    pub packing: Packing,
    /// Digest of what it unpacks to.
    pub diff_id: &'a Digest,
    /// For which machine, as Go calls it.
    pub architecture: &'a str,
    /// How the image is run.
    pub run: &'a RunConfig,
    /// How the layer came to be.
    pub step: &'a Step,
}

/// Both documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The configuration.
    pub config: Vec<u8>,
    /// The manifest, which names configuration and layer.
    pub manifest: Vec<u8>,
}

impl SingleLayer<'_> {
    /// Writes the documents.
    pub fn documents(self) -> Made {
        let config = json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": run_of(self.run),
            "rootfs": {"type": "layers", "diff_ids": [self.diff_id]},
            "history": [self.step],
        });
        let config = config.to_string().into_bytes();
        let descriptor = |media_type: &str, digest: &Digest, size| Descriptor {
            media_type: media_type.to_owned(),
            digest: digest.clone(),
            size,
            platform: None,
            annotations: std::collections::BTreeMap::new(),
        };
        let layer = match self.packing {
            Packing::Gzip => media::LAYER_GZIP,
            Packing::Zstd => media::LAYER_ZSTD,
            Packing::Plain | Packing::Foreign { .. } => media::LAYER,
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::MANIFEST,
            "config": descriptor(media::CONFIG, &Digest::of(&config), config.len() as u64),
            "layers": [descriptor(layer, self.digest, self.size)],
        });
        Made { config, manifest: manifest.to_string().into_bytes() }
    }
}

/// As OCI writes it; what is not said is left out.
fn run_of(run: &RunConfig) -> Value {
    let keys = |list: &[String]| Value::Object(list.iter().map(|key| (key.clone(), json!({}))).collect());
    let mut value = Map::new();
    let mut say = |key: &str, is_said: bool, what: Value| {
        if is_said {
            value.insert(key.to_owned(), what);
        }
    };
    say("Entrypoint", !run.entrypoint.is_empty(), json!(run.entrypoint));
    say("Cmd", !run.cmd.is_empty(), json!(run.cmd));
    let env: Vec<String> = run.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
    say("Env", !env.is_empty(), json!(env));
    say("WorkingDir", run.working_dir.is_some(), json!(run.working_dir));
    say("User", run.user.is_some(), json!(run.user));
    say("StopSignal", run.stop_signal.is_some(), json!(run.stop_signal));
    say("Labels", !run.labels.is_empty(), json!(run.labels));
    say("ExposedPorts", !run.exposed_ports.is_empty(), keys(&run.exposed_ports));
    say("Volumes", !run.volumes.is_empty(), keys(&run.volumes));
    Value::Object(value)
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Top, Unread};
    use super::*;

    #[test]
    fn what_is_made_is_read_as_it_was_meant() {
        let mut run = RunConfig::default();
        for change in [
            "CMD [\"sh\"]",
            "ENTRYPOINT x",
            "ENV A=b=c",
            "WORKDIR /w",
            "USER u",
            "STOPSIGNAL SIGINT",
            "LABEL a=b",
            "EXPOSE 80",
            "VOLUME /v",
        ] {
            run.change(change).unwrap();
        }
        let (layer, diff) = (Digest::of(b"layer"), Digest::of(b"unpacked"));
        let step = Step { created_by: Some("import".to_owned()), ..Step::default() };
        let one =
            |run| SingleLayer { digest: &layer, size: 5, packing: Packing::Gzip, diff_id: &diff, architecture: "amd64", run, step: &step };
        for run in [&run, &RunConfig::default()] {
            let made = one(run).documents();
            assert_eq!(made, one(run).documents());
            let config = Config::read(&made.config, 1).unwrap();
            assert_eq!((&config.run, config.diff_ids, config.history), (run, vec![diff.clone()], vec![step.clone()]));
            let Top::Manifest(manifest) = (Unread { bytes: &made.manifest, architecture: "amd64" }).read().unwrap() else { panic!() };
            assert_eq!((&manifest.config.digest, &manifest.layers[0].digest), (&Digest::of(&made.config), &layer));
            assert_eq!(manifest.layers[0].media_type, media::LAYER_GZIP);
        }
    }
}
