//! The login for a repository, as `podman login` or `docker login` left it: in a file, or with a program that the file names.
//!
//! ```text
//!   REGISTRY_AUTH_FILE, alone ── or, one after the other until one knows the repository:
//!   $XDG_RUNTIME_DIR/containers/auth.json ─► ~/.config/containers/auth.json ─► ~/.docker/config.json
//! ```

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use smolvm_model::reference::Registry;
use smolvm_oci::registry::{Helper, Keeps, Login, LoginError, LoginFile, helper_answer};

use crate::fsx::FsError;
use crate::image::error::ImageError;
use crate::proc::tool::{Tool, ToolError};

/// Longest file of logins.
const MAX_FILE: u64 = 1 << 20;
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

/// Where logins are looked for.
#[derive(Debug, Clone, Default)]
pub struct Logins {
    /// A file that somebody named: no other is looked at.
    pub named: Option<PathBuf>,
    /// The usual files, those first that are asked first.
    pub usual: Vec<PathBuf>,
    /// What credential helpers are run with.
    pub environment: Environment,
}

/// The user's environment: a credential helper is the user's own program, and finds its keys by it. There may be passwords in it.
#[derive(Clone, Default)]
pub struct Environment {
    variables: Vec<(OsString, OsString)>,
    path: Option<OsString>,
}

impl Environment {
    /// Of these variables, one of which says where programs are.
    pub fn new(variables: impl Iterator<Item = (OsString, OsString)>, path: Option<OsString>) -> Self {
        Self { variables: variables.collect(), path }
    }

    /// A program's file along the user's `PATH`; only absolute directories count.
    fn find(&self, program: &str) -> Option<PathBuf> {
        let path = self.path.as_deref().unwrap_or(OsStr::new("/usr/local/bin:/usr/bin:/bin"));
        let directories = std::env::split_paths(path);
        let files = directories.filter(|directory| directory.is_absolute()).map(|directory| directory.join(program));
        files.into_iter().find(|file| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} variables", self.variables.len())
    }
}

/// What is known of a login.
#[derive(Default)]
pub(super) struct Found {
    /// The login, if there is one.
    pub(super) login: Option<Login>,
    /// Why who keeps all logins, by what a file says, could not be asked. Images that everybody may have need none.
    pub(super) unasked: Option<ImageError>,
}

/// The login for a repository, if there is one.
pub(super) fn login(logins: &Logins, registry: &Registry, repository: &str) -> Result<Found, ImageError> {
    let files = match &logins.named {
        Some(named) => std::slice::from_ref(named),
        None => &logins.usual,
    };
    let mut unasked = None;
    for path in files {
        let Some(bytes) = read(path, logins.named.is_some())? else { continue };
        let unusable = |source| ImageError::Login { path: path.clone(), source };
        let file = LoginFile::read(&bytes).map_err(unusable)?;
        let kept = match file.helper(registry).map_err(unusable)? {
            None => None,
            Some(helper) => match ask(logins, path, &helper) {
                Err(e) if helper.of == Keeps::All => {
                    unasked = unasked.or(Some(e));
                    None
                }
                // Nobody but this one knows.
                Ok(None) if helper.of == Keeps::One => continue,
                answer => answer?,
            },
        };
        let login = match kept {
            Some(login) => Some(login),
            None => file.login(registry, repository).map_err(unusable)?,
        };
        if login.is_some() {
            return Ok(Found { login, unasked: None });
        }
    }
    Ok(Found { login: None, unasked })
}

/// A file of logins; one that nobody named need not be there.
fn read(path: &Path, named: bool) -> Result<Option<Vec<u8>>, ImageError> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) && !named => Ok(None),
        Err(e) => Err(FsError::on("read", path)(e).into()),
    }
}

fn ask(logins: &Logins, path: &Path, helper: &Helper) -> Result<Option<Login>, ImageError> {
    let name = format!("docker-credential-{}", helper.program);
    let Some(file) = logins.environment.find(&name) else { return Err(ImageError::Helper(ToolError::Missing { program: name })) };
    let tool = Tool::new(file).arg("get").stdin(helper.server.as_str()).timeout(HELPER_TIMEOUT);
    let tool = logins.environment.variables.iter().fold(tool, |tool, (key, value)| tool.env(key, value));
    // What it wrote is in no message: it may be the secret.
    let unusable = |source: LoginError| ImageError::Login { path: path.to_owned(), source };
    let output = match tool.run() {
        Ok(output) => output,
        Err(ToolError::Failed { .. }) => return Err(unusable(LoginError::Answer { program: name })),
        Err(error @ (ToolError::Missing { .. } | ToolError::TimedOut { .. } | ToolError::Spawn { .. } | ToolError::Wait { .. })) => {
            return Err(ImageError::Helper(error));
        }
    };
    helper_answer(&name, output.status.success(), &output.stdout).map_err(unusable)
}
