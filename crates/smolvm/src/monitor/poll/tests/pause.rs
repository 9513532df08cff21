//! A guest that stands still, and goes on.

use super::*;

#[test]
fn a_paused_guest_wakes_when_its_clock_is_right_or_when_it_can_no_longer_be_told() {
    let last = |serving: &mut Loop<'_>| frames(&mut serving.clients[0].out).pop().map(|f| decode::<MonitorReply>(&f.payload).unwrap());
    for closed in [false, true] {
        serving(|serving, ends| {
            serving.phase = Phase::Running;
            serving.pause(1);
            assert!(serving.vmm.out.is_empty(), "the guest is to come to rest first");
            serving.guest.queue(&Frame::reset(4));
            let told = frames(&mut serving.guest.out);
            assert!(told.len() == 1 && matches!(decode(&told[0].payload), Ok(HostMessage::Freeze { sync: false, seq: 1 })), "{told:?}");
            says(ends, &AgentMessage::Frozen { seq: 0 });
            serving.hear_guest().unwrap();
            assert!(serving.vmm.out.is_empty(), "the late answer to another request");
            says(ends, &AgentMessage::Frozen { seq: 1 });
            serving.hear_guest().unwrap();
            assert!(!serving.vmm.out.is_empty() && serving.quiet);
            assert_eq!(last(serving), None, "nobody is told before the hypervisor says so");
            serving.heard_of_vmm(News::Stopped);
            assert_eq!(last(serving), Some(MonitorReply::Paused));
            if closed {
                ends.agent.write_all(&[0xee; 1000]).unwrap();
                serving.hear_guest().unwrap();
            }
            serving.resume(1);
            serving.heard_of_vmm(News::Resumed);
            if !closed {
                let told = frames(&mut serving.guest.out);
                assert!(matches!(decode(&told[0].payload), Ok(HostMessage::Clock { .. })), "{told:?}");
                assert_eq!(told.get(1).map(|frame| frame.stream), Some(4), "what waited comes behind the time");
                assert_eq!(last(serving), None, "it runs, and its clock is still to be set");
                says(ends, &AgentMessage::Clock { time: smolvm_proto::UnixTime { secs: 5, nanos: 0 } });
                serving.hear_guest().unwrap();
                assert_eq!(last(serving), None);
                says(ends, &AgentMessage::Clock { time: crate::monitor::ready::now() });
                serving.hear_guest().unwrap();
            }
            assert_eq!((last(serving), serving.motion), (Some(MonitorReply::Resumed), Motion::Running));
        });
    }
}

#[test]
fn a_guest_that_goes_on_and_says_nothing_is_not_waited_for_for_ever() {
    serving(|serving, ends| {
        serving.phase = Phase::Running;
        serving.motion = Motion::Paused;
        serving.resume(1);
        serving.heard_of_vmm(News::Resumed);
        // What comes meanwhile is not refused: it waits behind the time.
        ends.client.write_all(&bytes(&Frame::on_stream(FrameKind::Open, 9, b"{}".to_vec()))).unwrap();
        serving.hear_client(1);
        assert!(serving.relay.has_streams(1) && last(serving).is_none());
        serving.motion = Motion::Resuming { corrections: 0, until: Instant::now() };
        serving.look_at_the_time();
        assert_eq!(serving.motion, Motion::Running);
        assert!(matches!(last(serving), Some(MonitorReply::Error { code: MonitorErrorCode::Timeout, .. })));
    });
}

#[test]
fn a_guest_that_is_to_be_halted_while_it_goes_on_is_halted_then() {
    serving(|serving, ends| {
        serving.phase = Phase::Running;
        serving.motion = Motion::Paused;
        serving.resume(1);
        let (other, _end) = UnixStream::pair().unwrap();
        serving.clients.push(Client::new(2, other));
        serving.pause(2);
        let of_other =
            |serving: &mut Loop<'_>| frames(&mut serving.clients[1].out).pop().map(|f| decode::<MonitorReply>(&f.payload).unwrap());
        serving.heard_of_vmm(News::Resumed);
        says(ends, &AgentMessage::Clock { time: crate::monitor::ready::now() });
        serving.hear_guest().unwrap();
        assert_eq!((last(serving), of_other(serving)), (Some(MonitorReply::Resumed), None));
        assert_eq!(orders(serving), ["cont", "remove-fd"]);
        says(ends, &AgentMessage::Frozen { seq: 1 });
        serving.hear_guest().unwrap();
        assert_eq!(orders(serving), ["stop"]);
        serving.heard_of_vmm(News::Stopped);
        assert_eq!((last(serving), of_other(serving)), (None, Some(MonitorReply::Paused)));
        // And who has it go on after all has the last word.
        serving.resume(1);
        serving.pause(2);
        serving.resume(1);
        serving.heard_of_vmm(News::Resumed);
        says(ends, &AgentMessage::Clock { time: crate::monitor::ready::now() });
        serving.hear_guest().unwrap();
        assert_eq!((last(serving), of_other(serving)), (Some(MonitorReply::Resumed), Some(MonitorReply::Resumed)));
        assert_eq!((serving.motion, serving.pausers.len()), (Motion::Running, 0));
    });
}
