use proptest::prelude::*;

use super::*;

fn frame() -> impl Strategy<Value = Frame> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..300);
    (0_u8..8, 0_u8..3, 1..u32::MAX, bytes).prop_map(|(kind, flags, stream, payload)| match kind {
        0 => Frame::control(payload),
        1 => Frame::on_stream(FrameKind::Open, stream, payload),
        2 => Frame::data(stream, Channel::from_flags(flags).unwrap(), payload),
        3 => Frame::eof(stream, Channel::from_flags(flags).unwrap()),
        4 => Frame::credit(stream, Channel::from_flags(flags).unwrap(), stream),
        5 => Frame::on_stream(FrameKind::StreamControl, stream, payload),
        6 => Frame::on_stream(FrameKind::Exit, stream, payload),
        _ => Frame::reset(stream),
    })
}

proptest! {
    #[test]
    fn any_split_gives_the_same_frames(frames in proptest::collection::vec(frame(), 1..20), cuts in proptest::collection::vec(1_usize..400, 1..40)) {
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.encode_into(&mut bytes);
        }
        let (mut decoder, mut got, mut rest) = (Decoder::new(), Vec::new(), bytes.as_slice());
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (head, tail) = rest.split_at((*cut).min(rest.len()));
            if cut % 2 == 0 {
                decoder.push(head);
            } else {
                decoder.space()[..head.len()].copy_from_slice(head);
                decoder.filled(head.len());
            }
            rest = tail;
            while let Some(frame) = decoder.next_frame().unwrap() {
                got.push(frame);
            }
        }
        prop_assert_eq!(got, frames);
        prop_assert_eq!(decoder.buffered(), 0);
    }

    #[test]
    fn hostile_bytes_neither_panic_nor_grow(chunks in proptest::collection::vec(proptest::collection::vec(0_u8..12, 0..500), 1..50)) {
        let mut decoder = Decoder::new();
        for chunk in chunks {
            decoder.push(&chunk);
            loop {
                match decoder.next_ref() {
                    Ok(Some(frame)) => prop_assert!(frame.payload.len() <= MAX_PAYLOAD),
                    Ok(None) => break,
                    Err(_) => { decoder.take_rest(); break; }
                }
            }
            prop_assert!(decoder.buffered() <= HEADER_LEN + MAX_PAYLOAD);
            prop_assert!(!decoder.space().is_empty());
        }
    }
}

#[test]
fn largest_frames_fit_one_after_the_other() {
    let mut bytes = Vec::new();
    for stream in 1..=5 {
        Frame::data(stream, Channel::Stdout, vec![7; MAX_PAYLOAD]).encode_into(&mut bytes);
    }
    let (mut decoder, mut rest, mut seen) = (Decoder::new(), bytes.as_slice(), 0);
    while !rest.is_empty() {
        let room = decoder.space();
        let count = room.len().min(rest.len()).min(50_000);
        room[..count].copy_from_slice(&rest[..count]);
        decoder.filled(count);
        rest = &rest[count..];
        while let Some(frame) = decoder.next_ref().unwrap() {
            seen += 1;
            assert_eq!((frame.stream, frame.payload.len()), (seen, MAX_PAYLOAD));
        }
    }
    assert_eq!(seen, 5);
}

#[test]
fn each_rule_of_the_header_is_kept() {
    let good = Frame::data(1, Channel::Stdin, vec![]).as_ref().header().to_bytes();
    let check = |at: usize, value: u8| {
        let mut bytes = good;
        bytes[at] = value;
        Header::parse(bytes)
    };
    assert_eq!(check(0, 0), Err(FrameError::UnknownKind { found: 0 }));
    assert_eq!(check(0, 9), Err(FrameError::UnknownKind { found: 9 }));
    assert_eq!(check(2, 1), Err(FrameError::ReservedSet));
    assert_eq!(check(3, 1), Err(FrameError::ReservedSet));
    assert_eq!(check(1, 3), Err(FrameError::BadFlags { kind: FrameKind::Data, flags: 3 }));
    assert_eq!(check(4, 0), Err(FrameError::WrongStream { kind: FrameKind::Data, stream: 0 }));
    assert_eq!(check(0, 1), Err(FrameError::WrongStream { kind: FrameKind::Control, stream: 1 }));
    assert_eq!(check(11, 1), Err(FrameError::TooLong { len: 1 << 24 }));
    assert_eq!(check(0, 5), Err(FrameError::BadLength { kind: FrameKind::Credit, len: 0 }));
    assert_eq!(check(10, 2), Err(FrameError::TooLong { len: 2 << 16 }));
    assert!(check(10, 1).is_ok(), "64 KiB exactly is the cap");
}

#[test]
fn a_failure_stays_until_the_rest_is_taken() {
    let mut decoder = Decoder::new();
    decoder.push(b"this is not a frame");
    assert!(decoder.next_ref().is_err());
    assert!(decoder.next_ref().is_err());
    assert_eq!(decoder.take_rest(), b"this is not a frame");
    assert_eq!(decoder.next_ref(), Ok(None));
}
