//! The line between host and guest: frames, the handshake, messages, windows.

use std::fmt::Debug;

use smolvm_proto::attach::{REPLY_LEN, REPLY_MAGIC, REQUEST_LEN, REQUEST_MAGIC};
use smolvm_proto::{
    AgentMessage, AttachReply, AttachRequest, Decoder, ExecExit, ExecRequest, Frame, FrameError, GENERATION, HEADER_LEN, HostMessage,
    INITIAL_WINDOW, MAX_PAYLOAD, MAX_WINDOW, MonitorReply, MonitorRequest, Nonce, OLDEST_GENERATION, ReceiveWindow, ReplyScanner,
    RequestScanner, SendWindow, StreamControl, decode, encode,
};

use crate::input;

/// Where the cuts are changes nothing; frames are written as they were read; nothing is kept beyond one frame; an error stays.
pub(crate) fn frames(bytes: &[u8]) {
    let (whole, pieces) = input::pieces(bytes);
    let (frames, error, rest) = decode_all([whole].into_iter(), Feed::Copy);
    let mut written = Vec::new();
    frames.iter().for_each(|frame| frame.encode_into(&mut written));
    written.extend_from_slice(&rest);
    assert_eq!(written, whole, "frames and what follows them are not what came");
    for feed in [Feed::Copy, Feed::InPlace] {
        let (same, also, _) = decode_all(pieces.iter().copied(), feed);
        assert_eq!((same, also), (frames.clone(), error), "another cut, another result");
    }
}

#[derive(Clone, Copy)]
enum Feed {
    Copy,
    InPlace,
}

fn decode_all<'a>(pieces: impl Iterator<Item = &'a [u8]>, feed: Feed) -> (Vec<Frame>, Option<FrameError>, Vec<u8>) {
    let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
    for piece in pieces {
        match feed {
            Feed::Copy => decoder.push(piece),
            Feed::InPlace => {
                let space = decoder.space();
                assert!(space.len() >= piece.len(), "no room after every frame was taken out");
                space[..piece.len()].copy_from_slice(piece);
                decoder.filled(piece.len());
            }
        }
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => {
                    assert!(decoder.next_is_garbage() && decoder.next_frame() == Err(error), "an error went away");
                    let rest = decoder.take_rest();
                    assert_eq!(decoder.next_frame(), Ok(None), "the error outlived its bytes");
                    return (frames, Some(error), rest);
                }
            }
        }
        assert!(decoder.buffered() < HEADER_LEN + MAX_PAYLOAD, "more than one frame is kept");
    }
    assert!(!decoder.next_is_garbage());
    (frames, None, decoder.take_rest())
}

/// A handshake is found wherever it stands and however it is cut, and nothing else is taken for one.
pub(crate) fn attach(bytes: &[u8]) {
    let (whole, pieces) = input::pieces(bytes);
    let mut scanner = RequestScanner::new();
    let found = scan(&pieces, |piece| scanner.push(piece));
    let wanted = first(whole, &REQUEST_MAGIC, |message: &[u8; REQUEST_LEN]| AttachRequest::parse(message));
    assert_eq!(found, wanted);
    if let Some((request, at)) = wanted {
        assert_eq!(request.to_bytes(), whole[at - REQUEST_LEN..at]);
        let reply = request.answer();
        assert_eq!(AttachReply::parse(&reply.to_bytes()), Some(reply));
        assert!(reply.chosen == 0 || (request.oldest..=request.newest).contains(&reply.chosen));
    }
    let nonce = Nonce([7; 16]);
    let start = [&REPLY_MAGIC[..], &nonce.0].concat();
    let mut scanner = ReplyScanner::new(nonce);
    let found = scan(&pieces, |piece| scanner.push(piece));
    assert_eq!(found, first(whole, &start, |message: &[u8; REPLY_LEN]| AttachReply::parse(message)));
    if let Some((reply, _)) = found {
        assert_eq!(reply.nonce, nonce);
        assert!(reply.generation().is_err() || (OLDEST_GENERATION..=GENERATION).contains(&reply.chosen));
    }
}

/// What a scanner finds, and how many bytes had gone by with it.
fn scan<'a, T>(pieces: &[&'a [u8]], mut push: impl FnMut(&'a [u8]) -> Option<(T, &'a [u8])>) -> Option<(T, usize)> {
    let mut gone = 0;
    for piece in pieces {
        gone += piece.len();
        if let Some((hit, rest)) = push(piece) {
            return Some((hit, gone - rest.len()));
        }
    }
    None
}

/// The same by looking at every place.
fn first<const LEN: usize, T>(whole: &[u8], start: &[u8], parse: impl Fn(&[u8; LEN]) -> Option<T>) -> Option<(T, usize)> {
    let mut at = 0;
    loop {
        let candidate = whole.get(at..at + LEN)?;
        if candidate.starts_with(start) {
            let message = parse(candidate.first_chunk()?).expect("what begins like a message is one");
            return Some((message, at + LEN));
        }
        at += 1;
    }
}

/// A message that was read and written is read the same.
pub(crate) fn messages(bytes: &[u8]) {
    let (which, payload) = input::choice(bytes);
    match which % 7 {
        0 => again::<HostMessage>(payload),
        1 => again::<AgentMessage>(payload),
        2 => again::<MonitorRequest>(payload),
        3 => again::<MonitorReply>(payload),
        4 => again::<StreamControl>(payload),
        5 => again::<ExecExit>(payload),
        _ => {
            again::<ExecRequest>(payload);
            if let Ok(request) = decode::<ExecRequest>(payload)
                && let Ok(sent) = request.to_payload()
            {
                assert!(!request.argv.is_empty() && request.argv.iter().all(|word| !word.contains('\0')));
                assert_eq!(decode::<ExecRequest>(&sent).ok(), Some(request));
            }
        }
    }
}

fn again<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug>(payload: &[u8]) {
    let Ok(message) = decode::<T>(payload) else { return };
    // A message that this build does not know is read, and never written.
    if let Ok(written) = encode(&message) {
        assert!(written.len() <= MAX_PAYLOAD);
        assert_eq!(decode::<T>(&written).ok(), Some(message));
    }
}

/// Whatever the other side sends or grants: a refusal changes nothing, nobody holds more than a window, credit is neither made nor lost.
pub(crate) fn windows(bytes: &[u8]) {
    let (mut send, mut receive) = (SendWindow::default(), ReceiveWindow::default());
    for step in bytes.chunks_exact(5) {
        let amount = u32::from_le_bytes([step[1], step[2], step[3], step[4]]);
        let (sent_before, received_before) = (send, receive);
        match step[0] % 4 {
            0 => {
                let taken = send.take(amount as usize);
                assert!(taken <= amount as usize && taken + send.available() == sent_before.available());
            }
            1 => match send.grant(amount) {
                Ok(()) => assert_eq!(send.available(), sent_before.available() + amount as usize),
                Err(_) => assert_eq!(send, sent_before, "a refused grant changed something"),
            },
            2 => match receive.received(amount as usize) {
                Ok(()) => assert_eq!(receive.held(), received_before.held() + amount as usize),
                Err(_) => assert_eq!(receive, received_before, "refused data changed something"),
            },
            _ => {
                let grant = receive.consumed(amount as usize);
                assert_eq!(receive.held(), received_before.held().saturating_sub(amount as usize));
                assert!(grant.is_none_or(|grant| (INITIAL_WINDOW / 2..=INITIAL_WINDOW).contains(&grant)));
            }
        }
        assert!(send.available() <= MAX_WINDOW as usize && receive.held() <= INITIAL_WINDOW as usize);
    }
}
