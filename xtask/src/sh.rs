//! Running other programs, with errors that name the command line.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

/// One command line to be run.
pub(crate) struct Cmd {
    command: Command,
}

impl Cmd {
    /// The program, looked up in `PATH`.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        Self { command }
    }

    /// Adds one argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub(crate) fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, args: I) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable.
    pub(crate) fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Takes a variable away.
    pub(crate) fn without_env(mut self, key: &str) -> Self {
        self.command.env_remove(key);
        self
    }

    /// Runs in `directory`.
    pub(crate) fn dir(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Gives the program our standard input, for questions such as sudo's.
    pub(crate) fn inherit_stdin(mut self) -> Self {
        self.command.stdin(Stdio::inherit());
        self
    }

    /// Sends its stdout to our stderr: progress, not a result.
    pub(crate) fn stdout_to_stderr(mut self) -> Self {
        self.command.stdout(std::io::stderr());
        self
    }

    /// Runs with our stdout and stderr; anything but success is an error.
    pub(crate) fn run(mut self) -> Result<()> {
        std::io::stdout().flush().ok();
        let status = self.command.status().with_context(|| format!("cannot run `{self}`"))?;
        if !status.success() {
            bail!("`{self}`: {status}");
        }
        Ok(())
    }

    /// Runs, and returns what it wrote to stdout; its stderr is shown only when it fails.
    pub(crate) fn stdout(self) -> Result<String> {
        let shown = self.to_string();
        let (status, out, err) = self.captured()?;
        if !status.success() {
            bail!("`{shown}`: {status}\n{}", err.trim_end());
        }
        Ok(out)
    }

    /// Runs, and returns status, stdout and stderr.
    pub(crate) fn captured(mut self) -> Result<(ExitStatus, String, String)> {
        let output = self.command.output().with_context(|| format!("cannot run `{self}`"))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((output.status, text(output.stdout), text(output.stderr)))
    }
}

impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.command.get_program().to_string_lossy())?;
        for arg in self.command.get_args() {
            write!(f, " {}", arg.to_string_lossy())?;
        }
        Ok(())
    }
}

/// The full path of a program in `PATH` or, as a user's `PATH` often leaves them out, in the sbin directories.
pub(crate) fn which(program: &str) -> Option<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(Into::into))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .map(Into::into)
}

/// Says on stderr what happens next.
pub(crate) fn step(text: &str) {
    eprintln!("==> {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_name_the_command_and_its_words() {
        let error = Cmd::new("sh").args(["-c", "echo why >&2; exit 3"]).stdout().unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("sh -c") && text.contains("exit status: 3") && text.contains("why"), "{text}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Cmd::new("no-such-program-anywhere").run().unwrap_err();
        assert!(format!("{error:#}").contains("no-such-program-anywhere"));
    }
}
