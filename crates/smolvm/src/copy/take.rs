//! Takes the copy: memory, devices and disk, all of the same moment.
//!
//! While the guest stands still its own memory is read, and it waits for nothing that is written where that can be (`AtRest`). Whoever calls
//! holds the sandbox's lock, so nothing else changes it; its monitor lets the guest go on as soon as this process is gone. What is left
//! to do then (`Rest`) needs no lock: it is files that are open.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use smolvm_host::disk::share;
use smolvm_host::effect::{perform, perform_once};
use smolvm_host::engine::guest_memory::{Counted, GuestMemory};
use smolvm_host::fsx::FsError;
use smolvm_host::image::snapshot::{Draft, Files, Kind};
use smolvm_host::proc::identity;
use smolvm_host::store::SandboxRecord;
use smolvm_host::threads::beside;
use smolvm_model::effect::Effect;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::{Entry, Kind as Held, ProcessIdentity};
use smolvm_model::name::SandboxId;
use smolvm_proto::{MonitorErrorCode, MonitorReply, MonitorRequest};

use super::disk::Way;
use super::memory::{Begun, Left, Order, Rest, unreadable};
use crate::error::Error;
use crate::installation::Smolvm;
use crate::run::has_signal;
use crate::session::Session;

/// What coming to rest, or going on, may take: the monitor gives up before.
const DEADLINE: Duration = Duration::from_secs(30);

/// What is to be copied, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CopyWanted<'a> {
    /// What of it.
    pub(crate) kind: Kind,
    /// Whether the guest writes out its disk first.
    pub(crate) sync: Sync,
    /// When which part of its memory is copied.
    pub(crate) order: Order,
    /// Readable once the caller was told to give up.
    pub(crate) signals: Option<BorrowedFd<'a>>,
}

/// Whether the guest writes to its disk what it holds back, before it is halted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    /// It does: the disk can be used without the memory.
    First,
    /// It need not: the two stay together.
    No,
}

/// What a copy was.
#[derive(Debug)]
pub(crate) struct Copied {
    /// Memory that the guest had to itself.
    pub(crate) own_bytes: u64,
    /// How long it stood still.
    pub(crate) halted: Duration,
    /// What of its memory is to be copied yet.
    pub(crate) rest: Option<Rest>,
    /// What of its memory is not read again when it is given its name.
    pub(crate) counted: Option<Counted>,
}

impl Smolvm {
    /// Copies a sandbox that runs, or is paused, into these files.
    pub(crate) fn copy_running(
        &self,
        record: &SandboxRecord,
        entries: &[Entry],
        files: &Files,
        wanted: CopyWanted<'_>,
    ) -> Result<Copied, Error> {
        let (id, kind) = (&record.id, wanted.kind);
        let process = process_of(entries).ok_or_else(|| not_there(id))?;
        let mut session = Session::connect(self, id)?;
        let located = located(&mut session, id)?;
        let way = self.way_of_disk(record, &located.layers, &mut session, files)?;
        // Where blocks are shared, many small pieces would cost more than the whole.
        let order = if matches!(way, Way::Clone(_)) { wanted.order.whole() } else { wanted.order };
        let copy_ahead = || match kind {
            Kind::Machine => self.copy_ahead(record, process, &located, files, order).map(Some),
            Kind::Disk => Ok(None),
        };
        // What is written now need not be written while the guest stands still.
        let began = Instant::now();
        let (synced, memory) = beside(|| way.chain().sync_top(), copy_ahead);
        let mut memory = memory?;
        synced?;
        // Much was copied; and the guest has written on.
        if began.elapsed() > LONG {
            way.chain().sync_top()?;
        }
        if wanted.signals.is_some_and(has_signal) {
            return Err(Error::new(ErrorCode::Interrupted, format!("interrupted while \"{id}\" was copied")));
        }
        memory.as_mut().map_or(Ok(()), Begun::check).map_err(unreadable(id))?;
        let layer = self.lay(record, &way)?;
        let mut memory = memory.map(Begun::get_ready).transpose().map_err(unreadable(id))?;
        let freeze = MonitorRequest::Freeze { sync: wanted.sync == Sync::First, layer };
        let layered = perform(Effect::Freeze, |_| match ask(&mut session, &freeze, id)? {
            MonitorReply::Frozen { layered } => Ok(layered),
            _ => Err(odd_answer()),
        })?;
        let began = Instant::now();
        let copied = perform(Effect::Workdir, |_| -> Result<(u64, Vec<u8>), Error> {
            let Some(memory) = memory.as_mut() else { return Ok(Default::default()) };
            let own_bytes = memory.catch_up().map_err(unreadable(id))?;
            Ok((own_bytes, devices_of(&self.paths().saved_devices(id))?))
        });
        // What lies below a layer that is written to now stays what it is.
        let shared = if layered { Ok(()) } else { self.share_disk(&way, files) };
        let thawed = perform(Effect::Thaw, |_| match ask(&mut session, &MonitorRequest::Thaw, id)? {
            MonitorReply::Resumed | MonitorReply::Paused => Ok(()),
            _ => Err(odd_answer()),
        });
        let halted = began.elapsed();
        let (own_bytes, devices) = copied?;
        shared.and(thawed)?;
        if layered {
            self.share_disk(&way, files)?;
        }
        let left = memory.map(|memory| {
            perform_once(Effect::Workdir, |_| -> Result<Left, Error> {
                write_small(&devices, &files.devices)?;
                memory.finish().map_err(unreadable(id))
            })
        });
        let Left { rest, counted } = left.transpose()?.unwrap_or_default();
        Ok(Copied { own_bytes, halted, rest, counted })
    }

    fn share_disk(&self, way: &Way, files: &Files) -> Result<(), Error> {
        perform(Effect::Workdir, |_| share(way.chain(), &files.disk, |bytes| self.room_for(bytes)))
    }

    /// Copies what the guest has while it runs on.
    fn copy_ahead(
        &self,
        record: &SandboxRecord,
        process: &ProcessIdentity,
        located: &Located,
        files: &Files,
        order: Order,
    ) -> Result<Begun, Error> {
        let id = &record.id;
        let &Located { pid, address, .. } = located;
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
        let (backing, pages) = memory.backing_bytes().and_then(|backing| Ok((backing, memory.pages()?))).map_err(unreadable(id))?;
        self.room_for(backing.saturating_add(pages.own.bytes()))?;
        Begun::begin(memory, &files.memory, order, &pages, id)
    }
}

/// What its monitor says of a machine that runs.
struct Located {
    pid: u32,
    address: u64,
    layers: Vec<u32>,
}

fn located(session: &mut Session, id: &SandboxId) -> Result<Located, Error> {
    match ask(session, &MonitorRequest::Locate, id)? {
        MonitorReply::Located { pid, address, layers } => Ok(Located { pid, address, layers }),
        _ => Err(odd_answer()),
    }
}

fn process_of(entries: &[Entry]) -> Option<&ProcessIdentity> {
    entries.iter().find(|entry| entry.kind == Held::Process).and_then(|entry| entry.identity.as_ref())
}

/// One question, one answer; a refusal is an error.
pub(super) fn ask(session: &mut Session, request: &MonitorRequest, id: &SandboxId) -> Result<MonitorReply, Error> {
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

/// Reads a file of some kilobytes; a hypervisor that wrote more meant no good. It stays where it is, and goes with the sandbox.
fn devices_of(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(DEVICES_CAP + 1).read_to_end(&mut bytes)).map_err(FsError::on("read", path))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > DEVICES_CAP {
        return Err(Error::new(ErrorCode::GuestError, "the hypervisor wrote more about its devices than it has"));
    }
    Ok(bytes)
}

fn write_small(bytes: &[u8], path: &Path) -> Result<(), Error> {
    Ok(Draft::make(path)?.write_all(bytes).map_err(FsError::on("write", path))?)
}

/// In so much time a guest writes little that it would have to wait for. A copy of pages that fit in our own memory takes less.
const LONG: Duration = Duration::from_millis(50);

/// The state of a machine's devices has 13 to 63 KiB.
const DEVICES_CAP: u64 = 16 << 20;

fn not_there(id: &SandboxId) -> Error {
    Error::new(ErrorCode::GuestError, format!("\"{id}\" ended while it was looked at")).hint(format!("smolvm inspect {id}"))
}

pub(super) fn odd_answer() -> Error {
    Error::new(ErrorCode::Internal, "the monitor answered something else than it was asked")
}
