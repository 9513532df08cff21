//! Index and manifest: what an image consists of.

use serde::{Deserialize, Serialize};

use super::{DocumentError, MAX_BLOB, MAX_CONFIG, MAX_LAYERS, MAX_MANIFEST, MAX_MANIFESTS, parse};
use crate::Digest;

/// Names of types.
pub mod media {
    /// OCI's index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI's manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI's configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI's layer, not packed.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI's layer, packed with zstd.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// OCI's layer, packed with gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// Docker's index.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
}

/// The operating system all guests run.
const OS: &str = "linux";

/// What one document says of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Its type.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    pub size: u64,
    /// For which machine, in an index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Notes, such as its name in an archive.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// A kind of machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// As Go calls it.
    pub architecture: String,
    /// As Go calls it.
    pub os: String,
    /// Which generation of the architecture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// An image's parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The configuration.
    pub config: Descriptor,
    /// The layers, from below.
    pub layers: Vec<Descriptor>,
}

/// What a name leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Top {
    /// An image.
    Manifest(Manifest),
    /// The image of an index that is made for a machine.
    Index(Descriptor),
}

/// Both kinds in one; which it is, is decided by what it has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    media_type: Option<String>,
    schema_version: Option<u32>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

/// A document whose type the registry names.
#[derive(Debug, Clone, Copy)]
pub struct Unread<'a> {
    /// Its text.
    pub bytes: &'a [u8],
    /// The machine to choose for, as Go calls it.
    pub architecture: &'a str,
}

impl Unread<'_> {
    /// What others call a manifest of this text.
    pub fn media_type(self) -> Result<&'static str, DocumentError> {
        Ok(family(&parse(self.bytes, "manifest", MAX_MANIFEST)?))
    }

    /// Reads it.
    pub fn read(self) -> Result<Top, DocumentError> {
        let raw: Raw = parse(self.bytes, "manifest", MAX_MANIFEST)?;
        if raw.schema_version == Some(1) {
            return Err(DocumentError::Kind { media_type: "a manifest of Docker's first schema".to_owned() });
        }
        match (raw.manifests, raw.config, raw.layers) {
            // An index that is a manifest as well would be two things to two readers.
            (Some(manifests), None, None) => choose(&manifests, self.architecture).map(Top::Index),
            (None, Some(config), Some(layers)) => check(Manifest { config, layers }).map(Top::Manifest),
            _ => Err(DocumentError::Kind { media_type: raw.media_type.unwrap_or_default() }),
        }
    }
}

/// The type of a manifest, of the two there are: what it says of itself, or else what its configuration is.
fn family(raw: &Raw) -> &'static str {
    let config = raw.config.as_ref().map(|config| config.media_type.as_str());
    match raw.media_type.as_deref() {
        Some(media::DOCKER_MANIFEST) => media::DOCKER_MANIFEST,
        Some(media::MANIFEST) => media::MANIFEST,
        Some(_) | None if config == Some(media::DOCKER_CONFIG) => media::DOCKER_MANIFEST,
        Some(_) | None => media::MANIFEST,
    }
}

/// The image of an index for this machine.
fn choose(manifests: &[Descriptor], architecture: &str) -> Result<Descriptor, DocumentError> {
    if manifests.len() > MAX_MANIFESTS {
        return Err(DocumentError::TooMany { what: "index", count: manifests.len() });
    }
    let fits = |descriptor: &&Descriptor| match &descriptor.platform {
        Some(platform) => platform.os == OS && platform.architecture == architecture,
        // An archive with one image need not say what it is for.
        None => manifests.len() == 1,
    };
    // The plainest variant: what has one asks for more than every machine has.
    let best = manifests.iter().filter(fits).min_by_key(|d| d.platform.as_ref().is_some_and(|platform| platform.variant.is_some()));
    match best {
        Some(descriptor) if descriptor.size <= MAX_MANIFEST => Ok(descriptor.clone()),
        Some(descriptor) => Err(DocumentError::TooLong { what: "manifest", size: descriptor.size }),
        None => Err(DocumentError::NoPlatform {
            wanted: format!("{OS}/{architecture}"),
            available: manifests
                .iter()
                .filter_map(|d| d.platform.as_ref())
                .map(|p| format!("{}/{}", p.os, p.architecture))
                .take(20)
                .collect(),
        }),
    }
}

fn check(manifest: Manifest) -> Result<Manifest, DocumentError> {
    if manifest.layers.len() > MAX_LAYERS {
        return Err(DocumentError::TooMany { what: "manifest", count: manifest.layers.len() });
    }
    if manifest.config.size > MAX_CONFIG {
        return Err(DocumentError::TooLong { what: "configuration", size: manifest.config.size });
    }
    // Charts, signatures and the like are kept in registries, too.
    let config = manifest.config.media_type.as_str();
    if config != media::CONFIG && config != media::DOCKER_CONFIG {
        return Err(DocumentError::Kind { media_type: config.to_owned() });
    }
    match manifest.layers.iter().find(|layer| layer.size > MAX_BLOB) {
        Some(layer) => Err(DocumentError::BlobSize { digest: layer.digest.clone(), size: layer.size }),
        None => Ok(manifest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a";

    fn read(text: &str) -> Result<Top, DocumentError> {
        Unread { bytes: text.as_bytes(), architecture: "amd64" }.read()
    }

    fn descriptor(media_type: &str, size: u64, more: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{DIGEST}","size":{size}{more}}}"#)
    }

    #[test]
    fn both_families_are_read() {
        for config in [media::CONFIG, media::DOCKER_CONFIG] {
            let text = format!(r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#, descriptor(config, 10, ""), descriptor("x", 5, ""));
            assert!(matches!(read(&text).unwrap(), Top::Manifest(manifest) if manifest.layers.len() == 1));
        }
    }

    #[test]
    fn the_plainest_image_for_this_machine_is_chosen() {
        let platform = |arch: &str, os: &str, more: &str| format!(r#","platform":{{"architecture":"{arch}","os":"{os}"{more}}}"#);
        let list = [
            ("arm64", "linux", "", 1),
            ("amd64", "windows", "", 2),
            ("amd64", "linux", r#","variant":"v3""#, 3),
            ("amd64", "linux", "", 4),
        ];
        let list: Vec<String> = list.iter().map(|(a, o, v, n)| descriptor(media::MANIFEST, *n, &platform(a, o, v))).collect();
        let top = read(&format!(r#"{{"manifests":[{}]}}"#, list.join(","))).unwrap();
        assert!(matches!(top, Top::Index(descriptor) if descriptor.size == 4));
        let text = read(&format!(r#"{{"manifests":[{}]}}"#, list[0])).unwrap_err().to_string();
        assert_eq!(text, "the image is not made for linux/amd64; it is for linux/arm64");
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let config = |media_type, size| format!(r#"{{"config":{},"layers":[]}}"#, descriptor(media_type, size, ""));
        let many =
            format!(r#"{{"config":{},"layers":[{}]}}"#, descriptor(media::CONFIG, 1, ""), vec![descriptor("x", 1, ""); 257].join(","));
        let big = format!(r#"{{"config":{},"layers":[{}]}}"#, descriptor(media::CONFIG, 1, ""), descriptor("x", u64::MAX, ""));
        let both = format!(r#"{{"config":{},"layers":[],"manifests":[]}}"#, descriptor(media::CONFIG, 1, ""));
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"schemaVersion":1,"fsLayers":[]}"#,
            r#"{"manifests":[]}"#,
            &both,
            &many,
            &big,
            &config("application/vnd.cncf.helm.config.v1+json", 1),
            &config(media::CONFIG, 1 << 40),
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
