//! A command line in a sealed environment, before it runs.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use super::{Ran, Running};
use crate::Netns;

/// What a command reads.
#[derive(Debug, Clone)]
pub enum Stdin {
    /// `/dev/null`.
    Null,
    /// No descriptor 0 at all.
    Closed,
    /// A pipe with these bytes, then its end.
    Bytes(Vec<u8>),
    /// A terminal on which these bytes were typed; stdout and stderr stay pipes.
    Terminal(Vec<u8>),
    /// A pipe that stays open and silent until the command ends.
    Held,
}

/// A command to be run.
#[derive(Debug)]
pub struct Cmd<'a> {
    pub(super) program: OsString,
    pub(super) args: Vec<OsString>,
    pub(super) env: Vec<(String, OsString)>,
    pub(super) directory: PathBuf,
    pub(super) stdin: Stdin,
    pub(super) timeout: Duration,
    pub(super) netns: Option<&'a Netns>,
}

impl<'a> Cmd<'a> {
    /// Adds one word.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds words.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: &[S]) -> Self {
        self.args.extend(args.iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.retain(|(name, _)| name != key);
        self.env.push((key.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Takes a variable away.
    #[must_use]
    pub fn without_env(mut self, key: &str) -> Self {
        self.env.retain(|(name, _)| name != key);
        self
    }

    /// What it reads; `/dev/null` unless said.
    #[must_use]
    pub fn stdin(mut self, stdin: Stdin) -> Self {
        self.stdin = stdin;
        self
    }

    /// How long it may take; a minute unless said.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs it inside a private network.
    #[must_use]
    pub fn in_netns(mut self, netns: &'a Netns) -> Self {
        self.netns = Some(netns);
        self
    }

    /// Runs it to its end; panics when it takes too long.
    pub fn run(self) -> Ran {
        self.spawn().wait()
    }

    /// Starts it, in a process group of its own.
    pub fn spawn(self) -> Running {
        let shown =
            std::iter::once(&self.program).chain(&self.args).map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
        let mut command = match self.stdin {
            // There is no safe way to spawn without descriptor 0, but a shell has one.
            Stdin::Closed => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", "exec \"$@\" <&-", "sh"]).arg(&self.program);
                shell
            }
            Stdin::Null | Stdin::Bytes(_) | Stdin::Terminal(_) | Stdin::Held => Command::new(&self.program),
        };
        command.args(&self.args).env_clear().envs(self.env).current_dir(&self.directory);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut terminal = None;
        let mut input = None;
        match self.stdin {
            Stdin::Null | Stdin::Closed => command.stdin(Stdio::null()),
            Stdin::Held => command.stdin(Stdio::piped()),
            Stdin::Bytes(bytes) => {
                input = Some(bytes);
                command.stdin(Stdio::piped())
            }
            Stdin::Terminal(typed) => {
                let (master, slave) = pseudo_terminal();
                File::from(master.try_clone().expect("a descriptor")).write_all(&typed).expect("the terminal takes what is typed");
                terminal = Some(master);
                command.stdin(slave)
            }
        };
        let mut start = || command.spawn().unwrap_or_else(|error| panic!("cannot run `{shown}`: {error}"));
        let mut child = match self.netns {
            Some(netns) => netns.enter(start),
            None => start(),
        };
        if let Some(input) = input
            && let Some(mut pipe) = child.stdin.take()
        {
            // A command that ends without reading everything is a case worth testing, not an error.
            thread::spawn(move || pipe.write_all(&input).ok());
        }
        Running::new(child, shown, self.timeout, terminal)
    }
}

fn pseudo_terminal() -> (OwnedFd, OwnedFd) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pseudo-terminal");
    grantpt(&master).expect("grantpt");
    unlockpt(&master).expect("unlockpt");
    let name = ptsname(&master, Vec::new()).expect("the terminal has a name");
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let slave = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty()).expect("the terminal opens");
    (master, slave)
}
