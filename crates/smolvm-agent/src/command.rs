//! From a request to what `execve` takes.

use std::collections::BTreeMap;
use std::ffi::CString;

use smolvm_proto::{ExecErrorKind, ExecExit, ExecRequest};

use crate::sys::spawn::{Failure, Stage};
use crate::users::Account;

/// Where commands are looked for when the request does not say.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command in the kernel's terms.
pub(crate) struct Command {
    pub(crate) candidates: Vec<CString>,
    pub(crate) argv: Vec<CString>,
    pub(crate) env: Vec<CString>,
    pub(crate) cwd: CString,
}

impl Command {
    /// Adds the defaults to a request that was validated before.
    pub(crate) fn prepare(request: &ExecRequest, account: &Account) -> Self {
        let defaults = [
            ("HOME", account.home.as_str()),
            ("LOGNAME", &account.name),
            ("PATH", DEFAULT_PATH),
            ("SHELL", &account.shell),
            ("USER", &account.name),
        ];
        let mut env: BTreeMap<&str, &str> = defaults.into_iter().collect();
        env.extend(request.env.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        let name = request.argv.first().map_or("", String::as_str);
        Self {
            candidates: candidates(name, env.get("PATH").copied().unwrap_or(DEFAULT_PATH)),
            argv: request.argv.iter().map(|a| c_string(a.clone())).collect(),
            env: env.into_iter().map(|(k, v)| c_string(format!("{k}={v}"))).collect(),
            cwd: c_string(request.cwd.clone().unwrap_or_else(|| "/".to_owned())),
        }
    }
}

/// The paths a command's name can mean.
fn candidates(name: &str, path: &str) -> Vec<CString> {
    if name.contains('/') {
        return vec![c_string(name.to_owned())];
    }
    path.split(':').map(|dir| c_string(format!("{}/{name}", if dir.is_empty() { "." } else { dir }))).collect()
}

/// A string without NUL bytes; the request was validated, and account names come out of lines of text.
fn c_string(text: String) -> CString {
    CString::new(text).unwrap_or_default()
}

/// What to answer when there is no process.
pub(crate) fn explain(request: &ExecRequest, failure: Failure) -> ExecExit {
    let name = request.argv.first().map_or("", String::as_str);
    let why = failure.errno;
    match (failure.stage, failure.errno.raw_os_error()) {
        (Stage::Cwd, _) => ExecExit::failed(ExecErrorKind::BadCwd, format!("{}: {why}", request.cwd.as_deref().unwrap_or("/"))),
        (Stage::User, _) => ExecExit::failed(ExecErrorKind::BadUser, format!("{}: {why}", request.user.as_deref().unwrap_or("root"))),
        (Stage::Exec, libc::ENOENT | libc::ENOTDIR) => ExecExit::failed(ExecErrorKind::NotFound, format!("{name}: command not found")),
        // Our own mark for a file that is there while the kernel says it is not: the program it asks for is missing.
        (Stage::Exec, libc::ELIBACC) => ExecExit::failed(ExecErrorKind::NotFound, format!("{name}: its interpreter is not in the guest")),
        (Stage::Exec, libc::EACCES | libc::EPERM | libc::ENOEXEC | libc::EISDIR | libc::ELIBBAD | libc::ELOOP | libc::ENAMETOOLONG) => {
            ExecExit::failed(ExecErrorKind::NotExecutable, format!("{name}: {why}"))
        }
        (Stage::Exec | Stage::Clone | Stage::SetUp, _) => ExecExit::failed(ExecErrorKind::SpawnFailed, format!("{name}: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_searched_only_for_bare_names() {
        let text = |c: Vec<CString>| c.into_iter().map(|c| c.into_string().unwrap()).collect::<Vec<_>>();
        assert_eq!(text(candidates("ls", "/a:/b")), ["/a/ls", "/b/ls"]);
        assert_eq!(text(candidates("ls", ":/b")), ["./ls", "/b/ls"]);
        assert_eq!(text(candidates("./ls", "/a")), ["./ls"]);
    }

    #[test]
    fn the_request_is_stronger_than_the_defaults() {
        let account = Account { name: "ann".into(), home: "/home/ann".into(), shell: "/bin/sh".into(), ids: None };
        let mut request = ExecRequest { argv: vec!["id".into()], ..ExecRequest::default() };
        request.env.insert("HOME".into(), "/x".into());
        request.env.insert("PATH".into(), "/only".into());
        let command = Command::prepare(&request, &account);
        let env: Vec<_> = command.env.iter().map(|e| e.to_str().unwrap()).collect();
        assert_eq!(env, ["HOME=/x", "LOGNAME=ann", "PATH=/only", "SHELL=/bin/sh", "USER=ann"]);
        assert_eq!(command.candidates, [c"/only/id".to_owned()]);
    }
}
