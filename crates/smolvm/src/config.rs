//! `config`: what a user settled once, in a file of their own.

use std::path::Path;

use smolvm_host::config_file::{self, ConfigFileError, New, Written};
use smolvm_model::config::{Config, ConfigError, KEYS, Key, Layer};
use smolvm_model::error_code::ErrorCode;

use crate::error::{Error, io_code};
use crate::installation::Smolvm;

/// Takes in what the file settles; a file that is not there settles nothing.
pub fn read_file(config: &mut Config, path: &Path) -> Result<(), Error> {
    for Written { key, value, line } in config_file::read(path).map_err(unusable)? {
        let settled = key.parse().and_then(|key| config.set(key, &value, Layer::File));
        settled.map_err(|e| {
            let told = wrong(e);
            Error { message: format!("line {line} of {}: {}", path.display(), told.message), ..told }
        })?;
    }
    Ok(())
}

/// Something that cannot be settled like that, with the way out.
pub fn wrong(e: ConfigError) -> Error {
    let told = Error::new(ErrorCode::UsageError, e.to_string());
    match e {
        ConfigError::UnknownKey(_) => {
            let keys: Vec<&str> = KEYS.iter().map(|described| described.key).collect();
            told.hint(format!("there are {}", keys.join(", ")))
        }
        ConfigError::NoEquals(_) => told.hint("smolvm --set sandbox.memory=1G …"),
        ConfigError::Value { source, .. } => told.hint("docs/config.md says what each can be").because(source),
    }
}

impl Smolvm {
    /// Settles one thing in the file.
    pub fn set_config(&self, path: &Path, key: &Key, value: &str) -> Result<(), Error> {
        Config::default().set(key.clone(), value, Layer::File).map_err(wrong)?;
        let new = if key.is_number() { New::Number(value) } else { New::Text(value) };
        config_file::write(path, key.place(), Some(new)).map(drop).map_err(unusable)
    }

    /// Takes one thing out of the file; false if it was not there.
    pub fn unset_config(&self, path: &Path, key: &Key) -> Result<bool, Error> {
        config_file::write(path, key.place(), None).map_err(unusable)
    }
}

fn unusable(e: ConfigFileError) -> Error {
    let (code, hint) = match &e {
        ConfigFileError::Fs(e) => (io_code(&e.source), "smolvm config path   says where it is"),
        ConfigFileError::Fault(fault) => (io_code(&fault.source), "smolvm config path   says where it is"),
        ConfigFileError::Exposed { .. } => (ErrorCode::Refused, "make it yours alone: chown, then chmod go-w"),
        ConfigFileError::TooLarge { .. } | ConfigFileError::Syntax { .. } | ConfigFileError::Shape { .. } => {
            (ErrorCode::UsageError, "mend it with an editor; docs/config.md shows how it looks")
        }
        ConfigFileError::Busy { .. } => (ErrorCode::Busy, "try again"),
    };
    Error::new(code, "the configuration cannot be used").hint(hint).because(e)
}
