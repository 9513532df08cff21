//! What a guest says, from its greeting on.

use super::*;

#[test]
fn a_guest_cannot_make_the_monitor_answer_for_ever() {
    serving(|serving, ends| {
        for _ in 0..20 {
            ends.agent.write_all(&said(r#"{"type":"hello","agent_version":"x","generation":1}"#)).unwrap();
        }
        serving.hear_guest().unwrap();
        assert_eq!(frames(&mut serving.guest.out).len(), 1, "one boot message for any number of greetings");
        serving.phase = Phase::Running;
        ends.agent.write_all(&said(r#"{"type":"failed","step":"x","message":"y"}"#)).unwrap();
        serving.hear_guest().unwrap();
        // Nor put off its own end: each `halted` would move it otherwise.
        ends.agent.write_all(&said(r#"{"type":"halted"}"#)).unwrap();
        serving.hear_guest().unwrap();
        let first = serving.kill_at.unwrap();
        ends.agent.write_all(&said(r#"{"type":"halted"}"#)).unwrap();
        serving.hear_guest().unwrap();
        serving.begin_stop(Duration::from_mins(1));
        assert_eq!(serving.kill_at, Some(first));
    });
}

#[test]
fn a_guest_that_is_not_what_it_was_told_to_be_never_runs() {
    type Breach = fn(&mut smolvm_proto::Ready);
    let breaches: [(&str, Breach); 5] = [
        ("identity", |ready| ready.hostname = "template".to_owned()),
        ("identity", |ready| ready.machine_id = "0123456789abcdef0123456789abcdef".to_owned()),
        ("address", |ready| ready.address = Some("10.0.0.2".to_owned())),
        ("random numbers", |ready| ready.entropy_bytes = 0),
        ("random numbers", |ready| ready.entropy_bytes = 63),
    ];
    for (what, breach) in breaches {
        serving(|serving, ends| {
            let mut lie = ready();
            breach(&mut lie);
            says(ends, &AgentMessage::Ready(lie));
            let e = serving.hear_guest().unwrap_err();
            assert!(e.code == ErrorCode::GuestError && e.message.contains(what), "{what}: {e:?}");
            assert_ne!(serving.phase, Phase::Running);
        });
    }
}

#[test]
fn a_guest_whose_clock_is_off_is_given_the_time_until_it_takes_it_or_for_nothing() {
    serving(|serving, ends| {
        let long_ago = smolvm_proto::UnixTime { secs: 1_000_000, nanos: 0 };
        says(ends, &AgentMessage::Ready(smolvm_proto::Ready { time: long_ago, ..ready() }));
        serving.hear_guest().unwrap();
        for round in 1..=crate::monitor::ready::CLOCK_TRIES {
            let told = frames(&mut serving.guest.out);
            assert!(matches!(decode(&told[0].payload), Ok(HostMessage::Clock { .. })), "round {round}: {told:?}");
            assert_ne!(serving.phase, Phase::Running);
            says(ends, &AgentMessage::Clock { time: long_ago });
            let heard = serving.hear_guest();
            assert_eq!(heard.is_err(), round == crate::monitor::ready::CLOCK_TRIES, "round {round}: {heard:?}");
        }
    });
}

#[test]
fn a_guest_that_garbles_its_link_loses_it() {
    serving(|serving, ends| {
        serving.phase = Phase::Running;
        ends.client.write_all(&bytes(&Frame::on_stream(FrameKind::Open, 9, b"{}".to_vec()))).unwrap();
        serving.hear_client(1);
        assert!(serving.relay.has_streams(1));
        for _ in 0..50 {
            ends.agent.write_all(&[0xee; 1000]).unwrap();
            serving.hear_guest().unwrap();
            serving.notice_lost_link();
        }
        assert!(serving.guest.is_closed() && serving.guest.out.is_empty() && !serving.relay.has_streams(1));
        assert_eq!(frames(&mut serving.clients[0].out), [Frame::reset(9)]);
        assert_eq!(serving.hypervisor_log.last_lines(9).matches("smolvm:").count(), 1);
        // Nothing new is begun, and a stop does not wait for a guest that is not there.
        ends.client.write_all(&bytes(&Frame::on_stream(FrameKind::Open, 10, b"{}".to_vec()))).unwrap();
        serving.hear_client(1);
        let answer = frames(&mut serving.clients[0].out);
        let reply = decode::<MonitorReply>(&answer[0].payload).unwrap();
        assert!(matches!(reply, MonitorReply::Error { code: MonitorErrorCode::GuestNotReady, .. }), "{reply:?}");
        assert_eq!((answer[1].kind, answer[1].stream), (FrameKind::Exit, 10));
        serving.begin_stop(Duration::from_mins(1));
        assert!(!serving.vmm.out.is_empty() && serving.kill_at.unwrap() <= Instant::now() + AFTER_HALT);
    });
}

#[test]
fn nobody_waits_for_a_guest_whose_link_was_given_up_or_that_left() {
    for leaves in [false, true] {
        serving(|serving, ends| {
            serving.phase = Phase::Running;
            ends.client.write_all(&bytes(&Frame::on_stream(FrameKind::Open, 9, b"{}".to_vec()))).unwrap();
            serving.hear_client(1);
            serving.notice_lost_link();
            assert!(serving.relay.has_streams(1) && frames(&mut serving.clients[0].out).is_empty());
            if leaves {
                ends.agent.shutdown(std::net::Shutdown::Write).unwrap();
                // Its answer to the greeting, and the end.
                serving.hear_guest().unwrap();
                serving.hear_guest().unwrap();
            } else {
                serving.guest.out.buffer().resize(16 << 20, 0);
                serving.guest.tell(&HostMessage::Ping { seq: 1 });
            }
            serving.notice_lost_link();
            assert!(serving.guest.is_closed() && !serving.relay.has_streams(1), "leaves: {leaves}");
            assert_eq!(frames(&mut serving.clients[0].out), [Frame::reset(9)]);
            assert_eq!(serving.hypervisor_log.last_lines(9).contains("takes nothing"), !leaves);
            serving.notice_lost_link();
            assert!(frames(&mut serving.clients[0].out).is_empty(), "once");
        });
    }
}
