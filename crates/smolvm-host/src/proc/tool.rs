//! Runs the few external programs smolvm needs, the same careful way every time.
//!
//! Invariants: an empty environment but for `PATH`, `LC_ALL` and what the caller adds; a deadline that
//! ends the whole process group, which goes with the tool's own end too; no tool outlives its caller; output kept in memory up to a cap, the rest read and dropped, so a
//! chatty tool can neither block nor fill the heap. Nothing is looked up along the user's `PATH`.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::leash;

/// Where tools are looked for, and the `PATH` they get.
const SEARCH: [&str; 6] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin";
/// Bytes of each of stdout and stderr that are kept: the largest read-back (`nft -j` of 10,000 elements) is about 2 MiB.
const OUTPUT_CAP: usize = 16 << 20;
/// How long the pipes are read on once the tool has ended, if somebody else holds them open: they hold 64 KiB at most.
const DRAIN: Duration = Duration::from_secs(2);

/// One run of one program, being described.
#[derive(Debug)]
pub struct Tool {
    program: OsString,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
    stdin: Vec<u8>,
    timeout: Duration,
}

/// What a finished program left.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, capped.
    pub stdout: Vec<u8>,
    /// Its standard error, capped.
    pub stderr: Vec<u8>,
}

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It is in none of the directories tools live in.
    #[error("the program `{program}` is not installed")]
    Missing {
        /// The program's name.
        program: String,
    },
    /// The kernel would not start it.
    #[error("the program `{program}` could not be started")]
    Spawn {
        /// The program's name.
        program: String,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// Talking to it or waiting for it failed.
    #[error("waiting for the program `{program}` failed")]
    Wait {
        /// The program's name.
        program: String,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// It did not end in time and was killed with its process group.
    #[error("the program `{program}` did not end within {} s", timeout.as_secs())]
    TimedOut {
        /// The program's name.
        program: String,
        /// The bound it had.
        timeout: Duration,
    },
    /// It ended with a status other than zero.
    #[error("the program `{program}` failed ({status}): {stderr}")]
    Failed {
        /// The program's name.
        program: String,
        /// Its exit status or signal.
        status: ExitStatus,
        /// The last lines it wrote to standard error.
        stderr: String,
    },
}

/// Finds a program in the directories tools live in.
pub fn find(program: &str) -> Option<PathBuf> {
    SEARCH.iter().map(|dir| Path::new(dir).join(program)).find(|path| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok())
}

impl Tool {
    /// A run of `program` (a bare name, or an absolute path) bounded to 30 s.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            envs: Vec::new(),
            dir: None,
            stdin: Vec::new(),
            timeout: Duration::from_secs(30),
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds several arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets one environment variable.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.envs.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.dir = Some(dir.to_owned());
        self
    }

    /// Gives the program this text on standard input; without it, standard input is empty.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Changes the bound after which the process group is killed.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs it to its end, whatever its status.
    pub fn run(self) -> Result<Output, ToolError> {
        let name = self.program.to_string_lossy().into_owned();
        let mut child = self.spawn(&name)?;
        let deadline = Instant::now() + self.timeout;
        let out = child.stdout.take().map(Reader::start);
        let err = child.stderr.take().map(Reader::start);
        let (text, stdin) = (self.stdin, child.stdin.take());
        // A tool that exits early closes its end; what it did not read is its own affair, and nobody waits for this.
        thread::spawn(move || stdin.map(|mut pipe| pipe.write_all(&text)));
        let ended = wait_until(&child, deadline);
        // A grandchild may hold the pipes open after the tool itself ended: the group goes either way. The
        // tool is not reaped yet, so the group's number is still its own.
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let status = child.wait().map_err(|source| ToolError::Wait { program: name.clone(), source })?;
        if !ended.map_err(|source| ToolError::Wait { program: name.clone(), source })? {
            return Err(ToolError::TimedOut { program: name, timeout: self.timeout });
        }
        // One that made itself a group of its own still holds them. What the tool wrote is in the pipes by now.
        let until = Instant::now() + DRAIN;
        let kept = |reader: Option<Reader>| reader.map(|reader| reader.finish(until)).unwrap_or_default();
        Ok(Output { status, stdout: kept(out), stderr: kept(err) })
    }

    /// Runs it and takes any status but zero for an error.
    pub fn run_ok(self) -> Result<Output, ToolError> {
        let program = self.program.to_string_lossy().into_owned();
        let output = self.run()?;
        if output.status.success() {
            Ok(output)
        } else {
            Err(ToolError::Failed { program, status: output.status, stderr: tail(&output.stderr) })
        }
    }

    fn spawn(&self, name: &str) -> Result<Child, ToolError> {
        let path = if Path::new(&self.program).is_absolute() {
            PathBuf::from(&self.program)
        } else {
            find(name).ok_or_else(|| ToolError::Missing { program: name.to_owned() })?
        };
        #[expect(clippy::disallowed_methods, reason = "this is the wrapper that the ban points to")]
        let mut command = Command::new(&path);
        command.args(&self.args).env_clear().env("PATH", PATH).env("LC_ALL", "C").envs(self.envs.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        leash::tie(&mut command);
        command.spawn().map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => ToolError::Missing { program: name.to_owned() },
            _ => ToolError::Spawn { program: name.to_owned(), source },
        })
    }
}

impl Output {
    /// Standard output as text, broken bytes replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The last lines of standard error, for a message.
    pub fn complaint(&self) -> String {
        tail(&self.stderr)
    }

    /// The signal that ended it, if one did.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

/// Waits for the child's end through a pidfd; `false` when the deadline came first.
fn wait_until(child: &Child, deadline: Instant) -> std::io::Result<bool> {
    let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return Ok(true) };
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// A thread that empties a pipe, and what it has read so far.
struct Reader {
    kept: Arc<Mutex<Vec<u8>>>,
    ended: Receiver<()>,
}

impl Reader {
    fn start(pipe: impl Read + Send + 'static) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let (end, ended) = channel();
        let into = Arc::clone(&kept);
        thread::spawn(move || {
            read_capped(pipe, &into);
            // Nobody listens any more: then nobody needs to know.
            let _ = end.send(());
        });
        Self { kept, ended }
    }

    /// What was read once the pipe has ended, or by `until`.
    fn finish(self, until: Instant) -> Vec<u8> {
        let _ = self.ended.recv_timeout(until.saturating_duration_since(Instant::now()));
        std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn read_capped(mut pipe: impl Read, into: &Mutex<Vec<u8>>) {
    let mut chunk = [0; 16 << 10];
    loop {
        match pipe.read(&mut chunk) {
            Ok(0) => return,
            Ok(n) => {
                let mut kept = into.lock().unwrap_or_else(PoisonError::into_inner);
                let room = OUTPUT_CAP.saturating_sub(kept.len());
                kept.extend_from_slice(&chunk[..n.min(room)]);
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn tail(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join("; ").chars().take(600).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_streams_and_input() {
        let out = Tool::new("sh").arg("-c").arg("cat; echo bad >&2; exit 3").stdin("hello").run().unwrap();
        assert_eq!((out.status.code(), out.text().as_str(), out.complaint().as_str()), (Some(3), "hello", "bad"));
    }

    #[test]
    fn the_environment_is_empty_but_for_path_and_locale() {
        let out = Tool::new("env").env("X", "1").run_ok().unwrap().text();
        let mut names: Vec<_> = out.lines().filter_map(|l| l.split('=').next()).collect();
        names.sort_unstable();
        assert_eq!(names, ["LC_ALL", "PATH", "X"]);
    }

    #[test]
    fn a_hanging_tool_is_ended_with_its_children() {
        let err = Tool::new("sh").arg("-c").arg("sleep 600 & sleep 600").timeout(Duration::from_millis(100)).run().unwrap_err();
        assert!(matches!(err, ToolError::TimedOut { .. }));
    }

    /// Neither a child in the tool's group nor one that left it keeps the caller waiting, and what was said is kept.
    #[test]
    fn what_outlives_the_tool_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let left = "mkfifo up; setsid sh -c 'echo $$ >up; exec sleep 600' & read pid <up; echo $pid; sleep 600 & echo $!";
        let began = Instant::now();
        let out = Tool::new("sh").arg("-c").arg(left).dir(dir.path()).run_ok().unwrap().text();
        let took = began.elapsed();
        let pids: Vec<i32> = out.lines().map(|line| line.parse().unwrap()).collect();
        let of_its_own = Pid::from_raw(pids[0]).unwrap();
        let survived = rustix::process::test_kill_process(of_its_own);
        let _ = rustix::process::kill_process(of_its_own, Signal::KILL);
        assert!(took < Duration::from_secs(20), "{took:?}");
        assert_eq!((pids.len(), survived), (2, Ok(())), "the test's own premise: one child left the group");
        let until = Instant::now() + Duration::from_secs(10);
        while crate::proc::identity::look(Path::new("/proc"), u32::try_from(pids[1]).unwrap()).unwrap().is_some_and(|seen| !seen.zombie) {
            assert!(Instant::now() < until, "the tool's group outlives it");
            thread::yield_now();
        }
    }

    #[test]
    fn missing_is_its_own_error() {
        assert!(matches!(Tool::new("no-such-program-here").run(), Err(ToolError::Missing { .. })));
    }
}
