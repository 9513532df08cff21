//! What smolvm costs beside the guest: memory, file sizes, the start of the command.

use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result};

use super::bed::Bed;
use super::figures::{Figure, ms};

const ID: &str = "bench-footprint";
const MIB: f64 = 1024.0 * 1024.0;

pub(super) fn measure(bed: &Bed) -> Result<Vec<Figure>> {
    bed.run(&["create", "--name", ID, "--image", "minimal", "--start", "--quiet"])?;
    let monitor = bed.process(ID, "monitor_pid")?;
    let (mut private, mut resident, mut version, mut nothing) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bed.runs {
        // Work in between: a monitor that has relayed nothing yet is smaller than one that has.
        bed.run(&["exec", ID, "--", "/bin/true"])?;
        let memory = Memory::of(monitor)?;
        private.push(memory.private);
        resident.push(memory.resident);
        version.push(start_of(bed, &bed.smolvm, &["--version"])?);
        nothing.push(start_of(bed, "/bin/true".as_ref(), &[])?);
    }
    bed.run(&["delete", ID])?;
    let size = |path: &std::path::Path| -> Result<f64> {
        // A file's size in MiB needs no more digits than a float has.
        #[expect(clippy::cast_precision_loss, reason = "megabytes")]
        let bytes = std::fs::metadata(path).with_context(|| path.display().to_string())?.len() as f64;
        Ok(bytes / MIB)
    };
    Ok(vec![
        Figure::of("monitor.private", "the monitor's private memory (anonymous and dirty)", "MiB", &private).at_most(4.0),
        Figure::of("monitor.resident", "the monitor's resident memory", "MiB", &resident).at_most(8.0),
        Figure::of("agent.size", "the guest agent", "MiB", &[size(&bed.agent)?]).at_most(2.0),
        Figure::of("smolvm.size", "`smolvm` with the agent in it", "MiB", &[size(&bed.smolvm)?]),
        Figure::of("version", "`smolvm --version`", "ms", &version).at_most(5.0),
        Figure::of("version.nothing", "… beside it `/bin/true`: what any process costs here", "ms", &nothing),
    ])
}

fn start_of(bed: &Bed, program: &std::path::Path, words: &[&str]) -> Result<f64> {
    let mut command = bed.command(program, words);
    command.stdout(Stdio::null());
    let begin = Instant::now();
    command.status().with_context(|| format!("cannot run {}", program.display()))?;
    Ok(ms(begin.elapsed()))
}

/// Of one process, in MiB.
#[derive(Debug)]
struct Memory {
    private: f64,
    resident: f64,
}

impl Memory {
    fn of(pid: u32) -> Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).with_context(|| format!("memory of process {pid}"))?;
        Self::parse(&text).with_context(|| format!("memory of process {pid}: {text}"))
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |key: &str| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            line.split_ascii_whitespace().nth(1)?.parse::<u32>().ok().map(|kib| f64::from(kib) / 1024.0)
        };
        // Anonymous pages that were written count in both; the larger of the two holds all of either.
        let private = field("Anonymous:")?.max(field("Private_Dirty:")? + field("Shared_Dirty:")?);
        Some(Self { private, resident: field("Rss:")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollup_is_read() {
        let text =
            "5581-7fff ---p 00000000 00:00 0 [rollup]\nRss: 4096 kB\nShared_Dirty: 0 kB\nPrivate_Dirty: 512 kB\nAnonymous: 1024 kB\n";
        let memory = Memory::parse(text).unwrap();
        assert!((memory.private - 1.0).abs() < 1e-9 && (memory.resident - 4.0).abs() < 1e-9);
        assert!(Memory::parse("Rss: 1 kB").is_none());
    }
}
