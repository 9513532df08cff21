//! `image prune`: images that nobody needs go.
//!
//! ```text
//!   images' lock, given back ─► look (names, who needs them) ─► choose ─► templates of them
//!     ─► images' lock ─► choose again ─► names, files, layers no image here has
//! ```
//!
//! It takes what `prune` takes of images, and with [`Scope::Unused`] also what has a name and is of no use to a sandbox or a snapshot.
//! A template is no use: it is there to make the next start of an image quicker, and goes with it. So none goes while a pull, which may
//! take minutes, keeps images from going; one that begins in between costs templates and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use smolvm_host::image::unused::{self, Part, Unused, Use};
use smolvm_host::image::{self, Image, template};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::reference::Reference;

use super::failure::unusable;
use super::linked;
use super::sizes::parts;
use crate::clock::now_ms;
use crate::error::Error;
use crate::installation::Smolvm;
use crate::prune::{IDLE, Mode, PruneReport, prune_one};

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
        if image::is_linked(&self.paths().cache) {
            return Err(linked("the images"));
        }
        let mut report = PruneReport::default();
        if request.mode == Mode::Remove && !unused::images_are_idle(&self.paths().cache).map_err(unusable)? {
            busy(&mut report);
            return Ok(report);
        }
        // Before the images' lock: who makes a template holds its lock and comes to use an image.
        let templates = self.templates_of(&self.going(request)?)?;
        for (one, of) in templates {
            let name = one.name.clone();
            prune_one(&self.paths().cache, &one, name, format!("of {of}"), request.mode, &mut report);
        }
        match self.prune_going(request, &mut report) {
            // What went is told, and what stood in the way of the rest.
            Err(e) if report != PruneReport::default() => report.stays("image", "all", e.code, e.one_line()),
            pruned => pruned?,
        }
        Ok(report)
    }

    /// The same with the images and their layers.
    fn prune_going(&self, request: ImagePruneRequest, report: &mut PruneReport) -> Result<(), Error> {
        // Held until the end: nobody makes what is being judged.
        let (held, idle) = match request.mode {
            Mode::Remove => unused::idle_parts(&self.paths().cache).map_err(unusable)?,
            Mode::Say => (Vec::new(), vec![Part::Image]),
        };
        if !idle.contains(&Part::Image) {
            busy(report);
            return Ok(());
        }
        // Once more: since the first look somebody may have come to need one.
        let going = self.going(request)?;
        let mut gone: Vec<&Image> = Vec::new();
        for known in &going {
            if self.prune_image(known, request.mode, report)? {
                gone.push(&known.image);
            }
        }
        self.prune_layers(&gone, request, report)?;
        drop(held);
        Ok(())
    }

    /// The images that may go now.
    fn going(&self, request: ImagePruneRequest) -> Result<Vec<Known>, Error> {
        let needed = self.needed_images()?;
        let now = now_unix();
        Ok(self.known_images(&needed)?.into_iter().filter(|known| goes(known, &needed, request, now)).collect())
    }

    /// The templates of these images, each with what the image is called.
    fn templates_of(&self, images: &[Known]) -> Result<Vec<(Unused, String)>, Error> {
        let templates = template::list(&self.paths().cache).map_err(unusable)?;
        let of = |known: &Known| {
            let (digest, shown) = (known.image.digest.to_string(), known.shown());
            let own = templates.iter().filter(move |template| template.facts.image_digest == digest);
            own.map(move |template| {
                let name = template.key.to_string();
                (Unused { part: Part::Template, name, bytes: template.disk_bytes, used: Use::None }, shown.clone())
            })
        };
        Ok(images.iter().flat_map(of).collect())
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

    /// Takes an image away, with its names. False if it stays: somebody is using a template of it, or it cannot go.
    fn prune_image(&self, known: &Known, mode: Mode, report: &mut PruneReport) -> Result<bool, Error> {
        let cache = &self.paths().cache;
        let why = if known.references.is_empty() { "it has no name" } else { "no sandbox and no snapshot needs it" };
        if mode == Mode::Remove {
            if let Some((template, _)) = self.templates_of(std::slice::from_ref(known))?.first() {
                report.stays("image", &known.shown(), ErrorCode::Busy, format!("its template {} is there still, or again", template.name));
                return Ok(false);
            }
            for reference in &known.references {
                if let Err(e) = image::unname(cache, reference).map_err(unusable) {
                    report.stays("image", &known.shown(), e.code, e.one_line());
                    return Ok(false);
                }
            }
        }
        let one = Unused { part: Part::Image, name: known.image.digest.hex().to_owned(), bytes: known.image.size_bytes, used: Use::None };
        Ok(prune_one(cache, &one, known.shown(), why.to_owned(), mode, report))
    }

    /// Layers of what went, and what is left of pulls that nobody took up again. What an image has that is still here stays.
    fn prune_layers(&self, gone: &[&Image], request: ImagePruneRequest, report: &mut PruneReport) -> Result<(), Error> {
        let cache = &self.paths().cache;
        let (idle, now) = (request.older_than.max(IDLE), now_unix());
        let layers: BTreeSet<String> = gone.iter().flat_map(|image| parts(image)).collect();
        let gone = gone.iter().map(|image| image.digest.hex().to_owned()).collect();
        for one in unused::blobs_without(cache, &gone).map_err(unusable)? {
            let old = matches!(one.used, Use::Since(then) if now.saturating_sub(then) >= idle.as_secs());
            if layers.contains(&one.name) || old {
                let name = one.name.clone();
                prune_one(cache, &one, name, "no image needs it".to_owned(), request.mode, report);
            }
        }
        Ok(())
    }
}

impl Known {
    /// What people call it.
    fn shown(&self) -> String {
        self.references.first().map_or_else(|| self.image.digest.to_string(), Reference::to_string)
    }
}

fn busy(report: &mut PruneReport) {
    report.stays("image", "all", ErrorCode::Busy, "another command uses or makes one of them at this moment".to_owned());
}

fn now_unix() -> u64 {
    u64::try_from(now_ms() / 1000).unwrap_or(0)
}

fn goes(known: &Known, needed: &BTreeSet<String>, request: ImagePruneRequest, now: u64) -> bool {
    let is_old = now.saturating_sub(known.image.created_unix) >= request.older_than.as_secs();
    let may = match request.scope {
        Scope::Unnamed => known.references.is_empty(),
        Scope::Unused => true,
    };
    may && is_old && !known.is_own && !needed.contains(known.image.digest.hex())
}

#[cfg(test)]
mod tests {
    use smolvm_host::image::template::{DiskState, Draft, Facts};
    use smolvm_host::lock::{self, Lock};

    use super::*;
    use crate::installation::Settings;
    use crate::paths::Paths;
    use crate::testing::{digest, put_image};

    const ALL: ImagePruneRequest = ImagePruneRequest { scope: Scope::Unused, older_than: Duration::ZERO, mode: Mode::Remove };

    fn installation(fault: Option<&str>) -> (tempfile::TempDir, Smolvm) {
        let dir = tempfile::tempdir().unwrap();
        let trace = fault.map(|_| dir.path().join("trace"));
        let settings = Settings { fault: fault.map(str::to_owned), trace, ..Settings::new(Paths::beneath(dir.path())) };
        let vm = Smolvm::open(settings).unwrap();
        drop(vm.store().unwrap());
        (dir, vm)
    }

    /// A template of that image; gives its key.
    fn put_template(vm: &Smolvm, image: char) -> String {
        let facts = Facts {
            image: "x".to_owned(),
            image_digest: digest(image),
            boot_digest: String::new(),
            machine: String::new(),
            accelerator: "tcg".to_owned(),
            cpus: 1,
            memory_mib: 1,
            disk_bytes: 1,
            disk: DiskState::Used,
            rehearsed: Vec::new(),
            network: "none".to_owned(),
            hypervisor: String::new(),
            boot_id: String::new(),
        };
        let cache = &vm.paths().cache;
        Draft::new(cache, &facts.key(), 1, Duration::ZERO).unwrap().publish(cache, facts.clone()).unwrap();
        facts.key().to_string()
    }

    fn blobs(vm: &Smolvm) -> String {
        let found = unused::blobs(&vm.paths().cache).unwrap();
        found.iter().filter_map(|blob| blob.name.chars().next()).collect()
    }

    fn hold_template(vm: &Smolvm, key: &str) -> Lock {
        lock::take(&vm.paths().cache.join(format!("locks/template-{key}.lock")), Duration::ZERO).unwrap()
    }

    fn stays(report: &PruneReport) -> Vec<(&str, &str, &str)> {
        report.failed.iter().map(|one| (one.part, one.name.as_str(), one.code)).collect()
    }

    fn parts(report: &PruneReport) -> Vec<(&str, String)> {
        report.removed.iter().map(|one| (one.part, one.name.chars().take(20).collect())).collect()
    }

    #[test]
    fn what_cannot_go_keeps_its_layers_and_the_rest_goes_and_is_told() {
        let (_dir, vm) = installation(Some("eio@before:remove-cache#1"));
        put_image(&vm, 'a', "12", Some("r.example/a:1"));
        put_image(&vm, 'b', "23", Some("r.example/b:1"));
        let report = vm.prune_images(ALL).unwrap();
        assert_eq!(stays(&report), [("image", "r.example/a:1", "internal")]);
        assert_eq!(parts(&report), [("image", "r.example/b:1".to_owned()), ("blob", "3".repeat(20))]);
        assert_eq!(blobs(&vm), "12");
    }

    #[test]
    fn an_image_whose_template_is_busy_stays_with_its_layers() {
        let (_dir, vm) = installation(None);
        put_image(&vm, 'a', "12", Some("r.example/a:1"));
        put_image(&vm, 'b', "23", Some("r.example/b:1"));
        let _forking = hold_template(&vm, &put_template(&vm, 'a'));
        let report = vm.prune_images(ALL).unwrap();
        assert!(stays(&report).contains(&("image", "r.example/a:1", "busy")), "{report:?}");
        assert_eq!(parts(&report), [("image", "r.example/b:1".to_owned()), ("blob", "3".repeat(20))]);
        assert_eq!(blobs(&vm), "12", "layers of what stays");
    }

    #[test]
    fn while_somebody_uses_images_their_templates_stay() {
        let (_dir, vm) = installation(None);
        put_image(&vm, 'a', "12", Some("r.example/a:1"));
        let key = put_template(&vm, 'a');
        let pulling = image::using(&vm.paths().cache, Duration::ZERO).unwrap();
        let report = vm.prune_images(ALL).unwrap();
        assert_eq!((stays(&report), parts(&report)), (vec![("image", "all", "busy")], Vec::new()));
        assert_eq!((template::list(&vm.paths().cache).unwrap().len(), blobs(&vm).as_str()), (1, "12"));
        // What would go is said all the same.
        let said = vm.prune_images(ImagePruneRequest { mode: Mode::Say, ..ALL }).unwrap();
        assert_eq!(said.removed.iter().map(|one| one.part).collect::<Vec<_>>(), ["template", "image", "blob", "blob"]);
        drop(pulling);
        let forking = hold_template(&vm, &key);
        let report = vm.prune_images(ALL).unwrap();
        assert_eq!(stays(&report), [("template", key.as_str(), "busy"), ("image", "r.example/a:1", "busy")]);
        drop(forking);
        let report = vm.prune_images(ALL).unwrap();
        assert_eq!((stays(&report), blobs(&vm).as_str()), (Vec::new(), ""));
        assert_eq!(report.removed.iter().map(|one| one.part).collect::<Vec<_>>(), ["template", "image", "blob", "blob"]);
    }
}
