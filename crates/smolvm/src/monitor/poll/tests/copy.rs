//! Clients that copy.

use super::*;

#[test]
fn a_guest_that_does_not_come_to_rest_is_not_copied_and_runs_on() {
    serving(|serving, ends| {
        settling(serving);
        serving.motion = Motion::Settling { until: Instant::now() };
        serving.look_at_the_time();
        assert!(orders(serving).is_empty(), "it was halted");
        assert!(matches!(last(serving), Some(MonitorReply::Error { code: MonitorErrorCode::GuestNotReady, .. })));
        let told = frames(&mut serving.guest.out);
        assert!(matches!(decode(&told[0].payload), Ok(HostMessage::Clock { .. })), "it may send again: {told:?}");
        says(ends, &AgentMessage::Clock { time: crate::monitor::ready::now() });
        serving.hear_guest().unwrap();
        assert_eq!(serving.motion, Motion::Running);
        serving.freeze(1, false, None);
        assert!(
            matches!(last(serving), Some(MonitorReply::Error { code: MonitorErrorCode::Unsupported, .. })),
            "it is to be located again"
        );
    });
}

#[test]
fn a_client_that_leaves_lets_the_guest_go_on_from_wherever_it_is() {
    // Before it was halted, while it is being halted, and when it stands still.
    for halted in [None, Some(false), Some(true)] {
        serving(|serving, ends| {
            settling(serving);
            if let Some(stands) = halted {
                says(ends, &AgentMessage::Frozen { seq: 1 });
                serving.hear_guest().unwrap();
                assert_eq!(orders(serving), ["stop"]);
                if stands {
                    serving.motion = Motion::Paused;
                }
            }
            serving.drop_client(1);
            assert!(serving.copying.is_none() && matches!(serving.motion, Motion::Resuming { corrections: 0, .. }) && !serving.quiet);
            assert_eq!(orders(serving), if halted.is_some() { vec!["cont"] } else { Vec::new() }, "{halted:?}");
        });
    }
}

#[test]
fn one_client_copies_at_a_time_and_a_paused_guest_that_never_came_to_rest_is_not_copied() {
    serving(|serving, _| {
        serving.phase = Phase::Running;
        serving.motion = Motion::Paused;
        serving.locate(1);
        let (other, _end) = UnixStream::pair().unwrap();
        serving.clients.push(Client::new(2, other));
        serving.locate(2);
        let told = frames(&mut serving.clients[1].out).pop().map(|f| decode::<MonitorReply>(&f.payload).unwrap());
        assert!(matches!(told, Some(MonitorReply::Error { code: MonitorErrorCode::Busy, .. })), "{told:?}");
        orders(serving);
        serving.heard_of_vmm(News::Answered(1, Ok("is 0x1000".into())));
        serving.freeze(1, false, None);
        let refused = last(serving);
        assert!(matches!(&refused, Some(MonitorReply::Error { message, .. }) if message.contains("resume it first")), "{refused:?}");
        assert_eq!((serving.motion, orders(serving)), (Motion::Paused, Vec::new()), "it stays what it was");
    });
}

#[test]
fn a_guest_that_stands_still_is_not_located_anew() {
    serving(|serving, ends| {
        settling(serving);
        says(ends, &AgentMessage::Frozen { seq: 1 });
        serving.hear_guest().unwrap();
        serving.motion = Motion::Paused;
        serving.locate(1);
        assert!(matches!(last(serving), Some(MonitorReply::Error { code: MonitorErrorCode::Busy, .. })));
        assert!(serving.copy_deadline().is_some(), "its client has it for as long as it likes");
        orders(serving);
        serving.drop_client(1);
        assert_eq!(orders(serving), ["cont"], "it ran before, and is left halted");
    });
}

#[test]
fn a_hypervisor_that_answers_nonsense_or_refuses_is_an_error_to_who_copies() {
    for answer in [Ok(serde_json::Value::Null), Ok("nothing is mapped there".into()), Err("no\u{7}".repeat(500))] {
        serving(|serving, _| {
            serving.phase = Phase::Running;
            serving.locate(1);
            serving.heard_of_vmm(News::Answered(77, Ok("is 0x1000".into())));
            assert_eq!(last(serving), None, "an answer to another command");
            serving.heard_of_vmm(News::Answered(1, answer.clone()));
            let told = last(serving);
            assert!(
                matches!(&told, Some(MonitorReply::Error { code: MonitorErrorCode::Engine, message }) if message.len() < 300 && !message.contains('\u{7}')),
                "{told:?}"
            );
            assert!(serving.copying.is_none() && serving.motion == Motion::Running);
        });
    }
}

#[test]
fn a_client_has_all_the_time_it_wants_as_long_as_the_guest_runs() {
    serving(|serving, _| {
        serving.phase = Phase::Running;
        serving.locate(1);
        assert_eq!(serving.copy_deadline(), None);
        serving.heard_of_vmm(News::Answered(1, Ok("for 0x0 (ram) is 0x7f0000000000\r\n".into())));
        assert_eq!(serving.copy_deadline(), None, "it may be merging, or reading ahead");
        serving.freeze(1, false, None);
        assert!(serving.copy_deadline().is_some());
        serving.thaw(1);
        assert_eq!(serving.copy_deadline(), None);
    });
}
