//! `logs`: what a sandbox's console, hypervisor and monitor wrote.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;

use crate::error::{Error, io_code};
use crate::installation::Smolvm;
use crate::paths::{CONSOLE, HYPERVISOR_LOG, MONITOR_LOG};

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogKind {
    /// The guest's serial console: kernel and agent.
    Console,
    /// What the hypervisor complains about.
    Hypervisor,
    /// What the monitor complains about.
    Monitor,
}

/// Most bytes that are given back: both halves of a rotated log.
const MAX: u64 = 2 << 20;

impl Smolvm {
    /// The end of a log, at most two MiB; empty when nothing was written yet.
    pub fn logs(&self, id: &SandboxId, kind: LogKind) -> Result<Vec<u8>, Error> {
        let missing = || Error::no_such_sandbox(id);
        let store = self.look()?.ok_or_else(missing)?;
        store.sandbox(id)?.ok_or_else(missing)?;
        let name = match kind {
            LogKind::Console => CONSOLE,
            LogKind::Hypervisor => HYPERVISOR_LOG,
            LogKind::Monitor => MONITOR_LOG,
        };
        let mut text = Vec::new();
        for file in [format!("{name}.1"), name.to_owned()] {
            let path = self.paths().sandbox(id).join(file);
            match read_end(&path, &mut text) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::new(io_code(&e), format!("{} cannot be read", path.display())).because(e));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(text)
    }

    /// A guest's log as text that cannot drive a terminal.
    pub fn harmless(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).chars().filter(|c| matches!(c, '\n' | '\t') || !c.is_control()).collect()
    }
}

fn read_end(path: &std::path::Path, into: &mut Vec<u8>) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX)))?;
    file.take(MAX).read_to_end(into)?;
    Ok(())
}

impl std::str::FromStr for LogKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "console" => Ok(Self::Console),
            "hypervisor" => Ok(Self::Hypervisor),
            "monitor" => Ok(Self::Monitor),
            _ => Err(Error::new(ErrorCode::UsageError, format!("{text:?} is not a log: console, hypervisor or monitor"))),
        }
    }
}
