//! What every measurement stands on: the built command, a home of its own, guest programs.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::build::Built;
use crate::sh::{Cmd, step};
use crate::workspace::Workspace;

/// The built command and the home it works in.
#[derive(Debug)]
pub(super) struct Bed {
    pub(super) smolvm: PathBuf,
    pub(super) seed: PathBuf,
    pub(super) agent: PathBuf,
    pub(super) home: PathBuf,
    /// `guest/ready.c`, built.
    pub(super) ready: PathBuf,
    /// `guest/spawn.c`, built.
    pub(super) spawn: PathBuf,
    /// `guest/answer.c`, built.
    pub(super) answer: PathBuf,
    /// `host/ask.c`, built.
    pub(super) ask: PathBuf,
    /// `host/naive-cleanup.sh`.
    pub(super) naive: PathBuf,
    /// Where the picture of a run is drawn.
    pub(super) picture: PathBuf,
    pub(super) runs: usize,
}

impl Bed {
    /// Prepares the image and builds the guest programs; removes what a bench that was killed left.
    pub(super) fn prepare(workspace: &Workspace, built: &Built, seed: PathBuf, runs: usize) -> Result<Self> {
        let home = workspace.beneath_target("bench-home");
        std::fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
        let sources = workspace.root.join("bench");
        let program = |path: &str, name: &str| compile(&sources.join(path).join(name).with_extension("c"), &home.join(name));
        let (ready, spawn, answer) = (program("guest", "ready")?, program("guest", "spawn")?, program("guest", "answer")?);
        let ask = program("host", "ask")?;
        let naive = sources.join("host/naive-cleanup.sh");
        let picture = sources.join("results/run.svg");
        let bed =
            Self { smolvm: built.smolvm.clone(), seed, agent: built.agent.clone(), home, ready, spawn, answer, ask, naive, picture, runs };
        step("preparing the image minimal");
        bed.run(&["setup", "--image", "minimal"])?;
        bed.clear()?;
        Ok(bed)
    }

    /// Removes every sandbox of the home.
    pub(super) fn clear(&self) -> Result<()> {
        self.run(&["cleanup", "--all", "--force"]).map(drop)
    }

    /// A command with a cleared environment.
    pub(super) fn command(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(words).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("SMOLVM_HOME", &self.home);
        command.stdin(Stdio::null());
        command
    }

    /// Runs `smolvm`; gives back what it printed.
    pub(super) fn run(&self, words: &[&str]) -> Result<String> {
        self.time(words).map(|(_, text)| text)
    }

    /// Runs `smolvm`, and tells how long that took from start to exit, all output read.
    pub(super) fn time(&self, words: &[&str]) -> Result<(Duration, String)> {
        let begin = Instant::now();
        let output = self.command(&self.smolvm, words).output().context("cannot run smolvm")?;
        let took = begin.elapsed();
        Ok((took, text_of(&output, words)?))
    }

    /// Runs `smolvm`; gives back what it wrote, byte for byte.
    pub(super) fn bytes(&self, words: &[&str]) -> Result<Vec<u8>> {
        let output = self.command(&self.smolvm, words).output().context("cannot run smolvm")?;
        text_of(&output, words)?;
        Ok(output.stdout)
    }

    /// Runs `smolvm` with a file as its standard input.
    pub(super) fn feed(&self, words: &[&str], file: &Path) -> Result<()> {
        let input = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        let output = self.command(&self.smolvm, words).stdin(input).output().context("cannot run smolvm")?;
        text_of(&output, words).map(drop)
    }

    /// The `data` of a command run with `--json`.
    pub(super) fn json(&self, words: &[&str]) -> Result<Value> {
        let text = self.run(words)?;
        let mut envelope: Value = serde_json::from_str(&text).with_context(|| format!("smolvm {}: not JSON", words.join(" ")))?;
        Ok(envelope["data"].take())
    }

    /// A number out of `inspect`.
    pub(super) fn process(&self, id: &str, which: &str) -> Result<u32> {
        let data = self.json(&["inspect", "--json", id])?;
        let pid = data["sandbox"]["process"][which].as_u64().with_context(|| format!("inspect names no {which}: {data}"))?;
        Ok(u32::try_from(pid)?)
    }
}

fn text_of(output: &Output, words: &[&str]) -> Result<String> {
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "smolvm {}: {}\n{}", words.join(" "), output.status, error.trim_end());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn compile(source: &Path, program: &Path) -> Result<PathBuf> {
    let flags = ["-O2", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie", "-o"];
    Cmd::new("gcc").args(flags).arg(program).arg(source).run()?;
    Ok(program.to_owned())
}
