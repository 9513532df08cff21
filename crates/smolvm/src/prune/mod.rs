//! `prune`: removes what is sound and nobody needs. `cleanup` is for sandboxes; this is for what is made again by itself.
//!
//! ```text
//!   look (what there is, who needs it) ─► choose (pure) ─► remove, or with --dry-run only say
//! ```
//!
//! Never taken: sandboxes that are somebody's, snapshots, the images they need, images that have a name, the kernel that is current.

mod choose;
mod leftovers;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use smolvm_host::image::unused::{self, Part, Unused};
use smolvm_host::image::{self, snapshot};
use smolvm_model::error_code::ErrorCode;

use crate::clock::now_ms;
use crate::error::{Error, io_code};
use crate::image::linked;
use crate::installation::Smolvm;
use choose::choose;

/// What was not used for so long goes.
pub const IDLE: Duration = Duration::from_hours(7 * 24);

/// What `prune` is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PruneRequest {
    /// How long something must have been of no use to anybody.
    pub idle: Duration,
    /// So many templates stay, those that were forked last.
    pub keep: usize,
    /// What is done about it.
    pub mode: Mode,
}

/// Whether anything is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is.
    Remove,
    /// It is only said what would be.
    Say,
}

/// Something that went, or would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// `template`, `image`, `kernel`, `initramfs`, `downloads`, `blob`, `pool`, `trash` or `builds`.
    pub part: &'static str,
    /// Its name.
    pub name: String,
    /// Disk that it takes.
    pub bytes: u64,
    /// Why it may go.
    pub why: String,
}

/// Something that could not be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stayed {
    /// Which part it is of; `cache` for all of what is made again.
    pub part: &'static str,
    /// Its name.
    pub name: String,
    /// Why it is still there.
    pub error: String,
    /// The same for programs.
    pub code: &'static str,
}

/// What `prune` did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// What went, or would.
    pub removed: Vec<Pruned>,
    /// What could not go.
    pub failed: Vec<Stayed>,
    /// Disk that came free, unless something that runs still uses it.
    pub freed_bytes: u64,
}

impl Smolvm {
    /// Removes what nobody needs, or says what that is. An error is what kept it from looking; once it has begun, each part goes on
    /// when another cannot, and all is told.
    pub fn prune(&self, request: PruneRequest) -> Result<PruneReport, Error> {
        let mut report = PruneReport::default();
        let found = self.chosen(request)?;
        let cached = match request.mode {
            Mode::Remove => self.prune_cache(found, request, &mut report),
            Mode::Say => {
                self.say_of_cache(found, &mut report);
                Ok(())
            }
        };
        report.unless("cache", cached);
        let pooled = self.prune_pool(request, &mut report);
        report.unless("pool", pooled);
        let discarded = self.prune_trash(request.mode, &mut report);
        report.unless("trash", discarded);
        if request.mode == Mode::Remove {
            self.prune_builds(&mut report);
        }
        Ok(report)
    }

    /// Removes of what was found what can go.
    fn prune_cache(&self, found: Vec<(Unused, String)>, request: PruneRequest, report: &mut PruneReport) -> Result<(), Error> {
        let cache = &self.paths().cache;
        // Before the others: who makes a template holds its lock and comes to use an image.
        let templates = found.into_iter().filter(|(one, _)| one.part == Part::Template).collect();
        prune_parts(cache, templates, Mode::Remove, |_| Ok(()), report);
        // Held until the end: nobody makes what is being judged.
        let (held, idle) = unused::idle_parts(cache).map_err(unusable)?;
        let is_linked = image::is_linked(cache);
        let mut chosen = self.chosen(request)?;
        chosen.retain(|(one, _)| one.part != Part::Template);
        let may_go = |part: Part| {
            if is_linked && is_shared(part) {
                return Err(linked("it"));
            }
            if !idle.contains(&part) {
                return Err(Error::new(ErrorCode::Busy, "another command makes one of them at this moment"));
            }
            Ok(())
        };
        prune_parts(cache, chosen, Mode::Remove, may_go, report);
        drop(held);
        Ok(())
    }

    fn say_of_cache(&self, mut found: Vec<(Unused, String)>, report: &mut PruneReport) {
        let cache = &self.paths().cache;
        let is_linked = image::is_linked(cache);
        found.retain(|(one, _)| !(is_linked && is_shared(one.part)));
        prune_parts(cache, found, Mode::Say, |_| Ok(()), report);
    }

    /// What would go now, and why.
    fn chosen(&self, request: PruneRequest) -> Result<Vec<(Unused, String)>, Error> {
        let found = unused::unused(&self.paths().cache, &self.boot_id, &self.needed_images()?).map_err(unusable)?;
        Ok(choose(found, request, u64::try_from(now_ms() / 1000).unwrap_or(0)))
    }

    /// The digests of the images that sandboxes and snapshots need.
    pub(crate) fn needed_images(&self) -> Result<BTreeSet<String>, Error> {
        let of_sandboxes = match self.look()? {
            Some(store) => {
                let table = store.table()?;
                // A row that cannot be read may need anything.
                if !table.broken.is_empty() {
                    return Err(Error::new(ErrorCode::Refused, "a row of the ledger cannot be read, so nobody knows what it needs")
                        .hint("smolvm doctor --fix"));
                }
                table.sandboxes.into_iter().map(|record| record.spec.image_digest).collect()
            }
            None => Vec::new(),
        };
        let root = self.paths().snapshots();
        let mut of_snapshots = Vec::new();
        for name in snapshot::names(&root)? {
            let found = snapshot::find(&root, &name).map_err(crate::snapshot::unusable)?;
            of_snapshots.extend(found.map(|snapshot| snapshot.origin.spec.image_digest));
        }
        Ok(of_sandboxes.into_iter().chain(of_snapshots).map(|digest| digest.trim_start_matches("sha256:").to_owned()).collect())
    }

    /// Sandboxes that wait for somebody, and have for long.
    fn prune_pool(&self, request: PruneRequest, report: &mut PruneReport) -> Result<(), Error> {
        let idle = |since_ms| Duration::from_millis(u64::try_from(now_ms().saturating_sub(since_ms)).unwrap_or(0));
        let waiting = self.waiting_since()?.into_iter().map(|(id, since_ms)| (id, idle(since_ms)));
        let waiting = waiting.filter(|(_, idle)| *idle >= request.idle);
        let waiting = waiting.map(|(id, idle)| (id, format!("nobody took it for {}", choose::span(idle.as_secs()))));
        // Nobody can take one whose process is gone.
        let dead = self.dead()?.into_iter().map(|(id, _)| (id, "it has ended".to_owned()));
        for (id, why) in waiting.chain(dead) {
            let bytes = match smolvm_host::fsx::disk_usage(&self.paths().sandbox(&id)) {
                Ok(bytes) => bytes,
                Err(e) => {
                    report.stays("pool", id.as_str(), io_code(&e.source), e.to_string());
                    continue;
                }
            };
            if request.mode == Mode::Remove {
                match self.remove_pooled(&id) {
                    Ok(Some(_)) => report.freed_bytes += bytes,
                    Ok(None) => {
                        report.stays("pool", id.as_str(), ErrorCode::Busy, "another command is at it".to_owned());
                        continue;
                    }
                    Err(e) => {
                        report.stays("pool", id.as_str(), e.code, e.one_line());
                        continue;
                    }
                }
            }
            report.removed.push(Pruned { part: "pool", name: id.to_string(), bytes, why });
        }
        Ok(())
    }
}

impl PruneReport {
    pub(crate) fn stays(&mut self, part: &'static str, name: &str, code: ErrorCode, error: String) {
        self.failed.push(Stayed { part, name: name.to_owned(), error, code: code.as_str() });
    }

    /// All of a part stays, or what was left of it then, unless it was done with.
    fn unless(&mut self, part: &'static str, done: Result<(), Error>) {
        if let Err(e) = done {
            self.stays(part, "all", e.code, e.one_line());
        }
    }
}

pub(crate) fn unusable(e: image::ImageError) -> Error {
    Error::new(ErrorCode::Internal, "the cache cannot be looked at").hint("smolvm doctor").because(e)
}

/// Parts of which another installation's sandboxes may need some.
fn is_shared(part: Part) -> bool {
    match part {
        Part::Image | Part::Blob => true,
        Part::Template | Part::Kernel | Part::Initramfs | Part::Downloads => false,
    }
}

/// Removes these, or only says so; what may not go is told.
fn prune_parts(
    cache: &Path,
    chosen: Vec<(Unused, String)>,
    mode: Mode,
    may_go: impl Fn(Part) -> Result<(), Error>,
    report: &mut PruneReport,
) {
    for (one, why) in chosen {
        if let Err(e) = may_go(one.part) {
            report.stays(one.part.as_str(), &one.name, e.code, e.one_line());
            continue;
        }
        let name = one.name.clone();
        prune_one(cache, &one, name, why, mode, report);
    }
}

/// Removes one thing, which people call `name`, or only says so; whether it is gone, or would be. What cannot go is told.
pub(crate) fn prune_one(cache: &Path, one: &Unused, name: String, why: String, mode: Mode, report: &mut PruneReport) -> bool {
    let part = one.part.as_str();
    if mode == Mode::Remove {
        match unused::drop_unused(cache, one) {
            Ok(bytes) => report.freed_bytes += bytes,
            Err(image::ImageError::Lock(_)) => {
                report.stays(part, &name, ErrorCode::Busy, "another command is at it".to_owned());
                return false;
            }
            Err(e) => {
                let e = Error::new(ErrorCode::Internal, "it cannot be removed").because(e);
                report.stays(part, &name, e.code, e.one_line());
                return false;
            }
        }
    }
    report.removed.push(Pruned { part, name, bytes: one.bytes, why });
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::installation::Settings;
    use crate::paths::Paths;
    use crate::testing::put_image;

    const ALL: PruneRequest = PruneRequest { idle: Duration::ZERO, keep: 0, mode: Mode::Remove };

    /// An installation with an image that has no name.
    fn installation() -> (tempfile::TempDir, Smolvm) {
        let dir = tempfile::tempdir().unwrap();
        let vm = Smolvm::open(Settings::new(Paths::beneath(dir.path()))).unwrap();
        drop(vm.store().unwrap());
        put_image(&vm, 'a', "1", None);
        (dir, vm)
    }

    fn went(report: &PruneReport) -> Vec<&str> {
        report.removed.iter().map(|one| one.part).collect()
    }

    fn stayed(report: &PruneReport) -> Vec<(&str, &str)> {
        report.failed.iter().map(|one| (one.part, one.name.as_str())).collect()
    }

    #[test]
    fn what_cannot_be_swept_hides_nothing_that_went() {
        let (_dir, vm) = installation();
        // No lock file: a directory.
        std::fs::create_dir_all(vm.paths().cache.join("locks/blob-0a.lock")).unwrap();
        let report = vm.prune(ALL).unwrap();
        assert_eq!((went(&report), stayed(&report)), (vec!["image", "blob"], vec![("builds", "tmp")]));
    }

    #[test]
    fn trash_that_cannot_be_read_hides_nothing_that_went() {
        let (_dir, vm) = installation();
        std::fs::remove_dir(vm.paths().trash()).unwrap();
        std::fs::write(vm.paths().trash(), "no directory").unwrap();
        let said = vm.prune(PruneRequest { mode: Mode::Say, ..ALL }).unwrap();
        assert_eq!((went(&said), stayed(&said)), (vec!["image", "blob"], vec![("trash", "all")]));
        let report = vm.prune(ALL).unwrap();
        assert_eq!((went(&report), stayed(&report)), (vec!["image", "blob"], vec![("trash", "all")]));
    }

    #[test]
    fn locks_that_cannot_be_taken_keep_the_trash_from_nothing() {
        let (_dir, vm) = installation();
        std::fs::create_dir_all(vm.paths().trash().join("of-a-sandbox")).unwrap();
        std::fs::write(vm.paths().cache.join("locks"), "no directory").unwrap();
        let report = vm.prune(ALL).unwrap();
        assert_eq!((went(&report), stayed(&report)), (vec!["trash"], vec![("cache", "all")]));
        assert!(!vm.paths().trash().join("of-a-sandbox").exists());
    }
}
