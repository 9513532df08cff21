//! Finds an attach message in a stream of anything.
//!
//! The agent scans for a request whenever its decoder says that bytes are not frames; a host side
//! scans for the reply to *its* nonce after each attach, and so skips whatever an earlier session
//! left in the line. What follows the message is the first frame.
//!
//! Invariant: a scanner keeps fewer bytes than one message.

use crate::attach::{AttachReply, AttachRequest, Nonce, REPLY_LEN, REPLY_MAGIC, REQUEST_LEN, REQUEST_MAGIC};

/// Looks for any [`AttachRequest`].
#[derive(Debug, Default)]
pub struct RequestScanner {
    kept: Vec<u8>,
}

/// Looks for the [`AttachReply`] to one nonce.
#[derive(Debug)]
pub struct ReplyScanner {
    nonce: Nonce,
    kept: Vec<u8>,
}

impl RequestScanner {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks through more bytes. On a hit: the request, and the bytes after it.
    pub fn push<'a>(&mut self, bytes: &'a [u8]) -> Option<(AttachRequest, &'a [u8])> {
        let (message, rest) = scan::<REQUEST_LEN>(&mut self.kept, &REQUEST_MAGIC, bytes)?;
        Some((AttachRequest::parse(&message)?, rest))
    }
}

impl ReplyScanner {
    /// Looks for the reply to the request with this nonce.
    pub fn new(nonce: Nonce) -> Self {
        Self { nonce, kept: Vec::new() }
    }

    /// Looks through more bytes. On a hit: the reply, and the bytes after it.
    pub fn push<'a>(&mut self, bytes: &'a [u8]) -> Option<(AttachReply, &'a [u8])> {
        let mut start = [0; 32];
        start[..16].copy_from_slice(&REPLY_MAGIC);
        start[16..].copy_from_slice(&self.nonce.0);
        let (message, rest) = scan::<REPLY_LEN>(&mut self.kept, &start, bytes)?;
        Some((AttachReply::parse(&message)?, rest))
    }
}

/// Finds `LEN` bytes that begin with `start`; `kept` is a beginning that earlier bytes ended with.
fn scan<'a, const LEN: usize>(kept: &mut Vec<u8>, start: &[u8], bytes: &'a [u8]) -> Option<([u8; LEN], &'a [u8])> {
    // A beginning in `kept` either goes on in the new bytes or starts later in `kept` than thought.
    let mut taken = 0;
    while !kept.is_empty() && taken < bytes.len() {
        kept.push(bytes[taken]);
        taken += 1;
        while !kept.is_empty() && !is_beginning(kept, start) {
            kept.remove(0);
        }
        if let Ok(message) = <[u8; LEN]>::try_from(kept.as_slice()) {
            kept.clear();
            return Some((message, &bytes[taken..]));
        }
    }
    let fresh = &bytes[taken..];
    let mut at = 0;
    while let Some(skip) = fresh[at..].iter().position(|b| *b == start[0]) {
        at += skip;
        let candidate = &fresh[at..fresh.len().min(at + LEN)];
        if !is_beginning(candidate, start) {
            at += 1;
        } else if let Ok(message) = <[u8; LEN]>::try_from(candidate) {
            return Some((message, &fresh[at + LEN..]));
        } else {
            kept.extend_from_slice(candidate);
            return None;
        }
    }
    None
}

/// Whether `bytes` could be the beginning of a message that begins with `start`.
fn is_beginning(bytes: &[u8], start: &[u8]) -> bool {
    let common = bytes.len().min(start.len());
    bytes[..common] == start[..common]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn found_in_any_garbage_and_any_split(
            garbage in proptest::collection::vec(prop_oneof![Just(0xf5_u8), Just(b's'), Just(0xf6), any::<u8>()], 0..200),
            partial in 0_usize..16,
            tail in proptest::collection::vec(any::<u8>(), 0..50),
            cut in 1_usize..60,
        ) {
            let request = AttachRequest::new(Nonce([3; 16]));
            let mut bytes = garbage;
            bytes.extend_from_slice(&REQUEST_MAGIC[..partial]);
            bytes.extend_from_slice(&request.to_bytes());
            bytes.extend_from_slice(&tail);
            let (mut scanner, mut found) = (RequestScanner::new(), None);
            let mut after = Vec::new();
            for chunk in bytes.chunks(cut) {
                if found.is_some() {
                    after.extend_from_slice(chunk);
                } else if let Some((hit, rest)) = scanner.push(chunk) {
                    found = Some(hit);
                    after.extend_from_slice(rest);
                }
                prop_assert!(scanner.kept.len() < REQUEST_LEN);
            }
            prop_assert_eq!(found, Some(request));
            prop_assert_eq!(after, tail);
        }
    }

    #[test]
    fn replies_to_other_nonces_are_skipped() {
        let reply = |n: u8| AttachRequest::new(Nonce([n; 16])).answer().to_bytes();
        let mut bytes = reply(1).to_vec();
        bytes.extend_from_slice(b"stale frames of another session");
        bytes.extend_from_slice(&reply(2));
        bytes.extend_from_slice(b"next");
        let mut scanner = ReplyScanner::new(Nonce([2; 16]));
        let (found, rest) = scanner.push(&bytes).unwrap();
        assert_eq!(found.nonce, Nonce([2; 16]));
        assert_eq!(rest, b"next");
    }
}
