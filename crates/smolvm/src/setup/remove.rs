//! `setup --remove`: takes away what `setup` made.

use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use serde::Serialize;
use smolvm_host::effect::perform;
use smolvm_host::fsx::{FsError, Removed, remove_tree};
use smolvm_host::image;
use smolvm_model::effect::Effect;
use smolvm_model::error_code::ErrorCode;

use super::failure;
use crate::error::Error;
use crate::image::linked;
use crate::installation::Smolvm;

/// What `setup --remove` did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RemoveReport {
    /// Files and directories that are gone.
    pub entries: u64,
    /// Bytes of disk they held.
    pub freed_bytes: u64,
    /// What was left on purpose.
    pub kept: Vec<String>,
}

impl Smolvm {
    /// Removes kernel, initramfs, images and what was measured. Refuses while there are sandboxes.
    pub fn setup_remove(&self) -> Result<RemoveReport, Error> {
        self.refuse_while_in_use()?;
        let cache = &self.paths().cache;
        if cache.is_symlink() {
            return Err(linked("what setup made"));
        }
        // Looked at once more when nobody can make anything any more.
        let _pool = self.hold_pool();
        let held = image::hold(cache).map_err(|e| failure::of("the cache", e))?;
        self.refuse_while_in_use()?;
        let removed = image::remove(cache, held).map_err(|e| failure::of("the cache", e))?;
        let measured = remove_measured(cache)?;
        // Ours to take only when it is empty.
        let _ = perform(Effect::RemoveCache, |_| std::fs::remove_dir(cache));
        Ok(RemoveReport {
            entries: removed.entries + measured.entries,
            freed_bytes: removed.bytes + measured.bytes,
            kept: vec!["packages of the system: smolvm never removes them, others may need them by now".to_owned()],
        })
    }

    fn refuse_while_in_use(&self) -> Result<(), Error> {
        // What was saved cannot go on without its image.
        if image::snapshot::is_at_work(&self.paths().snapshots()).map_err(crate::snapshot::unusable)? {
            return Err(Error::new(ErrorCode::Busy, "a snapshot is being made, and needs its image").hint("try again when that is done"));
        }
        let saved = image::snapshot::names(&self.paths().snapshots())?;
        if let Some(first) = saved.first() {
            return Err(Error::new(
                ErrorCode::Refused,
                format!("{} snapshots need their images: {first}{}", saved.len(), if saved.len() > 1 { ", …" } else { "" }),
            )
            .hint("smolvm snapshot list; smolvm snapshot delete NAME"));
        }
        let Some(store) = self.store_if_any()? else { return Ok(()) };
        let in_use: Vec<String> = store.table()?.sandboxes.iter().map(|record| record.id.to_string()).collect();
        if in_use.is_empty() {
            return Ok(());
        }
        let shown = in_use.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
        let more = if in_use.len() > 5 { format!(" and {} more", in_use.len() - 5) } else { String::new() };
        Err(Error::new(ErrorCode::Refused, format!("sandboxes need kernel and images: {shown}{more}"))
            .hint("remove them first: smolvm cleanup --all"))
    }
}

/// What the engine's probes left beside the images.
fn remove_measured(cache: &Path) -> Result<Removed, Error> {
    let mut removed = Removed::default();
    let directory = match File::open(cache) {
        Ok(directory) => directory,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(removed),
        Err(e) => return Err(FsError::on("open", cache)(e).into()),
    };
    for entry in std::fs::read_dir(cache).map_err(FsError::on("read", cache))? {
        let name = entry.map_err(FsError::on("read", cache))?.file_name();
        if is_measured(&name) {
            let one = perform(Effect::RemoveCache, |_| remove_tree(&directory, &name))?;
            removed.entries += one.entries;
            removed.bytes += one.bytes;
        }
    }
    Ok(removed)
}

fn is_measured(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    name == "engine" || name == "host.json" || (name.starts_with("qemu-") && Path::new(name).extension().is_some_and(|e| e == "json"))
}
