//! Who is connected, and what waits for them.

use super::*;

#[test]
fn a_full_guest_holds_back_only_who_feeds_it() {
    serving(|serving, ends| {
        serving.phase = Phase::Running;
        let chunk = vec![0; 60_000];
        while !serving.guest.is_full() {
            serving.guest.queue(&Frame::data(1, Channel::Stdin, chunk.clone()));
        }
        let open = bytes(&Frame::on_stream(FrameKind::Open, 9, b"{}".to_vec()));
        ends.client.write_all(&open).unwrap();
        assert!(serving.wait().unwrap().contains(&Source::Client(1)), "who has no streams is heard");
        serving.hear_client(1);
        assert!(!serving.relay.has_streams(1), "and opens none");
        assert!(frames(&mut serving.clients[0].out).iter().any(|f| f.kind == FrameKind::Exit));
        serving.relay.open(1, 9).unwrap();
        ends.client.write_all(&open).unwrap();
        serving.kill_at = Some(Instant::now());
        assert!(!serving.wait().unwrap().contains(&Source::Client(1)));
    });
}

#[test]
fn the_end_of_a_command_is_told_to_a_client_that_reads_slowly() {
    serving(|serving, ends| {
        serving.phase = Phase::Running;
        let stream = serving.relay.open(1, 9).unwrap();
        // Within its window, and every byte in a frame of its own.
        let frame = Frame::data(stream, Channel::Stdout, vec![0; 1]);
        (0..smolvm_proto::INITIAL_WINDOW).for_each(|_| serving.deliver(frame.clone()));
        let another = serving.relay.open(1, 10).unwrap();
        serving.deliver(Frame::on_stream(FrameKind::Exit, stream, b"{}".to_vec()));
        serving.deliver(Frame::on_stream(FrameKind::Exit, another, b"{}".to_vec()));
        serving.reply(1, &MonitorReply::Resumed);
        assert_eq!((serving.clients.len(), serving.relay.has_streams(1)), (1, false), "it was dropped");
        let told = frames(&mut serving.clients[0].out);
        assert_eq!(told.len(), usize::try_from(smolvm_proto::INITIAL_WINDOW).unwrap() + 3);
        assert!(serving.clients[0].flush());
        // What it leaves unread from then on counts as before.
        let large = encode_large();
        while !serving.clients.is_empty() && serving.clients[0].out.len() < 4 << 20 {
            serving.answer(1, &large);
        }
        assert!(serving.clients.is_empty());
        drop(ends.client.shutdown(std::net::Shutdown::Both));
    });
}

fn encode_large() -> Frame {
    Frame::control(vec![b' '; 60_000])
}
