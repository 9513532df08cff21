//! What the library reads: plans in files, a monitor's configuration, and the words of guests, clients and monitors.

use serde_json::{Value, json};
use smolvm::cleanup::{PLAN_VERSION, WrittenPlan};
use smolvm::fuzzing::{exec, monitor as lines};
use smolvm::monitor::{MonitorConfig, Report};
use smolvm_model::select::Scope;
use smolvm_proto::{AttachRequest, Channel, Decoder, ExecExit, Frame, FrameKind, Nonce, decode};

use crate::input;

/// A plan is what its few words say, wherever they stand, and nothing else of the file counts.
pub(crate) fn cleanup_plan(bytes: &[u8]) {
    let Ok(plan) = WrittenPlan::parse(input::text(bytes)) else { return };
    let (all, prefix) = match &plan.scope {
        Scope::All => (true, None),
        Scope::Prefix(prefix) => (false, Some(prefix.as_str())),
    };
    let data = json!({
        "all": all, "prefix": prefix, "dry_run": true, "targets": plan.targets,
        "plan": {"version": PLAN_VERSION, "installation": plan.installation, "fingerprint": plan.fingerprint},
    });
    assert_eq!(WrittenPlan::parse(&data.to_string()).as_ref(), Ok(&plan));
    assert_eq!(WrittenPlan::parse(&json!({"command": "cleanup", "data": data}).to_string()), Ok(plan));
}

/// What a monitor is told, and what it tells: read, written and read the same.
pub(crate) fn monitor_config(bytes: &[u8]) {
    let same = |first: Option<Value>, again: Option<Value>| assert_eq!(first, again);
    if let Ok(config) = serde_json::from_slice::<MonitorConfig>(bytes)
        && let Ok(value) = serde_json::to_value(&config)
    {
        let again = serde_json::from_value::<MonitorConfig>(value.clone()).ok();
        same(Some(value), again.and_then(|config| serde_json::to_value(config).ok()));
    }
    if let Ok(report) = serde_json::from_slice::<Report>(bytes)
        && let Ok(value) = serde_json::to_value(&report)
    {
        let again = serde_json::from_value::<Report>(value.clone()).ok();
        same(Some(value), again.and_then(|report| serde_json::to_value(report).ok()));
    }
}

/// A guest and a client are understood, or no longer listened to, whatever the cuts; what they said before a mistake was said.
pub(crate) fn monitor_link(bytes: &[u8]) {
    let (whole, pieces) = input::pieces(bytes);
    let nonce = Nonce([7; 16]);
    let request = AttachRequest::new(nonce);
    let (hello, answer) = (request.to_bytes(), request.answer().to_bytes());
    let (wanted, sound) = understood(whole);
    for (heard, listening) in [
        lines::guest(nonce, &[&answer[..], whole]),
        lines::guest(nonce, &[&[&answer[..]][..], &pieces].concat()),
        lines::client(&[&hello[..], whole]),
        lines::client(&[&[&hello[..]][..], &pieces].concat()),
    ]
    .into_iter()
    .map(|heard| heard.expect("a pair of sockets"))
    {
        assert_eq!(listening, sound);
        // Frames that came in one read with the mistake go with it.
        assert!(if sound { heard == wanted } else { wanted.starts_with(&heard) });
    }
    // Before the handshake there are no frames, whatever comes.
    let (heard, listening) = lines::client(&pieces).expect("a pair of sockets");
    assert!(heard.is_empty() || !listening || whole.windows(16).any(|part| part == &hello[..16]));
}

fn understood(bytes: &[u8]) -> (Vec<Frame>, bool) {
    let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
    decoder.push(bytes);
    loop {
        match decoder.next_frame() {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, true),
            Err(_) => return (frames, false),
        }
    }
}

/// The caller gets the bytes of its own channels, in order, and the end that the guest told.
pub(crate) fn exec_stream(words: &[u8]) {
    let (stdout, stderr, ended) = exec::hear(words).expect("a pair of sockets");
    let (frames, _) = understood(words);
    let said = |channel: Channel| -> Vec<u8> {
        let of = |frame: &&Frame| frame.kind == FrameKind::Data && frame.as_ref().channel() == Some(channel);
        frames.iter().filter(of).flat_map(|frame| frame.payload.clone()).collect()
    };
    assert!(said(Channel::Stdout).starts_with(&stdout) && said(Channel::Stderr).starts_with(&stderr));
    if let Ok(outcome) = ended {
        let exit = frames.iter().filter(|frame| frame.kind == FrameKind::Exit).find_map(|frame| decode::<ExecExit>(&frame.payload).ok());
        let exit = exit.expect("an end that nobody told");
        assert_eq!((outcome.code, outcome.signal, outcome.timed_out), (exit.code, exit.signal, exit.timed_out));
        let _ = smolvm::exec::shell_status(&outcome);
    }
}
