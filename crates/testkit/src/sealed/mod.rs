//! A home of its own, a cleared environment, and commands that cannot hang a test.
//!
//! ```text
//!   SealedEnv ── cmd(program) ──► Cmd ── run() ──► Ran {status, stdout, stderr}
//!       │                          └─── spawn() ──► Running ── wait() ──► Ran
//!       └── drop: whatever still runs and touches the home is killed by pidfd, then the home goes
//! ```

mod cmd;
mod ran;
mod running;

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

pub use cmd::{Cmd, Stdin};
pub use ran::Ran;
pub use running::Running;

use crate::{prerequisite, process};

/// How long a command may take unless it says otherwise.
const USUAL: Duration = Duration::from_mins(1);

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
