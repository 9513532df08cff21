//! The little of a DNS message that a forwarder must understand (RFC 1035, section 4.1).

/// id, flags, and four counts.
pub(super) const HEADER: usize = 12;
/// What a guest may send in one datagram; questions are far smaller.
pub(super) const MAX_QUERY: usize = 4096;
/// What goes back in one datagram; above it, the guest is told to ask over TCP.
pub(super) const MAX_REPLY: usize = 4096;

const RESPONSE: u8 = 0x80;
const OPCODE: u8 = 0x78;
const TRUNCATED: u8 = 0x02;
const RECURSION_WANTED: u8 = 0x01;
const RECURSION_OFFERED: u8 = 0x80;
const SERVFAIL: u8 = 2;
const IXFR: u16 = 251;
const AXFR: u16 = 252;

/// The transaction's id.
pub(super) fn id(message: &[u8]) -> Option<[u8; 2]> {
    message.first_chunk().copied()
}

/// Puts another id in.
pub(super) fn set_id(message: &mut [u8], id: [u8; 2]) {
    if let Some(place) = message.first_chunk_mut() {
        *place = id;
    }
}

/// Whether this is one plain question: no update, no notification, no transfer of a zone. Those would
/// be made with the host's address, which somebody may trust.
pub(super) fn is_plain_query(message: &[u8]) -> bool {
    let plain = message.len() >= HEADER && message[2] & (RESPONSE | OPCODE) == 0 && message[4..6] == [0, 1];
    let kind = || {
        let end = question_end(message)?;
        Some(u16::from_be_bytes([message[end - 4], message[end - 3]]))
    };
    plain && kind().is_some_and(|kind| kind != AXFR && kind != IXFR)
}

/// Whether this is a reply to the question with this id.
pub(super) fn is_reply_to(message: &[u8], wanted: [u8; 2]) -> bool {
    message.len() >= HEADER && id(message) == Some(wanted) && message[2] & RESPONSE != 0
}

/// The reply "the name servers did not answer" to a question.
pub(super) fn failure(query: &[u8]) -> Option<Vec<u8>> {
    let mut reply = query.get(..question_end(query)?)?.to_vec();
    reply[2] = (reply[2] & RECURSION_WANTED) | RESPONSE;
    reply[3] = RECURSION_OFFERED | SERVFAIL;
    reply[6..HEADER].fill(0);
    Some(reply)
}

/// The reply "ask over TCP" in place of one that is too large; one to other than one question answers nobody here.
pub(super) fn truncated(reply: &[u8]) -> Option<Vec<u8>> {
    if reply.get(4..6)? != [0, 1] {
        return None;
    }
    let mut short = reply.get(..question_end(reply)?)?.to_vec();
    short[2] |= TRUNCATED;
    short[6..HEADER].fill(0);
    Some(short)
}

/// Where the first question ends: labels up to an empty one, then type and class.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match *message.get(at)? {
            0 => break,
            // A pointer has nothing to point to in a first question.
            len if len < 64 => at += usize::from(len) + 1,
            _ => return None,
        }
        if at > HEADER + 255 {
            return None;
        }
    }
    Some(at + 5).filter(|end| *end <= message.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(kind: u8) -> Vec<u8> {
        [&[0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1][..], b"\x07example\x03org\x00", &[0, kind, 0, 1], &[0, 0, 41]].concat()
    }

    #[test]
    fn plain_questions_pass_and_transfers_and_updates_do_not() {
        assert!(is_plain_query(&query(1)) && is_plain_query(&query(28)));
        assert!(!is_plain_query(&query(252)) && !is_plain_query(&query(251)));
        let mut update = query(1);
        update[2] = 5 << 3;
        assert!(!is_plain_query(&update));
        let mut reply = query(1);
        reply[2] |= 0x80;
        assert!(!is_plain_query(&reply));
        for len in 0..query(1).len() - 3 {
            assert!(!is_plain_query(&query(1)[..len]), "cut at {len}");
        }
        let mut endless = query(1)[..HEADER].to_vec();
        endless.extend([1, b'a'].repeat(300));
        assert!(!is_plain_query(&endless));
        endless.truncate(HEADER);
        endless.extend([0xc0, 0x0c, 0, 1, 0, 1]);
        assert!(!is_plain_query(&endless));
    }

    #[test]
    fn made_up_replies_keep_id_and_question_and_nothing_else() {
        let failed = failure(&query(1)).unwrap();
        assert_eq!(&failed[..HEADER], &[0xab, 0xcd, 0x81, 0x82, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(failed.len(), query(1).len() - 3);
        assert!(is_reply_to(&failed, [0xab, 0xcd]) && !is_reply_to(&failed, [0xab, 0xce]) && !is_reply_to(&query(1), [0xab, 0xcd]));
        let short = truncated(&failed).unwrap();
        assert_eq!(short[2] & 2, 2);
        assert_eq!(failure(&[0; 12]), None);
    }

    #[test]
    fn a_long_reply_to_other_than_one_question_is_no_reply_to_shorten() {
        for count in [0, 2, 255] {
            let mut reply = failure(&query(1)).unwrap();
            reply[5] = count;
            assert_eq!(truncated(&reply), None, "{count} questions");
        }
    }
}
