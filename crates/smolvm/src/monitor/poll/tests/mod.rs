//! The loop with the far ends of its sockets in the tests' hands; each file is one of those who talk to it.

mod clients;
mod copy;
mod disk;
mod guest;
mod pause;
mod vmm;

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use smolvm_proto::{AttachReply, AttachRequest, Channel, Decoder, HostMessage, MonitorErrorCode, MonitorReply, RequestScanner};

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
        settings: Settings::new(Paths::beneath(home)),
        init: None,
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
    serving.guest.out = crate::monitor::outgoing::Outgoing::default();
    agent_end.write_all(&AttachReply::to_bytes(request.answer())).unwrap();
    let (client, mut client_end) = pair();
    serving.clients.push(Client::new(1, client));
    client_end.write_all(&AttachRequest::new(Nonce([1; 16])).to_bytes()).unwrap();
    serving.hear_client(1);
    serving.clients[0].out = crate::monitor::outgoing::Outgoing::default();
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

fn frames(queue: &mut crate::monitor::outgoing::Outgoing) -> Vec<Frame> {
    let mut decoder = Decoder::new();
    decoder.push(queue.buffer());
    queue.buffer().clear();
    std::iter::from_fn(|| decoder.next_frame().unwrap()).collect()
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

/// What a guest says that is all that it was told to be; its name is the loop's, and it has no network.
fn ready() -> smolvm_proto::Ready {
    smolvm_proto::Ready {
        hostname: "one".to_owned(),
        machine_id: String::new(),
        address: None,
        time: crate::monitor::ready::now(),
        entropy_bytes: 64,
        uptime_ms: 1,
        steps: Vec::new(),
    }
}

fn says(ends: &mut Ends, message: &AgentMessage) {
    ends.agent.write_all(&bytes(&Frame::control(smolvm_proto::encode(message).unwrap()))).unwrap();
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
