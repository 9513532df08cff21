//! `template list`: which machines can be forked.

use serde::Serialize;
use smolvm_host::image::template::{self, DiskState, Template};

use super::build::unusable;
use crate::error::Error;
use crate::installation::Smolvm;
use crate::time::rfc3339;

/// One template.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TemplateView {
    /// What it is asked for by: 32 hexadecimal digits.
    pub key: String,
    /// The image's name.
    pub image: String,
    /// Digest of the image's content.
    pub image_digest: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// Virtual processors.
    pub cpus: u8,
    /// Guest memory.
    pub memory_mib: u32,
    /// Size of the data disk of its forks.
    pub disk_bytes: u64,
    /// `fresh` for sandboxes that were never started, `used` for those that were.
    pub disk: DiskState,
    /// `tap`, `stream` or `none`.
    pub network: String,
    /// Whether a sandbox started now could be forked from it: it was made since this host booted.
    pub current: bool,
    /// Disk that it takes.
    pub size_bytes: u64,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// When it was last forked, RFC 3339.
    pub used_at: String,
}

impl TemplateView {
    pub(super) fn of(template: Template, boot_id: &str) -> Self {
        let seconds = |unix: u64| rfc3339(i64::try_from(unix).unwrap_or(i64::MAX / 1000).saturating_mul(1000));
        let current = template.facts.boot_id == boot_id;
        let facts = template.facts;
        Self {
            key: template.key.to_string(),
            image: facts.image,
            image_digest: facts.image_digest,
            accelerator: facts.accelerator,
            cpus: facts.cpus,
            memory_mib: facts.memory_mib,
            disk_bytes: facts.disk_bytes,
            disk: facts.disk,
            network: facts.network,
            current,
            size_bytes: template.disk_bytes,
            created_at: seconds(template.created_unix),
            used_at: seconds(template.used_unix),
        }
    }
}

impl Smolvm {
    /// Every template, the one that was forked last first. Changes nothing.
    pub fn templates(&self) -> Result<Vec<TemplateView>, Error> {
        let found = template::list(&self.paths().cache).map_err(unusable)?;
        Ok(found.into_iter().map(|template| TemplateView::of(template, &self.boot_id)).collect())
    }
}
