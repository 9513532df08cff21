//! A home of its own, a cleared environment, and commands that cannot hang a test.
//!
//! ```text
//!   SealedEnv ── cmd(program) ──► Cmd ── run() ──► Ran {status, stdout, stderr}
//!       │                          └─── spawn() ──► Running ── wait() ──► Ran
//!       └── drop: whatever still runs and touches the home is killed by pidfd, then the home goes
//! ```

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::{Netns, prerequisite, process};

/// How long a command may take unless it says otherwise.
const USUAL: Duration = Duration::from_mins(1);
/// How long a pipe may stay open after the command that was given it has ended.
const PIPES: Duration = Duration::from_secs(2);

/// A throwaway home and the environment that goes with it.
#[derive(Debug)]
pub struct SealedEnv {
    directory: tempfile::TempDir,
    home: PathBuf,
}

impl SealedEnv {
    /// A new, empty one. The path is short, for Unix sockets live beneath it.
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("sv").rand_bytes(6).tempdir_in("/tmp").expect("a directory in /tmp");
        let home = directory.path().join("h");
        std::fs::create_dir(&home).expect("a directory in our own");
        Self { directory, home }
    }

    /// A new one whose cache is that of the prepared test home: kernel and images are there, nothing else is.
    pub fn with_images() -> Self {
        let env = Self::new();
        symlink(prerequisite::test_home().join("cache"), env.home.join("cache")).expect("a link in our own directory");
        env
    }

    /// What `SMOLVM_HOME` is set to.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// A directory for the test's own files, beside the home.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// A command in this environment.
    pub fn cmd(&self, program: impl AsRef<OsStr>) -> Cmd<'_> {
        let env = [
            ("PATH", OsString::from("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")),
            ("HOME", self.directory.path().into()),
            ("TMPDIR", self.directory.path().into()),
            ("SMOLVM_HOME", self.home.clone().into()),
            ("LC_ALL", "C.UTF-8".into()),
            ("TZ", "UTC".into()),
            ("TERM", "dumb".into()),
            ("COLUMNS", "100".into()),
            ("NO_COLOR", "1".into()),
        ];
        Cmd {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: env.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            directory: self.directory.path().to_owned(),
            stdin: Stdin::Null,
            timeout: USUAL,
            netns: None,
        }
    }

    /// The `smolvm` under test, with `args`.
    pub fn smolvm(&self, args: &[&str]) -> Cmd<'_> {
        self.cmd(prerequisite::smolvm_bin()).args(args)
    }

    /// Ends every process that touches the home: nobody but this test knows its path.
    pub fn kill_all(&self) {
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        // A process may start another while we look: repeat until nothing is found, bounded.
        for _ in 0..20 {
            let found: Vec<_> = process::all().into_iter().filter(|p| p.pid != own && p.touches(self.directory.path())).collect();
            if found.is_empty() {
                return;
            }
            for process in found {
                process.signal(Signal::KILL);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Default for SealedEnv {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for SealedEnv {
    fn drop(&mut self) {
        self.kill_all();
    }
}

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
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(String, OsString)>,
    directory: PathBuf,
    stdin: Stdin,
    timeout: Duration,
    netns: Option<&'a Netns>,
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
        let begin = Instant::now();
        let mut start = || command.spawn().unwrap_or_else(|error| panic!("cannot run `{shown}`: {error}"));
        let mut child = match self.netns {
            Some(netns) => netns.enter(start),
            None => start(),
        };
        let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
        if let Some(input) = input
            && let Some(mut pipe) = child.stdin.take()
        {
            // A command that ends without reading everything is a case worth testing, not an error.
            thread::spawn(move || pipe.write_all(&input).ok());
        }
        Running { child, shown, begin, timeout: self.timeout, stdout, stderr, _terminal: terminal, ended: false }
    }
}

/// A command that was started; dropping it kills its process group.
#[derive(Debug)]
pub struct Running {
    child: Child,
    shown: String,
    begin: Instant,
    timeout: Duration,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    _terminal: Option<OwnedFd>,
    ended: bool,
}

impl Running {
    /// Its pid, which is also its process group.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid is an i32")
    }

    /// Sends a signal to the command alone.
    pub fn signal(&self, signal: Signal) {
        if let Some(fd) = process::pidfd(self.pid()) {
            rustix::process::pidfd_send_signal(&fd, signal).ok();
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.ended |= matches!(self.child.try_wait(), Ok(Some(_)));
        self.ended
    }

    /// Waits for its end and its output; panics, with the output, when it takes too long or leaves somebody holding its pipes.
    pub fn wait(mut self) -> Ran {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("waiting for our own child") {
                break status;
            }
            if self.begin.elapsed() > self.timeout {
                self.kill_group();
                let (out, err) = (collect(&self.stdout), collect(&self.stderr));
                panic!("not within {:?}: `{}`\n--- stdout\n{}\n--- stderr\n{}", self.timeout, self.shown, text(&out.0), text(&err.0));
            }
            thread::sleep(Duration::from_millis(2));
        };
        self.ended = true;
        let elapsed = self.begin.elapsed();
        let ((out, out_end), (err, err_end)) = (collect(&self.stdout), collect(&self.stderr));
        let ran = Ran { shown: self.shown.clone(), status, stdout: text(&out), stderr: text(&err), stdout_bytes: out, elapsed };
        assert!(out_end && err_end, "`{}` has ended but somebody still holds its output pipes\n{ran}", self.shown);
        ran
    }

    fn kill_group(&mut self) {
        // Our child is not reaped yet, so the number is still its own.
        if let Some(group) = Pid::from_raw(self.pid()) {
            kill_process_group(group, Signal::KILL).ok();
        }
        self.child.wait().ok();
        self.ended = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.kill_group();
        }
    }
}

/// What a command did.
#[derive(Debug, Clone)]
pub struct Ran {
    shown: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
    /// Stdout, byte for byte.
    pub stdout_bytes: Vec<u8>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Ran {
    /// The exit status; `None` after a signal.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Fails unless the exit status is `code`.
    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        assert!(self.code() == Some(code), "wanted exit status {code}\n{self}");
        self
    }

    /// Fails unless it succeeded.
    #[track_caller]
    pub fn assert_ok(&self) -> &Self {
        self.assert_code(0)
    }

    /// Stdout as one JSON value.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("stdout is not JSON: {error}\n{self}"))
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "$ {}\n--- {} after {:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.shown, self.status, self.elapsed, self.stdout, self.stderr
        )
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads a pipe to its end on a thread of its own.
fn drain(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let Some(mut pipe) = pipe else { return };
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = pipe.read(&mut chunk) {
            if sender.send(chunk[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Everything that came, and whether the pipe's end was seen.
fn collect(pipe: &Receiver<Vec<u8>>) -> (Vec<u8>, bool) {
    let deadline = Instant::now() + PIPES;
    let mut bytes = Vec::new();
    loop {
        match pipe.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(chunk) => bytes.extend(chunk),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return (bytes, true),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => return (bytes, false),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_sealed() {
        let env = SealedEnv::new();
        let ran = env.cmd("/usr/bin/env").run();
        ran.assert_ok();
        assert!(ran.stdout.contains(&format!("SMOLVM_HOME={}", env.home().display())));
        assert!(!ran.stdout.contains("CARGO"), "{ran}");
        assert_eq!(env.cmd("pwd").run().stdout.trim(), env.scratch().to_str().unwrap());
    }

    #[test]
    fn every_kind_of_stdin() {
        let env = SealedEnv::new();
        let read = |stdin| env.cmd("sh").args(&["-c", "if [ -t 0 ]; then echo tty; fi; head -n1"]).stdin(stdin).run();
        assert_eq!(read(Stdin::Null).stdout, "");
        assert_eq!(read(Stdin::Bytes(b"a\nb\n".to_vec())).stdout, "a\n");
        assert_eq!(read(Stdin::Bytes(Vec::new())).stdout, "");
        assert_eq!(read(Stdin::Terminal(b"yes\n".to_vec())).stdout, "tty\nyes\n");
        let closed = env.cmd("sh").args(&["-c", "[ -e /proc/self/fd/0 ]"]).stdin(Stdin::Closed).run();
        assert_eq!(closed.code(), Some(1), "{closed}");
        let mut held = env.cmd("cat").stdin(Stdin::Held).spawn();
        assert!(!held.has_ended());
        held.signal(Signal::TERM);
        assert_eq!(held.wait().signal(), Some(15));
    }

    #[test]
    fn a_timeout_kills_the_whole_group_and_shows_the_output() {
        let env = SealedEnv::new();
        let hang = || env.cmd("sh").args(&["-c", "echo before; sleep 100 & wait"]).timeout(Duration::from_millis(200)).run();
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(hang)).unwrap_err();
        assert!(panic.downcast_ref::<String>().unwrap().contains("before"));
        assert!(!process::all().iter().any(|p| p.touches(env.scratch()) && p.pid != i32::try_from(std::process::id()).unwrap()));
    }

    #[test]
    fn held_pipes_are_told() {
        let env = SealedEnv::new();
        let leak = || env.cmd("sh").args(&["-c", "setsid sleep 100 & exit 0"]).run();
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(leak)).unwrap_err();
        assert!(panic.downcast_ref::<String>().unwrap().contains("still holds its output pipes"));
    }

    #[test]
    fn what_escapes_is_killed_with_the_environment() {
        let env = SealedEnv::new();
        env.cmd("sh").args(&["-c", "setsid sleep 100 >/dev/null 2>&1 & exit 0"]).run().assert_ok();
        let directory = env.scratch().to_owned();
        let touching =
            || process::all().into_iter().filter(|p| p.argv.first().is_some_and(|w| w == "sleep") && p.touches(&directory)).count();
        crate::until("the sleeper runs", Duration::from_secs(5), || (touching() == 1).then_some(()));
        drop(env);
        assert_eq!(touching(), 0);
        assert!(!directory.exists());
    }
}
