//! Users and groups of the guest, out of its own files.
//!
//! The C library would want plugins from the root it was not built for, so `/etc/passwd` and
//! `/etc/group` are read here. They are the guest's: capped in size, lines that do not parse are skipped.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

/// Largest file that is read.
const MAX_FILE: u64 = 1024 * 1024;

/// Who a command runs as, and what its environment says about that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) home: String,
    pub(crate) shell: String,
    /// None for plain root: the agent's own ids.
    pub(crate) ids: Option<Ids>,
}

/// The ids of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// The user or group cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UserError {
    #[error("there is no user {0:?} in the guest")]
    NoUser(String),
    #[error("there is no group {0:?} in the guest")]
    NoGroup(String),
}

/// One line of passwd(5).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
}

/// The two files, read again when they change.
#[derive(Default)]
pub(crate) struct Users {
    passwd: Cached,
    group: Cached,
}

#[derive(Default)]
struct Cached {
    stamp: Option<(u64, i64, i64, u64)>,
    text: String,
}

impl Users {
    /// Finds out who `user` is: nothing, `name`, `uid`, `name:group` or `uid:gid`.
    pub(crate) fn resolve(&mut self, user: Option<&str>) -> Result<Account, UserError> {
        let passwd = self.passwd.read("/etc/passwd");
        match user {
            None => Ok(root(passwd)),
            Some(user) => find(passwd, self.group.read("/etc/group"), user),
        }
    }
}

impl Cached {
    fn read(&mut self, path: &str) -> &str {
        let stamp = std::fs::metadata(path).ok().map(|m| (m.ino(), m.mtime(), m.mtime_nsec(), m.size()));
        if stamp.is_none() || stamp != self.stamp {
            let mut bytes = Vec::new();
            // What is no file has nobody's name in it, and may be one that is waited for.
            let mut options = File::options();
            let opened = options.read(true).custom_flags(libc::O_NONBLOCK).open(path);
            let file = opened.and_then(|file| if file.metadata()?.is_file() { Ok(file) } else { Err(ErrorKind::InvalidInput.into()) });
            let read = file.and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes));
            self.text = if read.is_ok() { String::from_utf8_lossy(&bytes).into_owned() } else { String::new() };
            self.stamp = stamp;
        }
        &self.text
    }
}

pub(super) fn root(passwd: &str) -> Account {
    let entry = entries(passwd).find(|e| e.uid == 0);
    let or = |text: Option<&str>, default: &str| text.filter(|t| !t.is_empty()).unwrap_or(default).to_owned();
    Account {
        name: or(entry.as_ref().map(|e| e.name), "root"),
        home: or(entry.as_ref().map(|e| e.home), "/root"),
        shell: or(entry.as_ref().map(|e| e.shell), "/bin/sh"),
        ids: None,
    }
}

pub(super) fn find(passwd: &str, group: &str, user: &str) -> Result<Account, UserError> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let number = number(user);
    // A name that looks like a number is a number, as everywhere in the container world.
    let entry = entries(passwd).find(|e| number.map_or(e.name == user, |n| e.uid == n));
    let uid = match (&entry, number) {
        (Some(entry), _) => entry.uid,
        (None, Some(uid)) => uid,
        (None, None) => return Err(UserError::NoUser(user.to_owned())),
    };
    let gid = match wanted_group {
        Some(wanted) => match self::number(wanted) {
            Some(gid) => gid,
            None => group_entries(group)
                .find(|(name, ..)| *name == wanted)
                .map(|(_, gid, _)| gid)
                .ok_or_else(|| UserError::NoGroup(wanted.to_owned()))?,
        },
        None => entry.as_ref().map_or(0, |e| e.gid),
    };
    let mut groups = vec![gid];
    if let (Some(entry), None) = (&entry, wanted_group) {
        let member = |list: &str| list.split(',').any(|m| m == entry.name);
        groups.extend(group_entries(group).filter(|(_, g, members)| *g != gid && member(members)).map(|(_, g, _)| g));
    }
    let or = |text: Option<&str>, default: &str| text.filter(|t| !t.is_empty()).unwrap_or(default).to_owned();
    Ok(Account {
        name: or(entry.as_ref().map(|e| e.name), user),
        home: or(entry.as_ref().map(|e| e.home), "/"),
        shell: or(entry.as_ref().map(|e| e.shell), "/bin/sh"),
        ids: Some(Ids { uid, gid, groups }),
    })
}

/// Digits and nothing else: Rust's own reading takes a sign too, and `+0` would be root.
fn number(text: &str) -> Option<u32> {
    if text.starts_with('+') { None } else { text.parse().ok() }
}

fn entries(passwd: &str) -> impl Iterator<Item = Entry<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _) = (fields.next()?, fields.next()?);
        let (uid, gid) = (number(fields.next()?)?, number(fields.next()?)?);
        let (_, home, shell) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Entry { name, uid, gid, home, shell })
    })
}

fn group_entries(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, number(fields.next()?)?);
        Some((name, gid, fields.next().unwrap_or("")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\nbad:x:nan:1::/:/bin/sh\nann:x:1000:100:Ann:/home/ann:\n";
    const GROUP: &str = "root:x:0:\nusers:x:100:\nwheel:x:10:ann,bob\naudio:x:29:bob\nalso:x:30:ann\n";

    fn ids(user: &str) -> Result<(u32, u32, Vec<u32>), UserError> {
        find(PASSWD, GROUP, user).map(|a| a.ids.map(|i| (i.uid, i.gid, i.groups)).unwrap())
    }

    #[test]
    fn names_numbers_and_groups() {
        assert_eq!(ids("ann"), Ok((1000, 100, vec![100, 10, 30])));
        assert_eq!(ids("1000"), Ok((1000, 100, vec![100, 10, 30])));
        assert_eq!(ids("ann:wheel"), Ok((1000, 10, vec![10])));
        assert_eq!(ids("4000"), Ok((4000, 0, vec![0])));
        assert_eq!(ids("4000:50"), Ok((4000, 50, vec![50])));
        assert_eq!(ids("root"), Ok((0, 0, vec![0])));
        assert_eq!(ids("zoe"), Err(UserError::NoUser("zoe".to_owned())));
        assert_eq!(ids("bad"), Err(UserError::NoUser("bad".to_owned())));
        assert_eq!(ids("ann:nope"), Err(UserError::NoGroup("nope".to_owned())));
        assert_eq!(ids(""), Err(UserError::NoUser(String::new())));
        // A sign makes a name: `+0` is nobody, and not root.
        assert_eq!(ids("+0"), Err(UserError::NoUser("+0".to_owned())));
        assert_eq!(ids("ann:+0"), Err(UserError::NoGroup("+0".to_owned())));
        assert!(find("eve:x:+0:+0::/:/bin/sh\n", "", "eve").is_err());
    }

    #[test]
    fn a_file_is_read_again_when_it_changes_and_what_is_none_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passwd");
        let path = path.to_str().unwrap();
        let mut cached = Cached::default();
        assert_eq!(cached.read(path), "");
        std::fs::write(path, PASSWD).unwrap();
        assert_eq!(cached.read(path), PASSWD);
        std::fs::write(path, "root:x:0:0::/:/bin/sh\n").unwrap();
        assert_eq!(cached.read(path), "root:x:0:0::/:/bin/sh\n");
        std::fs::remove_file(path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        assert_eq!(cached.read(path), "", "nobody writes to it");
    }

    #[test]
    fn homes_and_shells() {
        let ann = find(PASSWD, GROUP, "ann").unwrap();
        assert_eq!((ann.home.as_str(), ann.shell.as_str()), ("/home/ann", "/bin/sh"));
        assert_eq!(root(PASSWD).shell, "/bin/bash");
        assert_eq!(root("").home, "/root");
        assert_eq!(find("", "", "7").unwrap().home, "/");
    }
}
