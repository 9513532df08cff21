//! Runs of libFuzzer: replay, fuzz, minimize.
//!
//! ```text
//!   fuzz/corpus/<target>/         committed; read by every run
//!   fuzz/corpus/<target>/past/    committed; inputs that once failed, kept whatever they cover
//!   target/fuzz/corpus/<target>/  what runs on this machine found
//!   target/fuzz/artifacts/<target>/  what failed on this machine; replayed until it no longer does
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::program::{Target, VARIABLE};
use super::stats::{self, Outcome};
use crate::sh::Cmd;
use crate::workspace::Workspace;

/// For one input; the longest honest one takes a millisecond.
const SECONDS_PER_INPUT: u32 = 10;
/// For the process with its corpus; what one input may take is bounded in the targets' list, and far lower.
const MEMORY_MIB: u32 = 1024;
/// Committed inputs are short, so that a person can read them, and few, so that a replay takes no time.
const COMMITTED_LENGTH: usize = 1024;
const COMMITTED: usize = 48;

/// The program, and where its files are.
#[derive(Debug)]
pub(super) struct Engine {
    program: PathBuf,
    committed: PathBuf,
    found: PathBuf,
    artifacts: PathBuf,
}

impl Engine {
    pub(super) fn new(workspace: &Workspace, program: PathBuf) -> Self {
        Self {
            program,
            committed: workspace.root.join("fuzz/corpus"),
            found: workspace.beneath_target("fuzz/corpus"),
            artifacts: workspace.beneath_target("fuzz/artifacts"),
        }
    }

    /// Runs every known input once.
    pub(super) fn replay(&self, target: &Target) -> Result<Outcome> {
        let (artifacts, committed) = (made(&self.artifacts, target)?, made(&self.committed, target)?);
        // Slow inputs are noted by the engine, and are no failures.
        for slow in files(&artifacts)?.into_iter().filter(|path| named(path, "slow-unit-")) {
            fs::remove_file(slow).ok();
        }
        self.outcome(self.command(target)?.arg("-runs=0").arg(committed).arg(artifacts))
    }

    /// Looks for new ones.
    pub(super) fn fuzz(&self, target: &Target, seconds: u32) -> Result<Outcome> {
        let (found, committed) = (made(&self.found, target)?, made(&self.committed, target)?);
        self.outcome(self.command(target)?.arg(format!("-max_total_time={seconds}")).arg(found).arg(committed))
    }

    /// Makes the committed corpus anew: the fewest of all known inputs that reach what all of them reach.
    pub(super) fn minimize(&self, target: &Target) -> Result<()> {
        let (found, committed) = (made(&self.found, target)?, made(&self.committed, target)?);
        let fewest = tempfile::tempdir()?;
        let merge = self.command(target)?.arg("-set_cover_merge=1").arg(format!("-max_len={}", COMMITTED_LENGTH.min(target.longest)));
        merge.arg(fewest.path()).arg(&committed).arg(&found).stdout()?;
        let mut kept = files(fewest.path())?;
        kept.sort_by_key(|path| (fs::metadata(path).map_or(u64::MAX, |found| found.len()), path.clone()));
        for old in files(&committed)? {
            fs::remove_file(&old).with_context(|| old.display().to_string())?;
        }
        // Of too many, the longest reach deepest and the shortest are read most easily.
        if let Some(surplus) = kept.len().checked_sub(COMMITTED) {
            kept.drain(COMMITTED / 2..COMMITTED / 2 + surplus);
        }
        for input in &kept {
            let name = input.file_name().context("an input without a name")?;
            fs::copy(input, committed.join(name)).with_context(|| input.display().to_string())?;
        }
        Ok(())
    }

    /// The command line that shows the last failure again.
    pub(super) fn again(&self, target: &Target) -> String {
        let artifacts = self.artifacts.join(&target.name);
        let input = files(&artifacts).ok().and_then(|all| all.into_iter().next_back()).unwrap_or(artifacts);
        format!("{VARIABLE}={} {} {}", target.name, self.program.display(), input.display())
    }

    fn command(&self, target: &Target) -> Result<Cmd> {
        let artifacts = made(&self.artifacts, target)?;
        let limits = [
            format!("-max_len={}", target.longest),
            format!("-timeout={SECONDS_PER_INPUT}"),
            format!("-rss_limit_mb={MEMORY_MIB}"),
            format!("-artifact_prefix={}/", artifacts.display()),
        ];
        Ok(Cmd::new(&self.program).env(VARIABLE, &target.name).args(limits).arg("-print_final_stats=1"))
    }

    #[expect(clippy::unused_self, reason = "reads as a step of the engine")]
    fn outcome(&self, command: Cmd) -> Result<Outcome> {
        let (status, _, told) = command.captured()?;
        Ok(stats::read(&told, status.success()))
    }
}

fn made(parent: &Path, target: &Target) -> Result<PathBuf> {
    let directory = parent.join(&target.name);
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    Ok(directory)
}

fn named(path: &Path, start: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start))
}

/// The files of a directory, oldest first; directories in it are left alone.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_file() {
            files.push((metadata.modified().ok(), entry.path()));
        }
    }
    files.sort();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_failures_are_not_among_what_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("past")).unwrap();
        fs::write(directory.path().join("past/x"), "").unwrap();
        fs::write(directory.path().join("a"), "").unwrap();
        assert_eq!(files(directory.path()).unwrap(), [directory.path().join("a")]);
        assert!(named(Path::new("d/slow-unit-1"), "slow-unit-") && !named(Path::new("d/crash-1"), "slow-unit-"));
    }
}
