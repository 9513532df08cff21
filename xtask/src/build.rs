//! `cargo xtask build`: the static agent, then `smolvm` with the agent inside.
//!
//! ```text
//!   smolvm-agent ──(profile agent, static, own target directory)──► target/agent/…/smolvm-agent
//!                                                                        │ SMOLVM_AGENT_BIN
//!   smolvm-cli ──(release or debug)──► target/<profile>/smolvm ◄─────────┘
//!                                      target/<profile>/smolvm-cleanup → smolvm
//! ```
//!
//! The static flags are given to the agent's build alone, in the environment and with `--target`:
//! in `.cargo/config.toml`, or without `--target`, they reach procedural macros and break every build.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::elf;
use crate::sh::step;
use crate::workspace::{Workspace, cargo};

const GUEST: &str = "x86_64-unknown-linux-gnu";
const STATIC: &str = "-C target-feature=+crt-static -C relocation-model=static";
/// Promised in docs/promises.md; every sandbox carries this in its initramfs.
const AGENT_LIMIT: usize = 2 * 1024 * 1024;

/// How the host's binary is built; the agent is always built for size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// What users run.
    Release,
    /// What tests run: quick to build.
    Debug,
}

impl Profile {
    fn directory(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Debug => "debug",
        }
    }
}

/// The task: builds, and says where the result is.
pub(crate) fn run(workspace: &Workspace, profile: Profile) -> Result<()> {
    let built = smolvm(workspace, profile)?;
    println!("{}", built.smolvm.display());
    Ok(())
}

/// What a build leaves.
#[derive(Debug)]
pub(crate) struct Built {
    /// The static agent.
    pub(crate) agent: PathBuf,
    /// The command, with the agent embedded.
    pub(crate) smolvm: PathBuf,
}

/// Builds agent and command.
pub(crate) fn smolvm(workspace: &Workspace, profile: Profile) -> Result<Built> {
    let agent = agent(workspace)?;
    let smolvm = program(workspace, profile, "smolvm", &agent)?;
    let directory = workspace.target.join(profile.directory());
    let cleanup = directory.join("smolvm-cleanup");
    match fs::read_link(&cleanup) {
        Ok(target) if target.as_os_str() == "smolvm" => {}
        _ => {
            fs::remove_file(&cleanup).ok();
            symlink("smolvm", &cleanup).with_context(|| format!("cannot link {}", cleanup.display()))?;
        }
    }
    Ok(Built { agent, smolvm })
}

/// Builds one program of the workspace that links the host's side, with the agent embedded.
pub(crate) fn program(workspace: &Workspace, profile: Profile, name: &str, agent: &Path) -> Result<PathBuf> {
    step(&format!("building {name} ({})", profile.directory()));
    let package = if name == "smolvm" { "smolvm-cli" } else { name };
    let mut build = cargo().dir(&workspace.root).args(["build", "--locked", "--package", package, "--bin", name]);
    if profile == Profile::Release {
        build = build.arg("--release");
    }
    build.env("SMOLVM_AGENT_BIN", agent).run()?;
    Ok(workspace.target.join(profile.directory()).join(name))
}

/// Builds the agent alone, and proves that it is static and small.
pub(crate) fn agent(workspace: &Workspace) -> Result<PathBuf> {
    step("building the static agent");
    let target = workspace.beneath_target("agent");
    cargo()
        .dir(&workspace.root)
        .args(["build", "--locked", "--package=smolvm-agent", "--profile=agent", "--target", GUEST, "--target-dir"])
        .arg(&target)
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", STATIC)
        // Both would take the place of the flags above.
        .without_env("RUSTFLAGS")
        .without_env("CARGO_ENCODED_RUSTFLAGS")
        .run()?;
    let agent = target.join(GUEST).join("agent/smolvm-agent");
    let image = fs::read(&agent).with_context(|| format!("cannot read {}", agent.display()))?;
    elf::check_static(&image).with_context(|| agent.display().to_string())?;
    if image.len() > AGENT_LIMIT {
        bail!("the agent has {} bytes; it may have {AGENT_LIMIT}, for every sandbox's memory holds it", image.len());
    }
    Ok(agent)
}
