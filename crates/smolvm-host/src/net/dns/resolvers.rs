//! The host's name servers, as `/etc/resolv.conf` lists them now.

use std::fs::{File, Metadata};
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// As many as the C library uses.
const MAX_SERVERS: usize = 3;
const MAX_FILE: u64 = 64 << 10;
const PORT: u16 = 53;

/// The name servers, read again when the file changes.
#[derive(Debug)]
pub(super) struct Resolvers {
    path: PathBuf,
    /// A server that would lead back to us.
    except: IpAddr,
    seen: Option<Version>,
    servers: Vec<SocketAddr>,
    /// The one that answered last; asked first, so that a dead first server costs once.
    preferred: usize,
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Resolvers {
    pub(super) fn new(path: &Path, except: IpAddr) -> Self {
        Self { path: path.to_owned(), except, seen: None, servers: Vec::new(), preferred: 0 }
    }

    /// The servers, the preferred one first.
    pub(super) fn current(&mut self) -> Vec<SocketAddr> {
        self.refresh();
        let (later, first) = self.servers.split_at(self.preferred.min(self.servers.len()));
        [first, later].concat()
    }

    pub(super) fn prefer(&mut self, server: SocketAddr) {
        if let Some(at) = self.servers.iter().position(|s| *s == server) {
            self.preferred = at;
        }
    }

    /// Puts a server that failed behind the others.
    pub(super) fn avoid(&mut self, server: SocketAddr) {
        if self.servers.get(self.preferred) == Some(&server) {
            self.preferred = (self.preferred + 1) % self.servers.len();
        }
    }

    /// A file that is missing or unreadable now (it may be being replaced) changes nothing.
    fn refresh(&mut self) {
        let Ok(file) = File::open(&self.path) else { return };
        let Ok(version) = file.metadata().map(|m| Version::of(&m)) else { return };
        if self.seen == Some(version) {
            return;
        }
        let mut text = Vec::new();
        if file.take(MAX_FILE).read_to_end(&mut text).is_ok() {
            self.servers = parse(&String::from_utf8_lossy(&text), self.except);
            self.preferred = 0;
            self.seen = Some(version);
        }
    }
}

impl Version {
    fn of(file: &Metadata) -> Self {
        Self { device: file.dev(), inode: file.ino(), size: file.size(), changed: (file.ctime(), file.ctime_nsec()) }
    }
}

pub(super) fn parse(text: &str, except: IpAddr) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "nameserver").then(|| words.next()?.parse::<IpAddr>().ok()).flatten()
        })
        .filter(|server| *server != except)
        .take(MAX_SERVERS)
        .map(|server| SocketAddr::new(server, PORT))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 0, 1));

    #[test]
    fn servers_are_taken_as_the_c_library_takes_them() {
        let text = "# nameserver 1.1.1.1\nsearch example.org\nnameserver 10.9.0.1\nnameserver\t192.0.2.1\nnameserver fe80::1%eth0\n\
                    nameserver ::1 comment\nnameserver\nnameservers 9.9.9.9\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n";
        let found: Vec<String> = parse(text, US).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[::1]:53", "192.0.2.3:53"]);
    }

    #[test]
    fn a_replaced_file_is_read_again_and_the_server_that_answered_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let mut resolvers = Resolvers::new(&path, US);
        assert!(resolvers.current().is_empty());
        std::fs::write(&path, "nameserver 192.0.2.1\nnameserver 192.0.2.2\n").unwrap();
        let both = resolvers.current();
        resolvers.prefer(both[1]);
        assert_eq!(resolvers.current(), [both[1], both[0]]);
        resolvers.avoid(both[1]);
        assert_eq!(resolvers.current(), both);
        std::fs::write(dir.path().join("new"), "nameserver 192.0.2.9\n").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(resolvers.current(), ["192.0.2.9:53".parse().unwrap()]);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(resolvers.current().len(), 1);
        resolvers.avoid("192.0.2.1:53".parse().unwrap());
    }
}
