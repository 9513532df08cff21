//! `df`: where the disk and the memory went.

use serde::Serialize;
use smolvm_host::fsx::{Tally, disk_usage};
use smolvm_host::image::unused;
use smolvm_model::state::State;

use crate::error::Error;
use crate::installation::Smolvm;
use crate::prune::{IDLE, Mode, PruneRequest, unusable};

/// What one part of the installation takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartView {
    /// `sandboxes`, `snapshots`, `images`, `templates`, …
    pub part: &'static str,
    /// How many there are.
    pub count: usize,
    /// Disk that it takes.
    pub bytes: u64,
    /// So much of it `prune` would remove.
    pub prunable_bytes: u64,
}

/// Where it all went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Part by part; together all that lies in the state directory and the cache.
    pub parts: Vec<PartView>,
    /// All of them.
    pub total_bytes: u64,
    /// So much of it `prune` would remove.
    pub prunable_bytes: u64,
    /// Sandboxes that run.
    pub running: usize,
    /// Of them, those that wait in the pool.
    pub pooled: usize,
    /// Memory that each of them has to itself, together.
    pub own_memory_bytes: u64,
}

/// Directories of the state directory, as they are called there and here.
const STATE: [(&str, &str); 3] = [("sandboxes", "sandboxes"), ("snapshots", "snapshots"), ("trash", "trash")];
/// Those of the cache, and what `prune` calls what it takes of them.
const CACHE: [(&str, &str, &str); 8] = [
    ("images", "images", "image"),
    ("blobs", "layers", "blob"),
    ("templates", "templates", "template"),
    ("kernels", "kernels", "kernel"),
    ("initramfs", "initramfs", "initramfs"),
    ("apt", "downloads", "downloads"),
    ("disks", "blank disks", ""),
    ("tmp", "builds", ""),
];

/// Directories of names that lie among the images.
const NAMES: [&str; 3] = ["by-name", "by-reference", "by-manifest"];

impl Smolvm {
    /// Looks at everything that the installation has on the disk, and at what runs. Changes nothing.
    pub fn disk_usage(&self) -> Result<Usage, Error> {
        let (state, cache) = (&self.paths().state, &self.paths().cache);
        let prune = self.prune(PruneRequest { idle: IDLE, keep: 0, mode: Mode::Say })?;
        let prunable = |part: &str| prune.removed.iter().filter(|one| one.part == part).map(|one| one.bytes).sum::<u64>();
        let count =
            |path: std::path::PathBuf| std::fs::read_dir(path).map_or(0, |entries| entries.flatten().filter(|e| e.path().is_dir()).count());
        let (mut parts, mut tally) = (Vec::new(), Tally::default());
        for (directory, part) in STATE {
            let path = state.join(directory);
            let things = if directory == "snapshots" { path.join("saved") } else { path.clone() };
            let taken = match part {
                "trash" => prunable("trash"),
                "sandboxes" => prunable("pool"),
                _ => 0,
            };
            parts.push(PartView { part, count: count(things), bytes: tally.add(&path)?, prunable_bytes: taken });
        }
        let sizes = unused::sizes(cache)?;
        for (directory, part, pruned) in CACHE {
            let bytes = sizes.iter().filter(|(name, _)| name == directory).map(|(_, bytes)| *bytes).sum();
            let things = match directory {
                "images" => {
                    let images = cache.join(directory);
                    let of_names = NAMES.iter().filter(|names| images.join(names).is_dir()).count();
                    count(images).saturating_sub(of_names)
                }
                "disks" => std::fs::read_dir(cache.join(directory)).map_or(0, Iterator::count),
                // Whole or not, with the manifests and configurations of images.
                "blobs" => unused::blobs(cache).map_err(unusable)?.len(),
                "apt" => usize::from(bytes > 0),
                _ => count(cache.join(directory)),
            };
            parts.push(PartView { part, count: things, bytes, prunable_bytes: if pruned.is_empty() { 0 } else { prunable(pruned) } });
        }
        let total_bytes = disk_usage(state)? + disk_usage(&follow(cache))?;
        let known: u64 = parts.iter().map(|part| part.bytes).sum();
        parts.push(PartView { part: "records", count: 1, bytes: total_bytes.saturating_sub(known), prunable_bytes: 0 });
        let running = self.stats(&[])?;
        Ok(Usage {
            prunable_bytes: parts.iter().map(|part| part.prunable_bytes).sum(),
            parts,
            total_bytes,
            running: running.len(),
            pooled: running.iter().filter(|one| one.state == State::Pooled.as_str()).count(),
            own_memory_bytes: running.iter().map(|one| one.own_bytes).sum(),
        })
    }
}

/// A cache may be a link to one that several share.
fn follow(path: &std::path::Path) -> std::path::PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::installation::Settings;
    use crate::paths::Paths;
    use crate::testing::put_image;

    #[test]
    fn layers_are_counted_and_what_prune_would_take_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let vm = Smolvm::open(Settings::new(Paths::beneath(dir.path()))).unwrap();
        drop(vm.store().unwrap());
        put_image(&vm, 'a', "12", Some("r.example/a:1"));
        put_image(&vm, 'b', "23", None);
        std::fs::create_dir(vm.paths().cache.join("images/by-manifest")).unwrap();
        std::fs::create_dir(vm.paths().cache.join("images/by-name")).unwrap();
        let blobs = vm.paths().cache.join("blobs");
        std::fs::create_dir(blobs.join("partial")).unwrap();
        std::fs::write(blobs.join("partial").join("4".repeat(64)), "came").unwrap();
        let long_ago = std::time::SystemTime::now() - IDLE - std::time::Duration::from_secs(1);
        let unneeded = blobs.join("3".repeat(64));
        std::fs::File::options().write(true).open(&unneeded).unwrap().set_modified(long_ago).unwrap();
        let usage = vm.disk_usage().unwrap();
        let part = |name| usage.parts.iter().find(|part| part.part == name).unwrap();
        let (layers, images) = (part("layers"), part("images"));
        assert_eq!(images.count, 2);
        assert_eq!((layers.count, layers.bytes), (4, disk_usage(&blobs).unwrap()), "{usage:?}");
        assert_eq!(layers.prunable_bytes, disk_usage(&unneeded).unwrap());
        assert_eq!(usage.prunable_bytes, images.prunable_bytes + layers.prunable_bytes);
        assert_eq!(usage.total_bytes, usage.parts.iter().map(|part| part.bytes).sum::<u64>());
    }
}
