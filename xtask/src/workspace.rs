//! Where the sources and the build output are.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::sh::Cmd;

/// The two directories every task needs.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The checkout.
    pub(crate) root: PathBuf,
    /// Cargo's target directory, wherever the developer put it.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Asks cargo, so that `CARGO_TARGET_DIR` and `build.target-dir` are both honoured.
    pub(crate) fn find() -> Result<Self> {
        let json = cargo().args(["metadata", "--no-deps", "--offline", "--format-version=1"]).stdout()?;
        let metadata: serde_json::Value = serde_json::from_str(&json).context("cargo metadata")?;
        let directory = |key: &str| metadata[key].as_str().map(PathBuf::from).with_context(|| format!("cargo metadata names no {key}"));
        let (root, target) = (directory("workspace_root")?, directory("target_directory")?);
        if !root.join("xtask/Cargo.toml").is_file() {
            bail!("{} is not this workspace: run cargo xtask inside the checkout", root.display());
        }
        Ok(Self { root, target })
    }

    /// A directory of ours beneath the target directory.
    pub(crate) fn beneath_target(&self, name: &str) -> PathBuf {
        self.target.join(name)
    }
}

/// The cargo that runs us, so that the toolchain cannot change on the way.
pub(crate) fn cargo() -> Cmd {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    // What `cargo run` tells this process about the xtask package is wrong for any other package.
    let mut cmd = Cmd::new(&program);
    for (key, _) in std::env::vars() {
        if key.starts_with("CARGO_PKG_") || key.starts_with("CARGO_MANIFEST_") || key == "CARGO_CRATE_NAME" || key == "CARGO_BIN_NAME" {
            cmd = cmd.without_env(&key);
        }
    }
    cmd
}
