//! `image prune`: images that nobody needs go.
//!
//! ```text
//!   look (names, who needs them) ─► choose (pure) ─► names, templates of them, files, layers; or with --dry-run only say
//! ```
//!
//! It takes what `prune` takes of images, and with [`Scope::Unused`] also what has a name and is of no use to a sandbox or a snapshot.
//! A template is no use: it is there to make the next start of an image quicker, and goes with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use smolvm_host::image::unused::{self, Part, Unused, Use};
use smolvm_host::image::{self, Image, snapshot, template};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::reference::Reference;

use super::failure::unusable;
use super::linked;
use super::sizes::parts;
use crate::clock::now_ms;
use crate::error::Error;
use crate::installation::Smolvm;
use crate::prune::{IDLE, Mode, PruneReport, Pruned};

/// Which images may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those without a name.
    Unnamed,
    /// All that no sandbox and no snapshot needs.
    Unused,
}

/// What `image prune` is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImagePruneRequest {
    /// Which may go.
    pub scope: Scope,
    /// Only those that were made here so long ago.
    pub older_than: Duration,
    /// What is done about it.
    pub mode: Mode,
}

/// An image and all that leads to it.
#[derive(Debug, Clone)]
struct Known {
    image: Image,
    references: Vec<Reference>,
    /// Whether it is one that smolvm makes itself, under its own name.
    is_own: bool,
}

impl Smolvm {
    /// Removes images that nobody needs, or says which they are.
    pub fn prune_images(&self, request: ImagePruneRequest) -> Result<PruneReport, Error> {
        let cache = &self.paths().cache;
        let mut report = PruneReport::default();
        // Held until the end: nobody makes what is being judged.
        let (held, idle) = match request.mode {
            Mode::Remove => unused::idle_parts(cache).map_err(unusable)?,
            Mode::Say => (Vec::new(), vec![Part::Image]),
        };
        if image::is_linked(cache) {
            return Err(linked("the images"));
        }
        let being_saved = snapshot::is_at_work(&self.paths().snapshots()).map_err(unusable)?;
        if request.mode == Mode::Remove && (!idle.contains(&Part::Image) || being_saved) {
            report.stays("image", "all", ErrorCode::Busy, "another command makes one of them at this moment".to_owned());
            return Ok(report);
        }
        let needed = self.needed_images()?;
        let known = self.known_images(&needed)?;
        let now = u64::try_from(now_ms() / 1000).unwrap_or(0);
        let (going, staying): (Vec<Known>, Vec<Known>) = known.into_iter().partition(|known| goes(known, &needed, request, now));
        let kept: BTreeSet<String> = staying.iter().flat_map(|known| parts(&known.image)).collect();
        let mut layers: BTreeSet<String> = BTreeSet::new();
        for known in &going {
            if self.prune_image(known, request.mode, &mut report)? {
                layers.extend(parts(&known.image).difference(&kept).cloned());
            }
        }
        self.prune_layers(&layers, &kept, request, now, &mut report)?;
        drop(held);
        Ok(report)
    }

    /// Every image that is here, with its names.
    fn known_images(&self, needed: &BTreeSet<String>) -> Result<Vec<Known>, Error> {
        let cache = &self.paths().cache;
        let mut known: BTreeMap<String, Known> = BTreeMap::new();
        for image in image::list(cache).map_err(unusable)? {
            known.insert(image.digest.to_string(), Known { image, references: Vec::new(), is_own: true });
        }
        for named in image::references(cache).map_err(unusable)? {
            let digest = named.image.digest.to_string();
            let fresh = || Known { image: named.image.clone(), references: Vec::new(), is_own: false };
            known.entry(digest).or_insert_with(fresh).references.push(named.reference);
        }
        let nameless = unused::unused(cache, &self.boot_id, needed).map_err(unusable)?;
        let nameless = nameless.into_iter().filter(|one| one.part == Part::Image).map(|one| one.name);
        // Those that a sandbox needs may have no name, either.
        for name in nameless.chain(needed.iter().cloned()) {
            let digest = format!("sha256:{name}");
            if let (false, Ok(parsed)) = (known.contains_key(&digest), digest.parse())
                && let Ok(image) = image::resolve_digest(cache, &parsed)
            {
                known.insert(digest, Known { image, references: Vec::new(), is_own: false });
            }
        }
        Ok(known.into_values().collect())
    }

    /// Takes an image away, with its names and its templates. False if somebody is using one of them.
    fn prune_image(&self, known: &Known, mode: Mode, report: &mut PruneReport) -> Result<bool, Error> {
        let cache = &self.paths().cache;
        let digest = known.image.digest.to_string();
        let shown = known.references.first().map_or_else(|| digest.clone(), Reference::to_string);
        for template in template::list(cache).map_err(unusable)?.into_iter().filter(|template| template.facts.image_digest == digest) {
            let name = template.key.to_string();
            let one = Unused { part: Part::Template, name, bytes: template.disk_bytes, used: Use::None };
            if mode == Mode::Remove {
                match unused::drop_unused(cache, &one) {
                    Ok(bytes) => report.freed_bytes += bytes,
                    Err(image::ImageError::Lock(_)) => {
                        report.stays("image", &shown, ErrorCode::Busy, format!("a sandbox is just being forked from {}", one.name));
                        return Ok(false);
                    }
                    Err(e) => return Err(unusable(e)),
                }
            }
            report.removed.push(Pruned { part: "template", name: one.name, bytes: one.bytes, why: format!("of {shown}") });
        }
        let why = if known.references.is_empty() { "it has no name" } else { "no sandbox and no snapshot needs it" };
        if mode == Mode::Remove {
            for reference in &known.references {
                image::unname(cache, reference).map_err(unusable)?;
            }
            let one =
                Unused { part: Part::Image, name: known.image.digest.hex().to_owned(), bytes: known.image.size_bytes, used: Use::None };
            report.freed_bytes += unused::drop_unused(cache, &one).map_err(unusable)?;
        }
        report.removed.push(Pruned { part: "image", name: shown, bytes: known.image.size_bytes, why: why.to_owned() });
        Ok(true)
    }

    /// Layers of what went, and what is left of pulls that nobody took up again.
    fn prune_layers(
        &self,
        going: &BTreeSet<String>,
        kept: &BTreeSet<String>,
        request: ImagePruneRequest,
        now: u64,
        report: &mut PruneReport,
    ) -> Result<(), Error> {
        let cache = &self.paths().cache;
        let idle = request.older_than.max(IDLE);
        for one in unused::blobs(cache).map_err(unusable)?.into_iter().filter(|one| !kept.contains(&one.name)) {
            let old = matches!(one.used, Use::Since(then) if now.saturating_sub(then) >= idle.as_secs());
            if !going.contains(&one.name) && !old {
                continue;
            }
            if request.mode == Mode::Remove {
                report.freed_bytes += unused::drop_unused(cache, &one).map_err(unusable)?;
            }
            report.removed.push(Pruned { part: "blob", name: one.name, bytes: one.bytes, why: "no image needs it".to_owned() });
        }
        Ok(())
    }
}

fn goes(known: &Known, needed: &BTreeSet<String>, request: ImagePruneRequest, now: u64) -> bool {
    let is_old = now.saturating_sub(known.image.created_unix) >= request.older_than.as_secs();
    let may = match request.scope {
        Scope::Unnamed => known.references.is_empty(),
        Scope::Unused => true,
    };
    may && is_old && !known.is_own && !needed.contains(known.image.digest.hex())
}
