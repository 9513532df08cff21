//! A process that carries a mark where hypervisors have it, and is none of ours.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use testkit::process::Process;

/// Ends with this value.
#[derive(Debug)]
pub(crate) struct Impostor {
    child: Child,
    process: Process,
}

impl Impostor {
    /// A shell with mark and token at their places, at home in `directory`.
    pub(crate) fn shell(mark: &str, token: &str, directory: &Path) -> Self {
        Self::spawn(Command::new("/bin/sh").args(["-s", mark, "-", token]), directory)
    }

    /// The hypervisor's own program with mark and token, but bound to nothing of the sandbox.
    pub(crate) fn hypervisor(mark: &str, token: &str) -> Self {
        let words = ["-name", mark, "-uuid", token, "-machine", "none", "-nodefaults", "-display", "none", "-S"];
        Self::spawn(Command::new("/usr/bin/qemu-system-x86_64").args(words), Path::new("/"))
    }

    fn spawn(command: &mut Command, directory: &Path) -> Self {
        let command = command.current_dir(directory).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("the impostor starts");
        let pid = i32::try_from(child.id()).expect("a pid is an i32");
        let process = testkit::until("the impostor shows its words", super::SOON, || {
            Process::read(pid).filter(|process| process.argv.iter().any(|word| word.starts_with("smolvm:")))
        });
        Self { child, process }
    }

    /// As `/proc` showed it at its start.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// Fails unless it lives.
    #[track_caller]
    pub(crate) fn assert_lives(&self) {
        assert!(self.process.lives(), "a process of somebody else was killed: {}", self.process.describe());
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
