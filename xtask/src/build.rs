//! `cargo xtask build`: the static agent, then `smolvm` with the agent inside.
//!
//! ```text
//!   smolvm-agent ──(profile agent, static, own target directory)──► target/agent/…/smolvm-agent
//!                                                                        │ SMOLVM_AGENT_BIN
//!   smolvm-cli ──(release or debug)──► target/<profile>/smolvm ◄─────────┘
//!                                      target/<profile>/smolvm-cleanup → smolvm
//! ```
//!
//! What users run is static too, but position independent: the loader's work would be a third of what `smolvm exec`
//! does on the host, and one file then runs on any distribution (docs/adr/0008).
//!
//! The static flags are given in the environment and with `--target`: in `.cargo/config.toml`, or without
//! `--target`, they reach procedural macros and break every build.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::elf;
use crate::sh::{Cmd, step};
use crate::workspace::{Workspace, cargo};

const GUEST: &str = "x86_64-unknown-linux-gnu";
const STATIC: &str = "-C target-feature=+crt-static -C relocation-model=static";
const STATIC_PIE: &str = "-C target-feature=+crt-static -C relocation-model=pie";
const RUSTFLAGS: &str = "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS";
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
    let build = cargo().dir(&workspace.root).args(["build", "--locked", "--package", package, "--bin", name]);
    let build = build.env("SMOLVM_AGENT_BIN", agent);
    let place = workspace.target.join(profile.directory());
    match profile {
        Profile::Debug => build.run()?,
        Profile::Release => {
            static_build(build.args(["--release", "--target", GUEST]), STATIC_PIE).run()?;
            publish(&workspace.target.join(GUEST).join("release").join(name), &place.join(name))?;
        }
    }
    Ok(place.join(name))
}

/// Puts what was built where everybody looks for it, in one step: a monitor of an earlier build may be running it.
fn publish(built: &Path, place: &Path) -> Result<()> {
    let image = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    elf::check_no_loader(&image).with_context(|| built.display().to_string())?;
    fs::create_dir_all(place.parent().context("no place for the program")?)?;
    let beside = place.with_extension("new");
    fs::copy(built, &beside)
        .and_then(|_| fs::rename(&beside, place))
        .with_context(|| format!("cannot put the program at {}", place.display()))
}

fn static_build(build: Cmd, flags: &str) -> Cmd {
    // Both would take the place of these flags.
    build.env(RUSTFLAGS, flags).without_env("RUSTFLAGS").without_env("CARGO_ENCODED_RUSTFLAGS")
}

/// Builds the agent alone, and proves that it is static and small.
pub(crate) fn agent(workspace: &Workspace) -> Result<PathBuf> {
    step("building the static agent");
    let target = workspace.beneath_target("agent");
    let build = cargo()
        .dir(&workspace.root)
        .args(["build", "--locked", "--package=smolvm-agent", "--profile=agent", "--target", GUEST, "--target-dir"])
        .arg(&target);
    static_build(build, STATIC).run()?;
    let agent = target.join(GUEST).join("agent/smolvm-agent");
    let image = fs::read(&agent).with_context(|| format!("cannot read {}", agent.display()))?;
    elf::check_static(&image).with_context(|| agent.display().to_string())?;
    if image.len() > AGENT_LIMIT {
        bail!("the agent has {} bytes; it may have {AGENT_LIMIT}, for every sandbox's memory holds it", image.len());
    }
    Ok(agent)
}
