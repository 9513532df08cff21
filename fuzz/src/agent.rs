//! The guest's own side. The agent is a program, so the files with its readers are compiled in here as they are.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use smolvm_proto::{AttachRequest, Frame};

use self::wire::Reply;
use crate::input;
use serve::link::{Incoming, Link};

#[allow(dead_code, reason = "only the readers are used")]
#[path = "../../crates/smolvm-agent/src/boot/network/netlink.rs"]
mod wire;

#[allow(dead_code, reason = "only the readers are used")]
#[path = "../../crates/smolvm-agent/src/users.rs"]
mod accounts;

#[allow(dead_code, reason = "only the readers are used")]
mod serve;

/// What a line gives.
#[derive(Debug, PartialEq)]
enum Heard {
    Attach(AttachRequest),
    Frame(Frame),
}

/// A host side is found in anything, its frames follow, and where the cuts are changes nothing.
pub(crate) fn link(bytes: &[u8]) {
    let (whole, pieces) = input::pieces(bytes);
    let heard = listen(&[whole]);
    assert_eq!(listen(&pieces), heard);
    assert!(heard.first().is_none_or(|first| matches!(first, Heard::Attach(_))), "a frame of nobody");
}

fn listen(pieces: &[&[u8]]) -> Vec<Heard> {
    let (line, mut host) = UnixStream::pair().expect("a pair of sockets");
    line.set_nonblocking(true).expect("a socket");
    let mut link = Link::new(line.into());
    let mut heard = Vec::new();
    for piece in pieces {
        host.write_all(piece).expect("the line takes it");
        link.receive().expect("a socket");
        while let Some(incoming) = link.next() {
            heard.push(match incoming {
                Incoming::Attach(request) => Heard::Attach(request),
                Incoming::Frame(frame) => Heard::Frame(frame.to_owned()),
            });
        }
    }
    host.shutdown(Shutdown::Write).expect("a socket");
    assert!(!link.receive().expect("a socket"), "the end of the line was not seen");
    heard
}

/// Nobody becomes somebody else: a name is looked up, and only digits are a number.
pub(crate) fn users(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.splitn(3, '\u{1}');
    let (user, passwd, group) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    assert_eq!(accounts::root(passwd).ids, None);
    let Ok(account) = accounts::find(passwd, group, user) else { return };
    let ids = account.ids.expect("somebody in particular");
    assert!(!account.home.is_empty() && !account.shell.is_empty() && ids.groups.first() == Some(&ids.gid));
    let who = user.split(':').next().unwrap_or_default();
    let number = !who.is_empty() && who.bytes().all(|b| b.is_ascii_digit());
    let named = passwd.lines().any(|line| line.split(':').next() == Some(who));
    assert!(number || named, "{who:?} is neither a number nor in the list");
}

/// The kernel's answers lie in its datagram, and errors are numbers of errors.
pub(crate) fn netlink(datagram: &[u8]) {
    let replies: Vec<Reply> = wire::replies(datagram).collect();
    assert!(replies.len() <= datagram.len() / 16);
    // What follows the datagram is none of its business.
    let cut = wire::replies(&datagram[..datagram.len() / 2]).count();
    assert!(cut <= replies.len());
}
