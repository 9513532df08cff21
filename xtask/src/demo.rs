//! `cargo xtask demo`: the main job from nothing to a clean host, visibly.
//!
//! ```text
//!   deps ─► build ─► setup ─► look at the host ─► create, exec, kill -9, list, cleanup ─► look again
//! ```
//!
//! It uses a home of its own beneath the target directory, so it meets nobody's sandboxes; images stay
//! there, which makes the second run quick. The looks are the leak oracle's, which shares no code with smolvm.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use testkit::process::Process;
use testkit::{LeakOracle, Scope};

use crate::build::{self, Profile};
use crate::deps::{self, Purpose};
use crate::sh::{Cmd, step};
use crate::workspace::Workspace;

const NAMED: &str = "demo-named";

/// The task.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    deps::run(Purpose::Demo)?;
    let built = build::smolvm(workspace, Profile::Release)?;
    let home = workspace.beneath_target("demo-home");
    std::fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
    let demo = Demo { smolvm: built.smolvm, home };
    println!("SMOLVM_HOME={}\n", demo.home.display());
    demo.show(&["setup"])?;
    // What an interrupted demo left; nothing on a first run.
    demo.quietly(&["cleanup", "--all", "--force"])?;

    step("looking at the host: processes, devices, addresses, routes, nftables, sysctls, mounts, sockets, locks, files");
    let begin = Instant::now();
    let before = LeakOracle::try_snapshot(Scope::home(&demo.home))?;
    let story = demo.story();
    if story.is_err() {
        demo.quietly(&["cleanup", "--all", "--force"]).ok();
    }
    story?;
    step("looking again");
    let difference = before.diff()?;
    if !difference.is_clean() {
        bail!("the host is not what it was before:\n{difference}");
    }
    println!(
        "Three sandboxes came, one was killed behind smolvm's back, and the host is what it was before: {:.1} s.",
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}

struct Demo {
    smolvm: PathBuf,
    home: PathBuf,
}

impl Demo {
    /// What a reader of the screen is meant to follow.
    fn story(&self) -> Result<()> {
        let victim = self.create(&["create", "--image", "minimal", "--start", "--quiet"])?;
        self.create(&["create", "--image", "minimal", "--start", "--quiet"])?;
        self.create(&["create", "--name", NAMED, "--start", "--quiet"])?;
        self.show(&["exec", NAMED, "--", "uname", "-a"])?;
        self.show(&["exec", NAMED, "--", "python3", "-c", "print('six times seven is', 6 * 7)"])?;
        self.show(&["list"])?;
        self.kill(&victim)?;
        self.wait_until_stale(&victim)?;
        self.show(&["list"])?;
        self.show(&["cleanup", "--dry-run"])?;
        self.show(&["cleanup", "--force", "--all"])?;
        self.show(&["list"])
    }

    fn cmd(&self, words: &[&str]) -> Cmd {
        Cmd::new(&self.smolvm).args(words).env("SMOLVM_HOME", &self.home)
    }

    /// Prints the command line, runs it, lets its output through.
    fn show(&self, words: &[&str]) -> Result<()> {
        println!("$ smolvm {}", quoted(words));
        self.cmd(words).run()?;
        println!();
        Ok(())
    }

    /// Runs without a word, unless it fails.
    fn quietly(&self, words: &[&str]) -> Result<String> {
        self.cmd(words).stdout()
    }

    /// The same as `show` for a command that prints an id.
    fn create(&self, words: &[&str]) -> Result<String> {
        println!("$ smolvm {}", quoted(words));
        let id = self.quietly(words)?.trim().to_owned();
        println!("{id}\n");
        ensure!(!id.is_empty() && !id.contains(char::is_whitespace), "create printed {id:?} where an id was expected");
        Ok(id)
    }

    fn json(&self, words: &[&str]) -> Result<Value> {
        let text = self.quietly(words)?;
        let mut envelope: Value = serde_json::from_str(&text).with_context(|| format!("smolvm {}: not JSON", words.join(" ")))?;
        Ok(envelope["data"].take())
    }

    /// SIGKILL for the hypervisor of `id`: the pid is smolvm's word, that it is ours is checked here.
    fn kill(&self, id: &str) -> Result<()> {
        let pid = self.json(&["inspect", "--json", id])?["sandbox"]["process"]["pid"].as_i64().context("inspect names no process")?;
        let process = Process::read(i32::try_from(pid)?).with_context(|| format!("there is no process {pid}"))?;
        let mark = format!(":{id}");
        let marked = process.argv.iter().any(|word| word.starts_with("smolvm:") && word.ends_with(&mark));
        ensure!(
            marked && process.exe_name().starts_with("qemu-system"),
            "process {pid} is not the hypervisor of {id}: {}",
            process.describe()
        );
        println!("$ kill -9 {pid}        # the hypervisor of {id}, behind smolvm's back\n");
        ensure!(process.signal(rustix::process::Signal::KILL), "process {pid} could not be killed");
        Ok(())
    }

    fn wait_until_stale(&self, id: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let data = self.json(&["list", "--json"])?;
            let stale = data["sandboxes"].as_array().into_iter().flatten().any(|s| s["id"] == id && s["stale"] == true);
            if stale {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{id} is not stale ten seconds after its hypervisor was killed: {data}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The words as one would type them.
fn quoted(words: &[&str]) -> String {
    let quote = |word: &&str| {
        let plain = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./=:".contains(c));
        if plain { (*word).to_owned() } else { format!("\"{word}\"") }
    };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_typed() {
        assert_eq!(quoted(&["exec", "vm-a", "--", "python3", "-c", "print('x')"]), "exec vm-a -- python3 -c \"print('x')\"");
    }
}
