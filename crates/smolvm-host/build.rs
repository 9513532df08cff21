//! Puts the guest agent where `src/embed.rs` includes it from.
//!
//! `SMOLVM_AGENT_BIN` names the static agent; `cargo xtask build` builds it and sets the variable.
//! Without the variable (plain `cargo check`, `clippy`, `test`) an empty file is embedded, so that
//! nobody needs a guest binary to work on the host side; `embed::agent()` tells the two apart.

#![allow(clippy::disallowed_methods, reason = "a build script's interface is its environment")]

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=SMOLVM_AGENT_BIN");
    let embedded = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join("agent.bin");
    let bytes = match env::var_os("SMOLVM_AGENT_BIN").filter(|path| !path.is_empty()) {
        None => Vec::new(),
        Some(path) => {
            let path = PathBuf::from(path);
            println!("cargo::rerun-if-changed={}", path.display());
            fs::read(&path).map_err(|error| format!("SMOLVM_AGENT_BIN: {}: {error}", path.display()))?
        }
    };
    fs::write(embedded, bytes)?;
    Ok(())
}
