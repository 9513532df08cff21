//! Frozen samples of everything on the wire.
//!
//! An old agent lives on inside every old template and snapshot, so a sample that was shipped must
//! be readable for ever: add new ones beside the old, change none. To see what a failing sample
//! would have to be, read the assertion's left side.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;
use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use smolvm_proto::*;

/// Each value serializes to its sample, and the sample, also with a field from the future, reads back as the value.
fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(golden: &str, values: Vec<(&str, T)>) {
    let mut samples: BTreeMap<String, Value> = serde_json::from_str(golden).unwrap();
    for (name, value) in values {
        let payload = encode(&value).unwrap();
        let written: Value = serde_json::from_slice(&payload).unwrap();
        let sample = samples.remove(name).unwrap_or_else(|| panic!("no sample {name:?}: {written}"));
        assert_eq!(written, sample, "{name}");
        assert_eq!(decode::<T>(&payload).unwrap(), value, "{name}");
        let mut newer = sample;
        newer["a_field_from_the_future"] = json!({"deep": [1, 2]});
        assert_eq!(decode::<T>(newer.to_string().as_bytes()).unwrap(), value, "{name} with an unknown field");
    }
    assert!(samples.is_empty(), "samples without a value: {:?}", samples.keys());
}

fn boot(network: Option<NetworkConfig>) -> BootConfig {
    BootConfig {
        hostname: "vm-calm-otter".to_owned(),
        machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
        time: UnixTime { secs: 1_795_000_000, nanos: 5 },
        entropy: Entropy::new(vec![0xde, 0xad]).unwrap(),
        data_disk: network.is_some(),
        init: None,
        network,
    }
}

fn network() -> NetworkConfig {
    NetworkConfig {
        mac: "02:01:02:03:04:05".to_owned(),
        address: "10.88.0.2".to_owned(),
        prefix: 32,
        gateway: "10.88.0.1".to_owned(),
        dns: vec!["10.88.0.1".to_owned()],
    }
}

#[test]
fn host_messages() {
    check(
        include_str!("golden/host.json"),
        vec![
            ("boot", HostMessage::Boot(boot(None))),
            ("boot_with_init", HostMessage::Boot(BootConfig { init: Some(InitConfig { stop_signal: Some(37) }), ..boot(None) })),
            ("boot_with_network", HostMessage::Boot(boot(Some(network())))),
            ("park", HostMessage::Park { network: true, fresh_disk: true, rehearse: vec![vec!["true".to_owned()]] }),
            ("clock", HostMessage::Clock { time: UnixTime { secs: 1_795_000_000, nanos: 5 } }),
            ("ping", HostMessage::Ping { seq: 7 }),
            ("shutdown", HostMessage::Shutdown { grace_ms: 2000 }),
        ],
    );
}

#[test]
fn agent_messages() {
    let ready = |address: Option<String>| Ready {
        hostname: "vm-calm-otter".to_owned(),
        machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
        address,
        time: UnixTime { secs: 1_795_000_000, nanos: 6 },
        entropy_bytes: 64,
        uptime_ms: 950,
        steps: vec![StepTime { step: "overlay".to_owned(), us: 1200 }],
    };
    check(
        include_str!("golden/agent.json"),
        vec![
            ("hello", AgentMessage::Hello { agent_version: "0.1.0".to_owned(), generation: 1, booted: false }),
            ("ready", AgentMessage::Ready(ready(None))),
            ("ready_with_network", AgentMessage::Ready(ready(Some("10.88.0.2".to_owned())))),
            ("failed", AgentMessage::Failed { step: "overlay".to_owned(), message: "no disk".to_owned() }),
            ("parked", AgentMessage::Parked),
            ("clock", AgentMessage::Clock { time: UnixTime { secs: 1_795_000_000, nanos: 6 } }),
            ("pong", AgentMessage::Pong { seq: 7 }),
            ("halted", AgentMessage::Halted),
        ],
    );
}

#[test]
fn exec_requests() {
    let small = ExecRequest { argv: vec!["true".to_owned()], ..ExecRequest::default() };
    let full = ExecRequest {
        argv: vec!["sh".to_owned(), "-c".to_owned(), "id".to_owned()],
        env: BTreeMap::from([("LANG".to_owned(), "C".to_owned())]),
        cwd: Some("/tmp".to_owned()),
        user: Some("nobody:nogroup".to_owned()),
        timeout_ms: Some(1500),
        make_cwd: true,
        stdin: true,
    };
    check(include_str!("golden/exec_request.json"), vec![("small", small), ("full", full)]);
    check(include_str!("golden/stream_control.json"), vec![("signal", StreamControl::Signal { signal: 15 })]);
}

#[test]
fn exec_exits() {
    let failed = |kind| ExecExit::failed(kind, "why");
    check(
        include_str!("golden/exec_exit.json"),
        vec![
            ("code", ExecExit { code: Some(3), ..ExecExit::default() }),
            ("signal", ExecExit { signal: Some(9), timed_out: true, ..ExecExit::default() }),
            ("not_found", failed(ExecErrorKind::NotFound)),
            ("not_executable", failed(ExecErrorKind::NotExecutable)),
            ("bad_cwd", failed(ExecErrorKind::BadCwd)),
            ("bad_user", failed(ExecErrorKind::BadUser)),
            ("bad_request", failed(ExecErrorKind::BadRequest)),
            ("spawn_failed", failed(ExecErrorKind::SpawnFailed)),
        ],
    );
}

#[test]
fn monitor_messages() {
    check(
        include_str!("golden/monitor_request.json"),
        vec![
            ("status", MonitorRequest::Status),
            ("stop", MonitorRequest::Stop { grace_ms: 2000 }),
            ("pause", MonitorRequest::Pause),
            ("resume", MonitorRequest::Resume),
            ("locate", MonitorRequest::Locate),
            ("freeze", MonitorRequest::Freeze { sync: true, layer: None }),
            ("freeze_layer", MonitorRequest::Freeze { sync: false, layer: Some(4) }),
            ("merged", MonitorRequest::Merged { layers: vec![1, 4] }),
            ("thaw", MonitorRequest::Thaw),
            ("kill", MonitorRequest::Kill),
        ],
    );
    let status = |agent_version| MonitorReply::Status { id: "vm-a".to_owned(), generation: 4, pid: 1234, agent_version };
    let error = |code| MonitorReply::Error { code, message: "why".to_owned() };
    check(
        include_str!("golden/monitor_reply.json"),
        vec![
            ("status_early", status(None)),
            ("status", status(Some("0.1.0".to_owned()))),
            ("paused", MonitorReply::Paused),
            ("resumed", MonitorReply::Resumed),
            ("located", MonitorReply::Located { pid: 1234, address: 4096, layers: Vec::new() }),
            ("located_layers", MonitorReply::Located { pid: 1234, address: 4096, layers: vec![0, 4] }),
            ("frozen", MonitorReply::Frozen { layered: false }),
            ("frozen_layered", MonitorReply::Frozen { layered: true }),
            ("merged", MonitorReply::Merged),
            ("stopping", MonitorReply::Stopping),
            ("stopped", MonitorReply::Stopped),
            ("guest_not_ready", error(MonitorErrorCode::GuestNotReady)),
            ("error_paused", error(MonitorErrorCode::Paused)),
            ("timeout", error(MonitorErrorCode::Timeout)),
            ("unsupported", error(MonitorErrorCode::Unsupported)),
            ("engine", error(MonitorErrorCode::Engine)),
        ],
    );
}

#[test]
fn types_from_the_future_are_unknown_not_errors() {
    let future = br#"{"type":"resize_the_moon","rows":3}"#;
    assert_eq!(decode::<HostMessage>(future).unwrap(), HostMessage::Unknown);
    assert_eq!(decode::<AgentMessage>(future).unwrap(), AgentMessage::Unknown);
    assert_eq!(decode::<StreamControl>(future).unwrap(), StreamControl::Unknown);
    assert_eq!(decode::<MonitorRequest>(future).unwrap(), MonitorRequest::Unknown);
    assert_eq!(decode::<MonitorReply>(future).unwrap(), MonitorReply::Unknown);
    assert_eq!(decode::<ExecErrorKind>(br#""eaten""#).unwrap(), ExecErrorKind::SpawnFailed);
    assert!(decode::<HostMessage>(b"{}").is_err());
    assert!(decode::<HostMessage>(&vec![b' '; MAX_PAYLOAD + 1]).is_err());
}

#[test]
fn bytes_of_frames_and_of_the_handshake() {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().concat();
    let wire = |frame: &Frame| {
        let mut bytes = Vec::new();
        frame.encode_into(&mut bytes);
        hex(&bytes)
    };
    let request = AttachRequest { nonce: Nonce([0xaa; 16]), oldest: 1, newest: 1 };
    let reply = AttachReply { nonce: Nonce([0xaa; 16]), chosen: 1, oldest: 1, newest: 1 };
    let written = BTreeMap::from([
        ("control", wire(&Frame::control(b"{}".to_vec()))),
        ("open", wire(&Frame::on_stream(FrameKind::Open, 1, b"{}".to_vec()))),
        ("data_stdin", wire(&Frame::data(1, Channel::Stdin, b"in".to_vec()))),
        ("data_stdout", wire(&Frame::data(1, Channel::Stdout, b"out".to_vec()))),
        ("data_stderr", wire(&Frame::data(0x0102_0304, Channel::Stderr, b"err".to_vec()))),
        ("eof", wire(&Frame::eof(1, Channel::Stdin))),
        ("credit", wire(&Frame::credit(1, Channel::Stdout, 0x0001_0000))),
        ("stream_control", wire(&Frame::on_stream(FrameKind::StreamControl, 1, b"{}".to_vec()))),
        ("exit", wire(&Frame::on_stream(FrameKind::Exit, 1, b"{}".to_vec()))),
        ("reset", wire(&Frame::reset(1))),
        ("attach_request", hex(&request.to_bytes())),
        ("attach_reply", hex(&reply.to_bytes())),
    ]);
    let golden: BTreeMap<&str, String> = serde_json::from_str(include_str!("golden/wire.json")).unwrap();
    assert_eq!(written, golden);
    let flush = request.to_bytes_after_flush();
    assert_eq!(flush.len(), HEADER_LEN + MAX_PAYLOAD + 36);
    assert!(flush.ends_with(&request.to_bytes()));
}
