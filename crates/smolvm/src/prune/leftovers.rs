//! What killed commands left: nobody has ever needed it.

use std::fs::File;
use std::io::ErrorKind;

use smolvm_host::effect::perform;
use smolvm_host::fsx::{FsError, disk_usage, remove_tree};
use smolvm_host::image::{self, snapshot};
use smolvm_model::effect::Effect;

use super::{Mode, PruneReport, Pruned, unusable};
use crate::error::{Error, io_code};
use crate::installation::Smolvm;

impl Smolvm {
    /// What was moved away to be removed.
    pub(super) fn prune_trash(&self, mode: Mode, report: &mut PruneReport) -> Result<(), Error> {
        let trash = self.paths().trash();
        let handle = match File::open(&trash) {
            Ok(handle) => handle,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(FsError::on("open", &trash)(e).into()),
        };
        for entry in std::fs::read_dir(&trash).map_err(FsError::on("read", &trash))? {
            let name = entry.map_err(FsError::on("read", &trash))?.file_name();
            let shown = name.to_string_lossy().into_owned();
            let went = disk_usage(&trash.join(&name)).and_then(|bytes| match mode {
                Mode::Remove => perform(Effect::EmptyTrash, |_| remove_tree(&handle, &name)).map(|_| bytes),
                Mode::Say => Ok(bytes),
            });
            match went {
                Ok(bytes) => {
                    if mode == Mode::Remove {
                        report.freed_bytes += bytes;
                    }
                    report.removed.push(Pruned { part: "trash", name: shown, bytes, why: "of a deleted sandbox".to_owned() });
                }
                Err(e) => report.stays("trash", &shown, io_code(&e.source), e.to_string()),
            }
        }
        Ok(())
    }

    /// What makers of images, templates and snapshots were at.
    pub(super) fn prune_builds(&self, report: &mut PruneReport) {
        let (cache, snapshots) = (&self.paths().cache, &self.paths().snapshots());
        for swept in [image::sweep(cache).map_err(unusable), snapshot::sweep(snapshots).map_err(crate::snapshot::unusable)] {
            match swept {
                Ok(0) => {}
                Ok(bytes) => {
                    report.freed_bytes += bytes;
                    let why = "their makers were killed".to_owned();
                    report.removed.push(Pruned { part: "builds", name: "tmp".to_owned(), bytes, why });
                }
                Err(e) => report.stays("builds", "tmp", e.code, e.one_line()),
            }
        }
    }
}
