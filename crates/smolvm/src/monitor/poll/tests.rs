use std::io::Write;
use std::path::Path;

use smolvm_proto::{AttachReply, AttachRequest, Channel, Decoder, MonitorErrorCode, MonitorReply, RequestScanner};

use super::*;
use crate::installation::Settings;
use crate::monitor::MonitorMemory;
use crate::monitor::vmm::News;
use crate::paths::Paths;

/// The far ends of a loop's sockets: what guest, hypervisor and client would hold.
struct Ends {
    agent: UnixStream,
    client: UnixStream,
    rest: (UnixStream, UnixStream, OwnedFd),
}

fn config(home: &Path) -> MonitorConfig {
    MonitorConfig {
        init: None,
        settings: Settings::new(Paths::beneath(home)),
        id: "one".to_owned(),
        generation: 1,
        token: "token".to_owned(),
        cpus: 1,
        memory_mib: 128,
        memory: MonitorMemory::Boot,
        accelerator: "tcg".to_owned(),
        kernel: PathBuf::new(),
        initramfs: PathBuf::new(),
        image: PathBuf::new(),
        disk_bytes: 64 << 20,
        machine_id: String::new(),
        uid: None,
        network: None,
        steps: crate::start::Steps::begin(),
    }
}

/// A loop with an attached agent and one attached client, whose number is 1.
fn serving(test: impl FnOnce(&mut Loop<'_>, &mut Ends)) {
    let home = tempfile::tempdir().unwrap();
    let config = config(home.path());
    let vm = Smolvm::open(config.settings.clone()).unwrap();
    let id: SandboxId = "one".parse().unwrap();
    let pair = || UnixStream::pair().unwrap();
    let ((qmp, qmp_end), (console, console_end), (agent, mut agent_end)) = (pair(), pair(), pair());
    let (report, report_end) = rustix::pipe::pipe().unwrap();
    let (stderr, _) = rustix::pipe::pipe().unwrap();
    let own = rustix::process::getpid();
    let parts = Parts {
        steps: crate::start::Steps::begin(),
        pid: std::process::id(),
        pidfd: rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty()).unwrap(),
        qmp,
        qmp_stream: QmpStream::default(),
        agent,
        console: console.into(),
        stderr,
        enforced: serde_json::Value::Null,
        listener: UnixListener::bind(home.path().join("s")).unwrap(),
        network: None,
        layers: vec![0],
        console_log: home.path().join("console.log"),
        hypervisor_log: home.path().join("hypervisor.log"),
    };
    let mut reporter = Reporter::new(report_end);
    let mut serving = Loop::new(&config, &vm, &id, parts, &mut reporter).unwrap();
    let (request, _) = RequestScanner::new().push(serving.guest.out.buffer()).unwrap();
    serving.guest.out = super::super::outgoing::Outgoing::default();
    agent_end.write_all(&AttachReply::to_bytes(request.answer())).unwrap();
    let (client, mut client_end) = pair();
    serving.clients.push(Client::new(1, client));
    client_end.write_all(&AttachRequest::new(Nonce([1; 16])).to_bytes()).unwrap();
    serving.hear_client(1);
    serving.clients[0].out = super::super::outgoing::Outgoing::default();
    test(&mut serving, &mut Ends { agent: agent_end, client: client_end, rest: (qmp_end, console_end, report) });
}

fn bytes(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode_into(&mut bytes);
    bytes
}

fn said(json: &str) -> Vec<u8> {
    bytes(&Frame::control(json.as_bytes().to_vec()))
}

fn frames(queue: &mut super::super::outgoing::Outgoing) -> Vec<Frame> {
    let mut decoder = Decoder::new();
    decoder.push(queue.buffer());
    queue.buffer().clear();
    std::iter::from_fn(|| decoder.next_frame().unwrap()).collect()
}

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

/// What a guest says that is all that it was told to be; its name is the loop's, and it has no network.
fn ready() -> smolvm_proto::Ready {
    smolvm_proto::Ready {
        hostname: "one".to_owned(),
        machine_id: String::new(),
        address: None,
        time: super::super::ready::now(),
        entropy_bytes: 64,
        uptime_ms: 1,
        steps: Vec::new(),
    }
}

fn says(ends: &mut Ends, message: &AgentMessage) {
    ends.agent.write_all(&bytes(&Frame::control(smolvm_proto::encode(message).unwrap()))).unwrap();
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
        for round in 1..=super::super::ready::CLOCK_TRIES {
            let told = frames(&mut serving.guest.out);
            assert!(matches!(decode(&told[0].payload), Ok(HostMessage::Clock { .. })), "round {round}: {told:?}");
            assert_ne!(serving.phase, Phase::Running);
            says(ends, &AgentMessage::Clock { time: long_ago });
            let heard = serving.hear_guest();
            assert_eq!(heard.is_err(), round == super::super::ready::CLOCK_TRIES, "round {round}: {heard:?}");
        }
    });
}

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
                says(ends, &AgentMessage::Clock { time: super::super::ready::now() });
                serving.hear_guest().unwrap();
            }
            assert_eq!((last(serving), serving.motion), (Some(MonitorReply::Resumed), Motion::Running));
        });
    }
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

/// What the client was told last.
fn last(serving: &mut Loop<'_>) -> Option<MonitorReply> {
    frames(&mut serving.clients[0].out).pop().map(|f| decode::<MonitorReply>(&f.payload).unwrap())
}

/// What the hypervisor was told, by name.
fn orders(serving: &mut Loop<'_>) -> Vec<String> {
    let text = String::from_utf8(std::mem::take(serving.vmm.out.buffer())).unwrap();
    text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["execute"].as_str().unwrap().to_owned()).collect()
}

/// A guest that a client has located, and is coming to rest.
fn settling(serving: &mut Loop<'_>) {
    serving.phase = Phase::Running;
    serving.locate(1);
    assert_eq!(orders(serving), ["human-monitor-command"]);
    serving.heard_of_vmm(News::Answered(1, Ok("for 0x0 (ram) is 0x7f0000000000\r\n".into())));
    assert_eq!(last(serving), Some(MonitorReply::Located { pid: std::process::id(), address: 0x7f00_0000_0000, layers: vec![0] }));
    serving.freeze(1, true, None);
    let told = frames(&mut serving.guest.out);
    assert!(matches!(decode(&told[0].payload), Ok(HostMessage::Freeze { sync: true, seq: 1 })), "{told:?}");
}

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
        says(ends, &AgentMessage::Clock { time: super::super::ready::now() });
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

/// A guest that stands still, for a client that wants a layer put over its disk; the hypervisor has answered all about it but
/// the word to put it on, which is the command of the number that is given back.
fn about_to_be_layered(serving: &mut Loop<'_>) -> u64 {
    let lowest = serving.vm.paths().disk(serving.id);
    std::fs::create_dir_all(lowest.parent().unwrap()).unwrap();
    std::fs::File::create(&lowest).unwrap();
    smolvm_host::disk::add_layer(&lowest, 3, 64 << 20).unwrap();
    serving.phase = Phase::Running;
    serving.locate(1);
    serving.heard_of_vmm(News::Answered(1, Ok("for 0x0 (ram) is 0x7f0000000000\r\n".into())));
    serving.freeze(1, false, Some(3));
    // Three descriptors, the layer's file, the layer.
    for command in 2..=6 {
        serving.heard_of_vmm(News::Answered(command, Ok(serde_json::Value::Null)));
    }
    serving.motion = Motion::Paused;
    serving.quiet = true;
    serving.halted_for_a_copy();
    frames(&mut serving.clients[0].out);
    serving.vmm.out.buffer().clear();
    // A descriptor, the devices, the descriptor again.
    serving.heard_of_vmm(News::Answered(8, Ok(serde_json::Value::Null)));
    assert_eq!(orders(serving), ["blockdev-snapshot"]);
    assert_eq!(serving.disk.numbers(), [0]);
    10
}

#[test]
fn a_layer_that_is_put_on_is_known_to_be_even_if_nobody_waits_any_longer() {
    for leaves in [false, true] {
        serving(|serving, _| {
            let command = about_to_be_layered(serving);
            if leaves {
                serving.drop_client(1);
                assert_eq!(orders(serving), ["cont"], "the layer must not be closed");
            }
            serving.heard_of_vmm(News::Answered(command, Ok(serde_json::Value::Null)));
            assert_eq!(serving.disk.numbers(), [0, 3]);
            if !leaves {
                assert_eq!(last(serving), Some(MonitorReply::Frozen { layered: true }));
                serving.thaw(1);
                assert_eq!(orders(serving), ["cont"]);
            }
            // What it was handed for writing is taken back once its guest runs, and not before.
            serving.heard_of_vmm(News::Resumed);
            assert_eq!(orders(serving), ["remove-fd"]);
        });
    }
}

#[test]
fn a_hypervisor_that_will_not_have_a_layer_goes_on_without_and_the_client_is_told() {
    serving(|serving, _| {
        let command = about_to_be_layered(serving);
        serving.heard_of_vmm(News::Answered(command, Err("no".to_owned())));
        assert_eq!((last(serving), serving.disk.numbers()), (Some(MonitorReply::Frozen { layered: false }), vec![0]));
        assert_eq!(orders(serving), ["blockdev-del", "blockdev-del", "remove-fd"]);
    });
    // One that is no layer is not even shown to it.
    serving(|serving, _| {
        let lowest = serving.vm.paths().disk(serving.id);
        std::fs::create_dir_all(lowest.parent().unwrap()).unwrap();
        std::fs::File::create(&lowest).unwrap();
        std::fs::write(lowest.with_file_name("data.img.3"), "QFI").unwrap();
        serving.phase = Phase::Running;
        serving.locate(1);
        serving.heard_of_vmm(News::Answered(1, Ok("for 0x0 (ram) is 0x7f0000000000\r\n".into())));
        orders(serving);
        serving.freeze(1, false, Some(3));
        assert!(orders(serving).is_empty());
    });
}

#[test]
fn only_layers_between_the_lowest_and_the_highest_can_have_been_merged() {
    serving(|serving, _| {
        serving.disk = super::super::disk::Disk::of(&[0, 2, 5, 9]);
        serving.phase = Phase::Running;
        serving.locate(1);
        serving.heard_of_vmm(News::Answered(1, Ok("for 0x0 (ram) is 0x7f0000000000\r\n".into())));
        for odd in [&[][..], &[2], &[5], &[0, 2, 5], &[2, 5, 9], &[5, 2]] {
            serving.merged(1, odd);
            assert!(matches!(last(serving), Some(MonitorReply::Error { code: MonitorErrorCode::Unsupported, .. })), "{odd:?}");
        }
        let lowest = serving.vm.paths().disk(serving.id);
        std::fs::create_dir_all(lowest.parent().unwrap()).unwrap();
        smolvm_host::disk::add_layer(&lowest, 5, 64 << 20).unwrap();
        // Nobody else than who is to copy it has merged anything.
        serving.merged(2, &[2, 5]);
        assert_eq!(serving.disk.numbers(), [0, 2, 5, 9]);
        serving.merged(1, &[2, 5]);
        for command in 2..=4 {
            serving.heard_of_vmm(News::Answered(command, Ok(serde_json::Value::Null)));
        }
        assert_eq!(serving.disk.numbers(), [0, 2, 5, 9], "it has not answered to the last");
        serving.heard_of_vmm(News::Answered(5, Ok(serde_json::Value::Null)));
        assert_eq!((last(serving), serving.disk.numbers()), (Some(MonitorReply::Merged), vec![0, 5, 9]));
        assert_eq!(orders(serving).iter().filter(|order| *order == "blockdev-del").count(), 4);
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
        says(ends, &AgentMessage::Clock { time: super::super::ready::now() });
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
        says(ends, &AgentMessage::Clock { time: super::super::ready::now() });
        serving.hear_guest().unwrap();
        assert_eq!((last(serving), of_other(serving)), (Some(MonitorReply::Resumed), Some(MonitorReply::Resumed)));
        assert_eq!((serving.motion, serving.pausers.len()), (Motion::Running, 0));
    });
}

#[test]
fn a_hypervisor_cannot_make_the_monitor_answer_for_ever() {
    serving(|serving, _| {
        serving.phase = Phase::Running;
        for _ in 0..1000 {
            serving.heard_of_vmm(News::Resumed);
        }
        assert!(serving.guest.out.is_empty(), "it runs, and is told so a thousand times");
        // Each of these is news, but the guest takes none of it.
        for _ in 0..200_000 {
            serving.heard_of_vmm(News::Stopped);
            serving.heard_of_vmm(News::Resumed);
        }
        assert!(serving.guest.is_closed() && serving.guest.out.is_empty());
    });
    serving(|serving, ends| {
        let mut qmp = &ends.rest.0;
        for _ in 0..2000 {
            qmp.write_all(b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n").unwrap();
            serving.hear_vmm();
        }
        assert_eq!(orders(serving), ["qmp_capabilities"]);
        for _ in 0..20_000 {
            serving.vmm.say("stop");
        }
        assert!(serving.vmm.out.len() < 1 << 20);
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
