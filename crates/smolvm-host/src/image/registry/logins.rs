//! The login for a registry, as `docker login` left it: in its file, or with a program that the file names.

use std::path::PathBuf;
use std::time::Duration;

use smolvm_model::reference::Registry;
use smolvm_oci::registry::{DockerConfig, Login, Source, helper_answer};

use crate::fsx::FsError;
use crate::image::error::ImageError;
use crate::proc::tool::{Tool, ToolError};

/// Longest file of logins.
const MAX_FILE: u64 = 1 << 20;
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

/// Where logins are looked for.
#[derive(Debug, Clone, Default)]
pub struct Logins {
    /// Docker's file.
    pub file: Option<PathBuf>,
    /// The user's home directory, which credential helpers look into.
    pub home: Option<PathBuf>,
}

/// The login for a registry, if there is one.
pub fn login(logins: &Logins, registry: &Registry) -> Result<Option<Login>, ImageError> {
    use std::io::Read;
    let Some(path) = &logins.file else { return Ok(None) };
    let mut bytes = Vec::new();
    match std::fs::File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(FsError::on("read", path)(e).into()),
    }
    match DockerConfig::read(&bytes)?.login(registry)? {
        Source::Nowhere => Ok(None),
        Source::Here(login) => Ok(Some(login)),
        Source::Helper { program, server } => ask(logins, &program, &server),
    }
}

fn ask(logins: &Logins, program: &str, server: &str) -> Result<Option<Login>, ImageError> {
    let mut tool = Tool::new(format!("docker-credential-{program}")).arg("get").stdin(server).timeout(HELPER_TIMEOUT);
    if let Some(home) = &logins.home {
        tool = tool.env("HOME", home);
    }
    let output = match tool.run() {
        Ok(output) => output,
        // What the tool said is not passed on: it may be the secret.
        Err(ToolError::Failed { program, .. }) => {
            return Err(ImageError::Login(smolvm_oci::registry::LoginError::Answer { program }));
        }
        Err(error @ (ToolError::Missing { .. } | ToolError::TimedOut { .. } | ToolError::Spawn { .. } | ToolError::Wait { .. })) => {
            return Err(ImageError::Helper(error));
        }
    };
    Ok(helper_answer(program, output.status.success(), &output.stdout)?)
}
