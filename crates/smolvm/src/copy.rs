//! Copies a sandbox as it runs: memory, devices and disk, all of the same moment.
//!
//! ```text
//!   command   ask where ─► copy ahead ─► freeze ─► copy what changed, devices, disk ─► thaw
//!   guest     runs ────────────────────► at rest, halted ────────────────────────────► runs, with the right time
//! ```
//!
//! What was copied ahead makes the second pass one over pages that the file has already. Whoever calls holds the
//! sandbox's lock, so nothing else changes it; its monitor lets the guest go on as soon as this process is gone.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use smolvm_host::effect::perform;
use smolvm_host::engine::guest_memory::GuestMemory;
use smolvm_host::fsx::{FsError, copy_data};
use smolvm_host::image::snapshot::{Draft, Files, Kind};
use smolvm_host::proc::{identity, usage};
use smolvm_host::store::SandboxRecord;
use smolvm_model::effect::Effect;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::{Entry, Kind as Held, ProcessIdentity};
use smolvm_model::name::SandboxId;
use smolvm_proto::{MonitorErrorCode, MonitorReply, MonitorRequest};

use crate::error::{Error, io_code};
use crate::installation::Smolvm;
use crate::session::Session;

/// What coming to rest, or going on, may take: the monitor gives up before.
const DEADLINE: Duration = Duration::from_secs(30);

/// What a copy was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Copied {
    /// Memory that the guest had to itself.
    pub(crate) own_bytes: u64,
    /// How long it stood still.
    pub(crate) halted: Duration,
}

impl Smolvm {
    /// Copies a sandbox that runs, or is paused, into these files.
    pub(crate) fn copy_running(&self, record: &SandboxRecord, entries: &[Entry], files: &Files, kind: Kind) -> Result<Copied, Error> {
        let id = &record.id;
        let process = process_of(entries).ok_or_else(|| not_there(id))?;
        let mut session = Session::connect(self, id)?;
        let memory = match kind {
            Kind::Machine => Some(self.copy_ahead(record, process, &mut session, files)?),
            Kind::Disk => {
                located(&mut session, id)?;
                None
            }
        };
        let freeze = MonitorRequest::Freeze { sync: kind == Kind::Disk };
        perform(Effect::Freeze, |_| match ask(&mut session, &freeze, id)? {
            MonitorReply::Frozen => Ok(()),
            _ => Err(odd_answer()),
        })?;
        let began = Instant::now();
        let copied = perform(Effect::Workdir, |_| -> Result<u64, Error> {
            let own_bytes = match &memory {
                Some((memory, file)) => memory.copy_changed(file).map_err(unreadable(id))?,
                None => 0,
            };
            if kind == Kind::Machine {
                copy_small(&self.paths().saved_devices(id), &files.devices)?;
            }
            self.copy_disk(record, files)?;
            Ok(own_bytes)
        });
        let thawed = perform(Effect::Thaw, |_| match ask(&mut session, &MonitorRequest::Thaw, id)? {
            MonitorReply::Resumed | MonitorReply::Paused => Ok(()),
            _ => Err(odd_answer()),
        });
        let halted = began.elapsed();
        let own_bytes = copied?;
        thawed.map(|()| Copied { own_bytes, halted })
    }

    /// Copies the disk alone; the sandbox stands still, or was never started.
    pub(crate) fn copy_disk(&self, record: &SandboxRecord, files: &Files) -> Result<(), Error> {
        let from = self.paths().disk(&record.id);
        let source = File::open(&from).map_err(FsError::on("open", &from))?;
        let target = Draft::make(&files.disk)?;
        Ok(copy_data(&source, &target, record.spec.disk.bytes()).map_err(FsError::on("copy into", &files.disk))?)
    }

    /// Room that a copy may take: what the guest has in memory, and what is on its disk.
    pub(crate) fn copy_needs_mib(&self, record: &SandboxRecord, entries: &[Entry], kind: Kind) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let disk = std::fs::metadata(self.paths().disk(&record.id)).map_or(0, |disk| disk.blocks() * 512);
        let seen = process_of(entries).and_then(|process| usage::look(self.proc(), process.pid).ok().flatten());
        let memory = match kind {
            Kind::Machine => seen.map_or(0, |used| used.own_bytes.saturating_add(used.shared_bytes)),
            Kind::Disk => 0,
        };
        (memory.saturating_add(disk) >> 20).saturating_add(1)
    }

    /// Copies what the guest has while it runs on.
    fn copy_ahead(
        &self,
        record: &SandboxRecord,
        process: &ProcessIdentity,
        session: &mut Session,
        files: &Files,
    ) -> Result<(GuestMemory, File), Error> {
        let id = &record.id;
        let (pid, address) = located(session, id)?;
        if pid != process.pid {
            return Err(not_there(id));
        }
        let bytes = u64::from(record.spec.memory.mib()) << 20;
        let memory = GuestMemory::open(self.proc(), pid, address, bytes).map_err(unreadable(id))?;
        // What was opened is that process's for good; and it was the one that is meant if it still is.
        let seen = identity::look(self.proc(), pid).ok().flatten();
        if seen.is_none_or(|seen| seen.start_ticks != process.start_ticks) {
            return Err(not_there(id));
        }
        let file = perform(Effect::Workdir, |_| -> Result<File, Error> {
            let file = Draft::make(&files.memory)?;
            memory.copy_backing(&file).and_then(|()| memory.copy_own(&file)).map_err(unreadable(id))?;
            Ok(file)
        })?;
        Ok((memory, file))
    }
}

fn located(session: &mut Session, id: &SandboxId) -> Result<(u32, u64), Error> {
    match ask(session, &MonitorRequest::Locate, id)? {
        MonitorReply::Located { pid, address } => Ok((pid, address)),
        _ => Err(odd_answer()),
    }
}

fn process_of(entries: &[Entry]) -> Option<&ProcessIdentity> {
    entries.iter().find(|entry| entry.kind == Held::Process).and_then(|entry| entry.identity.as_ref())
}

/// One question, one answer; a refusal is an error.
fn ask(session: &mut Session, request: &MonitorRequest, id: &SandboxId) -> Result<MonitorReply, Error> {
    session.send_request(request)?;
    match session.wait_reply(Instant::now() + DEADLINE).map_err(|e| e.about(id))? {
        MonitorReply::Error { code, message } => Err(match code {
            MonitorErrorCode::Busy => Error::new(ErrorCode::Busy, message),
            MonitorErrorCode::Unsupported => {
                Error::new(ErrorCode::Unsupported, format!("\"{id}\" was started by a smolvm that cannot copy it"))
                    .hint(format!("start it again with this one: smolvm stop {id} && smolvm start {id}"))
            }
            MonitorErrorCode::GuestNotReady | MonitorErrorCode::Paused | MonitorErrorCode::Timeout | MonitorErrorCode::Engine => {
                Error::new(ErrorCode::GuestError, format!("\"{id}\" cannot be copied: {message}")).hint(format!("smolvm logs {id}"))
            }
        }),
        reply => Ok(reply),
    }
}

/// Copies a file of some kilobytes; a hypervisor that wrote more meant no good.
fn copy_small(from: &Path, to: &Path) -> Result<(), Error> {
    use std::io::{Read, Write};
    let mut bytes = Vec::new();
    File::open(from).and_then(|file| file.take(DEVICES_CAP + 1).read_to_end(&mut bytes)).map_err(FsError::on("read", from))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > DEVICES_CAP {
        return Err(Error::new(ErrorCode::GuestError, "the hypervisor wrote more about its devices than it has"));
    }
    // It stays where it is, and goes with the run directory.
    Ok(Draft::make(to)?.write_all(&bytes).map_err(FsError::on("write", to))?)
}

/// The state of a machine's devices has 13 to 63 KiB.
const DEVICES_CAP: u64 = 16 << 20;

fn unreadable(id: &SandboxId) -> impl FnOnce(std::io::Error) -> Error {
    let message = format!("the memory of \"{id}\" cannot be copied");
    move |e| Error::new(io_code(&e), message).because(e)
}

fn not_there(id: &SandboxId) -> Error {
    Error::new(ErrorCode::GuestError, format!("\"{id}\" ended while it was looked at")).hint(format!("smolvm inspect {id}"))
}

fn odd_answer() -> Error {
    Error::new(ErrorCode::Internal, "the monitor answered something else than it was asked")
}
