//! QEMU alone: the same kernel and machine as a sandbox's, an init that does nothing but say ready.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::bed::Bed;
use super::cpio;
use crate::sh::which;

const READY: &[u8] = b"smolvm-bench-ready";
const PATIENCE: Duration = Duration::from_mins(1);

/// A command line that boots to `ready.c`.
#[derive(Debug)]
pub(super) struct RawBoot {
    qemu: PathBuf,
    args: Vec<String>,
    initrd: PathBuf,
    log: PathBuf,
}

/// What makes the machine, with the number of words after it. Left out are the devices, sockets and files
/// of a sandbox, and what says whose it is.
const MACHINE: [(&str, usize); 12] = [
    ("-nodefaults", 0),
    ("-no-user-config", 0),
    ("-no-reboot", 0),
    ("-display", 1),
    ("-sandbox", 1),
    ("-machine", 1),
    ("-accel", 1),
    ("-cpu", 1),
    ("-smp", 1),
    ("-m", 1),
    ("-global", 1),
    ("-append", 1),
];

impl RawBoot {
    /// Takes the machine's options from a running sandbox's hypervisor.
    pub(super) fn like(bed: &Bed, sandbox: &str) -> Result<Self> {
        let pid = bed.process(sandbox, "pid")?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).context("the hypervisor's command line")?;
        let words: Vec<String> = line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
        let mut args = machine_options(&words);
        ensure!(args.iter().any(|a| a == "-append") && args.iter().any(|a| a == "-m"), "no machine in {words:?}");
        let kernels = bed.home.join("cache/kernels");
        let current = std::fs::read_to_string(kernels.join("current")).context("the current kernel")?;
        let initrd = bed.home.join("ready.cpio");
        std::fs::write(&initrd, cpio::archive(&[cpio::File::program("init", std::fs::read(&bed.ready)?)]))
            .context("the raw boot's initramfs")?;
        let path = |path: PathBuf| path.display().to_string();
        args.extend(["-kernel".to_owned(), path(kernels.join(current.trim()).join("vmlinux"))]);
        args.extend(["-serial", "stdio", "-monitor", "none"].map(str::to_owned));
        let qemu = which("qemu-system-x86_64").context("qemu-system-x86_64 is not installed")?;
        Ok(Self { qemu: qemu.into(), args, initrd, log: bed.home.join("raw.log") })
    }

    /// Boots to another init.
    pub(super) fn boot_into(&mut self, initrd: &Path) {
        initrd.clone_into(&mut self.initrd);
    }

    /// The hypervisor, not started yet.
    pub(super) fn command(&self) -> Result<Command> {
        // It warns, each time, of processor features that the translator lacks.
        let log = std::fs::File::create(&self.log).context("a log for the hypervisor")?;
        let mut command = Command::new(&self.qemu);
        command.args(&self.args).arg("-initrd").arg(&self.initrd).stdin(Stdio::null()).stderr(log);
        Ok(command)
    }

    /// What the hypervisor complained of.
    pub(super) fn last_words(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether guest code is translated.
    pub(super) fn is_tcg(&self) -> bool {
        self.args.iter().any(|a| a.starts_with("tcg"))
    }

    /// From starting the hypervisor to the init's word.
    pub(super) fn time(&self) -> Result<Duration> {
        let begin = Instant::now();
        let mut child = self.command()?.stdout(Stdio::piped()).spawn().context("cannot start the hypervisor")?;
        let heard = wait_for_word(&mut child, begin);
        child.kill().ok();
        child.wait().context("the hypervisor")?;
        heard.with_context(|| self.last_words())
    }
}

/// The moment is taken in the thread that reads, so that nothing waits in between.
fn wait_for_word(child: &mut Child, begin: Instant) -> Result<Duration> {
    let mut output = child.stdout.take().context("no output")?;
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut seen = Vec::new();
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = output.read(&mut chunk) {
            seen.extend_from_slice(&chunk[..count]);
            if seen.windows(READY.len()).any(|w| w == READY) {
                let _ = tell.send(Ok(begin.elapsed()));
                return;
            }
        }
        let _ = tell.send(Err(String::from_utf8_lossy(&seen).into_owned()));
    });
    match told.recv_timeout(PATIENCE) {
        Ok(Ok(took)) => Ok(took),
        Ok(Err(output)) => bail!("the raw boot ended without a word:\n{output}"),
        Err(_) => bail!("the raw boot said nothing in {} s", PATIENCE.as_secs()),
    }
}

fn machine_options(words: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut at = 1;
    while let Some(word) = words.get(at) {
        let more = match MACHINE.iter().find(|(option, _)| option == word) {
            Some((_, more)) => {
                // A fork's memory is a template's file; a machine that boots has its own.
                kept.extend(words.iter().skip(at).take(more + 1).map(|word| word.replace(",memory-backend=ram", "")));
                *more
            }
            // Every option of the vector has one value, but for those named above without.
            None => 1,
        };
        at += more + 1;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_kept_and_the_devices_are_not() {
        let words: Vec<String> =
            "q -name smolvm:x -uuid u -nodefaults -no-reboot -machine microvm,acpi=on,memory-backend=ram -m size=128M -kernel /kernel -append quiet -chardev socket,fd=3 -device virtio"
                .split(' ')
                .map(str::to_owned)
                .collect();
        assert_eq!(machine_options(&words).join(" "), "-nodefaults -no-reboot -machine microvm,acpi=on -m size=128M -append quiet");
    }
}
