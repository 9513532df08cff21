//! `create`: record everything, then make disk and directory.

mod spec;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use smolvm_host::disk::{Chain, share};
use smolvm_host::effect::{perform, perform_once};
use smolvm_host::fsx::{FsError, sync_dir, write_whole};
use smolvm_host::image::{self, BuiltIn, Image};
use smolvm_host::lock::Lock;
use smolvm_host::random;
use smolvm_host::store::{NewSandbox, Store};
use smolvm_model::effect::{Commit, Effect};
use smolvm_model::engine::AcceleratorRequest;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::{Entry, Kind, Status};
use smolvm_model::name::SandboxId;
use smolvm_model::quantity::{Cpus, DiskSize, Memory, Span};
use smolvm_model::reference::Reference;
use smolvm_model::spec::{ImageName, LabelKey, NetworkMode, Spec, VarName};
use smolvm_model::state::State;
use smolvm_model::teardown::Reason;

use crate::auto_name;
use crate::capacity;
use crate::clock::now_ms;
use crate::copy::lay_over_shared;
use crate::error::Error;
use crate::installation::Smolvm;
use crate::network;
use crate::paths::OWNER;
use crate::view::SandboxView;

/// What `create` is asked for; `None` means the default.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    /// The name; drawn if there is none.
    pub name: Option<SandboxId>,
    /// The image.
    pub image: ImageName,
    /// Virtual processors.
    pub cpus: Option<Cpus>,
    /// Guest memory; the image knows a default.
    pub memory: Option<Memory>,
    /// Size of the data disk.
    pub disk: Option<DiskSize>,
    /// The network; the best this user can have by default.
    pub network: Option<NetworkMode>,
    /// Variables for every command.
    pub env: BTreeMap<VarName, String>,
    /// Labels.
    pub labels: BTreeMap<LabelKey, String>,
    /// Time to live.
    pub ttl: Option<Span>,
    /// Accelerator.
    pub accelerator: AcceleratorRequest,
    /// Which processes there are beside its commands.
    pub init: Init,
}

/// Which processes a guest has beside its commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Init {
    /// The agent alone.
    #[default]
    Agent,
    /// The image's own init as well, with what that starts.
    Image,
}

/// A sandbox that this process made: its name, and what tells it from a later one of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Its name.
    pub id: SandboxId,
    /// Its row's number.
    pub(crate) seq: i64,
}

impl CreateRequest {
    /// A request for an image, everything else by default.
    pub fn of(image: ImageName) -> Self {
        Self {
            name: None,
            image,
            cpus: None,
            memory: None,
            disk: None,
            network: None,
            env: BTreeMap::new(),
            labels: BTreeMap::new(),
            ttl: None,
            accelerator: AcceleratorRequest::Auto,
            init: Init::Agent,
        }
    }
}

impl Smolvm {
    /// Makes a sandbox; on failure takes back what was made.
    pub fn create(&self, request: &CreateRequest) -> Result<(Made, SandboxView), Error> {
        let made = self.create_recorded(request)?;
        let view = self.inspect(&made.id)?.sandbox;
        Ok((made, view))
    }

    /// The same without a look at it.
    pub(crate) fn create_recorded(&self, request: &CreateRequest) -> Result<Made, Error> {
        let spec = self.spec_for(request)?;
        capacity::check_create(self.paths(), &spec, request.disk.is_some())?;
        self.create_from(request.name.as_ref(), request.ttl.map(Span::duration), &spec)
    }

    /// What a request comes to, with every default filled in.
    pub(crate) fn spec_for(&self, request: &CreateRequest) -> Result<Spec, Error> {
        spec::spec_of(request, &self.image(&request.image)?)
    }

    /// Makes exactly this; a name is drawn if none is given.
    pub(crate) fn create_from(&self, name: Option<&SandboxId>, ttl: Option<Duration>, spec: &Spec) -> Result<Made, Error> {
        self.create_with(name, ttl, spec, None)
    }

    /// The same with the disk whose lowest file this is, or a copy of it.
    pub(crate) fn create_with(
        &self,
        name: Option<&SandboxId>,
        ttl: Option<Duration>,
        spec: &Spec,
        disk: Option<&Path>,
    ) -> Result<Made, Error> {
        let mut store = self.store()?;
        let reservation = self.prepare_reservation(&mut store, spec.network)?;
        // It was found a while ago; from here on the row keeps it.
        let using = self.using_images()?;
        self.image_is_still_here(spec)?;
        let (made, lock) = self.insert(&mut store, (name, ttl), spec, &reservation)?;
        drop(using);
        let id = made.id.clone();
        match self.make_state_dir(&id, spec, disk) {
            Ok(()) => {
                let done = store.write(Commit::Created, |w| -> Result<(), Error> {
                    w.set_status(Kind::StateDir, id.as_str(), Status::Held)?;
                    w.set_state(&id, 0, State::Created)?;
                    Ok(())
                });
                match done {
                    Ok(()) => Ok(made),
                    Err(e) => Err(self.roll_back(&mut store, &id, lock, e)),
                }
            }
            Err(e) => Err(self.roll_back(&mut store, &id, lock, e)),
        }
    }

    /// The image of that name, or the way to get it.
    pub(crate) fn image(&self, name: &ImageName) -> Result<Image, Error> {
        self.image_if_any(name)?.ok_or_else(|| Error::new(ErrorCode::NotFound, format!("there is no image \"{name}\"")).hint(way_to(name)))
    }

    /// Whether what was found under the image's name, or saved with a snapshot, was not removed meanwhile.
    fn image_is_still_here(&self, spec: &Spec) -> Result<(), Error> {
        let is_here = spec.image_digest.parse().is_ok_and(|digest| image::is_here(&self.paths().cache, &digest));
        if is_here {
            return Ok(());
        }
        let name = &spec.image;
        Err(Error::new(ErrorCode::NotFound, format!("the image \"{name}\" was removed by another command")).hint(way_to(name)))
    }

    /// What a registry calls it; names without one are the default registry's.
    pub(crate) fn reference(&self, name: &ImageName) -> Option<Reference> {
        name.reference(&self.settings.registries.default)
    }

    /// The image of that name: of this host's own, then of a registry's.
    pub(crate) fn image_if_any(&self, name: &ImageName) -> Result<Option<Image>, Error> {
        let cache = &self.paths().cache;
        let found = match image::resolve(cache, name.as_str()) {
            Err(image::ImageError::NotFound { .. }) => match self.reference(name) {
                Some(reference) => image::resolve_reference(cache, &reference),
                None => Ok(None),
            },
            found => found.map(Some),
        };
        found.map_err(|other| {
            Error::new(ErrorCode::Internal, format!("the image \"{name}\" cannot be used"))
                .hint(format!("smolvm setup --image {name}"))
                .because(other)
        })
    }

    /// Records the sandbox and every name it will use, in one transaction, under its lock.
    fn insert(
        &self,
        store: &mut Store,
        (name, ttl): (Option<&SandboxId>, Option<Duration>),
        spec: &Spec,
        reservation: &network::Reservation,
    ) -> Result<(Made, Lock), Error> {
        let created_ms = now_ms();
        let expires_ms = ttl.map(|ttl| created_ms.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX)));
        // A drawn name that is taken is drawn again; a chosen one that is taken is the user's to change.
        for _ in 0..8 {
            let id = match name {
                Some(id) => id.clone(),
                None => draw()?,
            };
            let lock = self.lock(&id)?;
            let done = store.write(Commit::Create, |w| -> Result<i64, Error> {
                let seq = w.insert_sandbox(&NewSandbox { id: &id, spec, created_ms, expires_ms })?;
                w.insert_entry(&Entry {
                    sandbox: id.clone(),
                    kind: Kind::StateDir,
                    key: id.to_string(),
                    status: Status::Intended,
                    identity: None,
                })?;
                network::reserve(self, w, &id, reservation).map(|()| seq)
            });
            match done {
                Ok(seq) => return Ok((Made { id, seq }, lock)),
                Err(e) if e.code == ErrorCode::AlreadyExists && name.is_none() => {}
                Err(e) if e.code == ErrorCode::AlreadyExists => {
                    return Err(Error::new(ErrorCode::AlreadyExists, format!("a sandbox \"{id}\" exists already"))
                        .hint(format!("choose another name, or remove it: smolvm delete {id}")));
                }
                Err(e) => {
                    let _ = lock.remove();
                    return Err(e);
                }
            }
        }
        Err(Error::new(ErrorCode::Busy, "no free name was drawn in eight tries").hint("give it a name: --name NAME"))
    }

    fn make_state_dir(&self, id: &SandboxId, spec: &Spec, disk: Option<&Path>) -> Result<(), Error> {
        let dir = self.paths().sandbox(id);
        perform_once(Effect::StateDir, |_| self.claim_state_dir(id, &dir))?;
        if let Some(from) = disk {
            let disk = self.paths().disk(id);
            // On the disk before the record says that it is there: nobody could make it again.
            return perform_once(Effect::DataDisk, |_| {
                share(&Chain::read(from)?, &disk, |bytes| self.room_for(bytes))?;
                lay_over_shared(&disk, spec.disk.bytes())?;
                // All of them: what only got another name here may have been copied on its way here.
                Chain::read(&disk)?.sync()?;
                Ok(sync_dir(&dir)?)
            });
        }
        perform_once(Effect::DataDisk, |permit| {
            let made = image::make_data_disk(permit, &self.paths().cache, spec.disk.bytes(), &self.paths().disk(id));
            made.map_err(|e| {
                Error::new(ErrorCode::ResourceExhausted, format!("the disk of \"{id}\" cannot be made"))
                    .hint("see free space with: smolvm doctor")
                    .because(e)
            })?;
            Ok(sync_dir(&dir)?)
        })
    }

    fn claim_state_dir(&self, id: &SandboxId, dir: &Path) -> Result<(), Error> {
        let fail = |errno: Errno| FsError { action: "make the directory", path: dir.to_owned(), source: errno.into() };
        match mkdirat(CWD, dir, Mode::RWXU) {
            // Left by a sandbox that no record knows any more: not overwritten, it may hold somebody's work.
            Err(Errno::EXIST) => {
                return Err(Error::new(ErrorCode::Refused, format!("files of an earlier sandbox \"{id}\" lie in {}", dir.display()))
                    .hint(format!("smolvm cleanup --prefix {id} --force   removes what is in no record")));
            }
            other => other.map_err(fail)?,
        }
        Ok(write_whole(&dir.join(OWNER), format!("{}\n", self.mark(id)).as_bytes(), 0o600)?)
    }

    /// A failed create is taken back; the error tells when that failed too.
    fn roll_back(&self, store: &mut Store, id: &SandboxId, lock: Lock, cause: Error) -> Error {
        // What refused us is not ours to remove.
        if cause.code == ErrorCode::Refused {
            let _ = forget(store, id, lock);
            return cause;
        }
        match self.remove_locked(store, std::slice::from_ref(id), Reason::Delete) {
            Ok(report) if report.is_clear(id) => {
                // One that stays is swept by the next cleanup.
                let _ = lock.remove();
                cause
            }
            Ok(_) | Err(_) => {
                let hint = format!("some of it could not be taken back: smolvm delete {id}");
                Error { recovery: Some(cause.recovery.clone().map_or(hint.clone(), |r| format!("{r}; {hint}"))), ..cause }
            }
        }
    }
}

/// How to get an image that is not here.
fn way_to(name: &ImageName) -> String {
    if BuiltIn::by_name(name.as_str()).is_some() {
        format!("smolvm setup --image {name}")
    } else {
        format!("smolvm image pull {name}; images that are here: smolvm image list")
    }
}

/// Drops the record of a sandbox that has nothing on the host.
fn forget(store: &mut Store, id: &SandboxId, lock: Lock) -> Result<(), Error> {
    let Some((_, entries)) = store.sandbox(id)? else { return Ok(()) };
    store.write(Commit::Forget, |w| -> Result<(), Error> {
        for e in &entries {
            w.drop_entry(e.kind, &e.key)?;
        }
        Ok(w.delete_sandbox(id)?)
    })?;
    let _ = lock.remove();
    Ok(())
}

fn draw() -> Result<SandboxId, Error> {
    let no_name = || Error::new(ErrorCode::Internal, "no name could be drawn");
    let bytes = random::bytes().map_err(|e| no_name().because(e))?;
    auto_name::from_random(bytes).ok_or_else(no_name)
}

/// Makes a run directory with its owner file; one of ours that is there already is taken over.
pub(crate) fn make_run_dir(vm: &Smolvm, id: &SandboxId) -> Result<(), Error> {
    perform(Effect::RunDir, |_| claim_run_dir(vm, id))
}

fn claim_run_dir(vm: &Smolvm, id: &SandboxId) -> Result<(), Error> {
    let dir = vm.paths().run_dir(id);
    smolvm_host::fsx::create_private_dir(&vm.paths().run)?;
    match mkdirat(CWD, &dir, Mode::RWXU) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            // Two state directories may share one run directory: what is another's is left alone.
            let owner = std::fs::read_to_string(dir.join(OWNER)).unwrap_or_default();
            if !owner.is_empty() && owner.trim_end() != vm.mark(id).to_string() {
                return Err(Error::new(ErrorCode::Refused, format!("{} belongs to {}", dir.display(), owner.trim_end().escape_debug()))
                    .hint("choose another name, or give the installations run directories of their own"));
            }
        }
        Err(errno) => return Err(FsError { action: "make the directory", path: dir, source: errno.into() }.into()),
    }
    let fd = openat(CWD, &dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| FsError { action: "open the directory", path: dir.clone(), source: errno.into() })?;
    let uid = rustix::fs::fstat(fd.as_fd()).map_err(|errno| FsError { action: "look at", path: dir.clone(), source: errno.into() })?.st_uid;
    if uid != rustix::process::geteuid().as_raw() {
        return Err(Error::new(ErrorCode::Refused, format!("{} belongs to uid {uid}", dir.display())));
    }
    // What it says is on the disk before its name is. That name may be lost in a power cut: no run outlives one.
    Ok(write_whole(&dir.join(OWNER), format!("{}\n", vm.mark(id)).as_bytes(), 0o600)?)
}
