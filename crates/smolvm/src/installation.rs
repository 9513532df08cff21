//! One installation: a state directory, its identity on the host, and the way to its ledger.

use std::path::{Path, PathBuf};
use std::time::Duration;

use smolvm_host::effect::{self, perform};
use smolvm_host::fsx::create_private_dir;
use smolvm_host::image::registry::{Access, Logins};
use smolvm_host::lock::{self, Lock};
use smolvm_host::proc::boot;
use smolvm_host::store::Store;
use smolvm_model::effect::Effect;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::{InstallId, Mark, SandboxId};
use smolvm_model::registries::Registries;

use crate::error::Error;
use crate::paths::Paths;

/// How long a command waits for another that is at work on the same sandbox before it says `busy`.
///
/// Longer than the moment for which a mere look holds the lock, shorter than a person waits.
pub(crate) const LOCK_WAIT: Duration = Duration::from_millis(300);

/// Everything that depends on who runs smolvm and where; resolved once by the caller.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Settings {
    /// Where things are kept.
    pub paths: Paths,
    /// This program, to be run again as a monitor.
    pub program: PathBuf,
    /// The hypervisor to use instead of the one that is found.
    pub hypervisor: Option<PathBuf>,
    /// Where the id of this boot is read.
    pub boot_id_source: PathBuf,
    /// Where logins for registries are.
    #[serde(skip)]
    pub logins: Logins,
    /// Where registries are; only who pulls needs to know.
    #[serde(skip)]
    pub registries: Registries,
    /// How they are reached; passwords of proxies are in it.
    #[serde(skip)]
    pub access: Access,
    /// What a test wants to go wrong, and where ([`smolvm_host::effect`]); a release does not read it.
    #[serde(default)]
    pub fault: Option<String>,
    /// Where a test reads which effects were passed; a release does not write it.
    #[serde(default)]
    pub trace: Option<PathBuf>,
}

impl Settings {
    /// The ordinary settings for these paths.
    pub fn new(paths: Paths) -> Self {
        Self {
            paths,
            program: PathBuf::from("/proc/self/exe"),
            hypervisor: None,
            boot_id_source: PathBuf::from(boot::SOURCE),
            logins: Logins::default(),
            registries: Registries::default(),
            access: Access::default(),
            fault: None,
            trace: None,
        }
    }
}

/// A handle on an installation. Making one changes nothing on the host.
#[derive(Debug, Clone)]
pub struct Smolvm {
    pub(crate) settings: Settings,
    pub(crate) install: InstallId,
    pub(crate) boot_id: String,
}

impl Smolvm {
    /// Finds out which installation the settings mean.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        effect::arm(settings.fault.as_deref(), settings.trace.as_deref())
            .map_err(|e| Error::new(ErrorCode::UsageError, "the order for a test cannot be carried out").because(e))?;
        let install = smolvm_host::install::identify(&settings.paths.state)
            .map_err(|e| Error::new(ErrorCode::PermissionDenied, "the state directory cannot be found out").because(e))?;
        let boot_id = boot::boot_id(&settings.boot_id_source).map_err(|e| {
            Error::new(ErrorCode::Unsupported, "the id of this boot cannot be read").hint("/proc must be mounted").because(e)
        })?;
        Ok(Self { settings, install, boot_id })
    }

    /// The installation's id, as it stands in every mark.
    pub fn install_id(&self) -> &InstallId {
        &self.install
    }

    /// Where things are kept.
    pub fn paths(&self) -> &Paths {
        &self.settings.paths
    }

    /// The kernel's view of processes.
    #[expect(clippy::unused_self, reason = "a place for tests to put another one")]
    pub(crate) fn proc(&self) -> &Path {
        Path::new("/proc")
    }

    pub(crate) fn mark(&self, id: &SandboxId) -> Mark {
        Mark::new(self.install.clone(), id.clone())
    }

    /// The ledger; made if there is none.
    pub(crate) fn store(&self) -> Result<Store, Error> {
        let paths = self.paths();
        make_home(&[&paths.state, &paths.run, &paths.cache, &paths.locks(), &paths.sandboxes(), &paths.trash()])?;
        Ok(Store::open(&paths.database())?)
    }

    /// The ledger for a look: makes nothing, and changes no byte of it.
    pub(crate) fn look(&self) -> Result<Option<Store>, Error> {
        Ok(Store::look(&self.paths().database())?)
    }

    /// The ledger if there is one; makes nothing.
    pub(crate) fn store_if_any(&self) -> Result<Option<Store>, Error> {
        Ok(Store::open_existing(&self.paths().database())?)
    }

    /// The lock on one sandbox, for the length of an operation.
    pub(crate) fn lock(&self, id: &SandboxId) -> Result<Lock, Error> {
        self.lock_for(id, LOCK_WAIT)
    }

    pub(crate) fn lock_for(&self, id: &SandboxId, wait: Duration) -> Result<Lock, Error> {
        make_home(&[&self.paths().locks()])?;
        Ok(lock::take(&self.paths().lock(id), wait)?)
    }

    /// The lock on what all sandboxes share in the network.
    pub(crate) fn network_lock(&self) -> Result<Lock, Error> {
        make_home(&[&self.paths().locks()])?;
        // Whoever has it holds it for one nft run; a crowd of starts queues up here.
        Ok(lock::take(&self.paths().network_lock(), Duration::from_secs(20))?)
    }
}

/// Makes those of the installation's directories that are not there.
fn make_home(dirs: &[&Path]) -> Result<(), Error> {
    if dirs.iter().all(|dir| dir.is_dir()) {
        return Ok(());
    }
    perform(Effect::Home, |_| Ok(dirs.iter().try_for_each(|dir| create_private_dir(dir))?))
}

/// Whether this process has root's rights on the host.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
