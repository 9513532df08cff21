//! The serve loop on a plain host: a real agent process, real commands, a socket for the port.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "tests and their support")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use smolvm_proto::ExecErrorKind::{BadCwd, BadRequest, BadUser, NotExecutable, NotFound};
use smolvm_proto::*;
use support::{Agent, DEADLINE, Pace, command, identity, sh};

#[test]
fn stdout_and_stderr_are_separate_and_whole() {
    let mut agent = Agent::start();
    let done = agent.sh("echo out; echo err >&2; exit 3");
    assert_eq!((done.out(), done.stderr.as_slice(), done.code()), ("out\n", b"err\n".as_slice(), Some(3)));
    assert_eq!(done.eofs.len(), 2, "both channels end before the exit");
    let exit = done.exit.unwrap();
    assert_eq!((exit.signal, exit.timed_out, exit.error), (None, false, None));
}

#[test]
fn ten_megabytes_go_through_stdin_and_back() {
    let mut agent = Agent::start();
    let bytes: Vec<u8> = (0..10_000_000_u32).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
    let request = ExecRequest { stdin: true, ..command(&["cat"]) };
    let done = agent.run(&request, &bytes);
    assert_eq!(done.code(), Some(0));
    assert!(done.stdout == bytes, "{} bytes came back, or other ones", done.stdout.len());
}

#[test]
fn without_stdin_a_command_reads_the_end_at_once() {
    let mut agent = Agent::start();
    assert_eq!(agent.run(&command(&["cat"]), b"").code(), Some(0));
}

#[test]
fn a_command_that_reads_nothing_does_not_stall_its_input() {
    let mut agent = Agent::start();
    let request = ExecRequest { stdin: true, ..sh("exec <&-; sleep 0.2; echo done") };
    let id = agent.open(&request, &vec![0; 3_000_000]);
    let done = agent.wait(id);
    assert_eq!((done.out(), done.code()), ("done\n", Some(0)));
}

#[test]
fn fifty_commands_at_once() {
    let mut agent = Agent::start();
    let ids: Vec<u32> =
        (0..50).map(|i| agent.open(&sh(&format!("echo begin {i}; sleep 0.3; head -c 100000 /dev/zero; exit {i}")), b"")).collect();
    let start = Instant::now();
    for (i, id) in ids.into_iter().enumerate() {
        let done = agent.wait(id);
        assert_eq!(done.code(), i32::try_from(i).ok());
        assert!(done.stdout.starts_with(format!("begin {i}\n").as_bytes()));
        assert_eq!(done.stdout.len(), 100_000 + format!("begin {i}\n").len());
    }
    assert!(start.elapsed() < DEADLINE / 2, "they ran one after the other");
}

#[test]
fn a_flood_stops_at_the_window_and_others_go_on() {
    let mut agent = Agent::start();
    let flood = agent.open_at(Pace::Manual, &command(&["cat", "/dev/zero"]), b"");
    let window = INITIAL_WINDOW as usize;
    agent.until("a full window", |a| a.streams[&flood].stdout.len() == window);
    let before = resident_kib(agent.pid());
    for _ in 0..20 {
        assert_eq!(agent.sh("echo beside it").out(), "beside it\n");
    }
    assert_eq!(agent.streams[&flood].stdout.len(), window, "not one byte more than granted");
    assert!(resident_kib(agent.pid()) < before + 512, "the agent holds what nobody takes");
    agent.grant(flood, 1000);
    agent.until("what was granted", |a| a.streams[&flood].stdout.len() == window + 1000);
    agent.send(&Frame::on_stream(FrameKind::StreamControl, flood, encode(&StreamControl::Signal { signal: 15 }).unwrap()));
    agent.grant(flood, 1 << 20);
    let done = agent.wait(flood);
    assert_eq!(done.exit.unwrap().signal, Some(15));
}

fn resident_kib(pid: u32) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4
}

#[test]
fn what_was_written_before_the_end_is_never_lost() {
    let mut agent = Agent::start();
    for _ in 0..100 {
        let done = agent.sh("head -c 60000 /dev/zero; head -c 5000 /dev/zero >&2");
        assert_eq!((done.stdout.len(), done.stderr.len(), done.code()), (60_000, 5_000, Some(0)));
    }
}

#[test]
fn a_slow_reader_gets_the_rest_after_the_command_has_ended() {
    let mut agent = Agent::start();
    let size = INITIAL_WINDOW as usize + 50_000;
    let id = agent.open_at(Pace::Manual, &sh(&format!("head -c {size} /dev/zero")), b"");
    agent.until("a full window", |a| a.streams[&id].stdout.len() == INITIAL_WINDOW as usize);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(500) {
        agent.turn();
    }
    assert!(agent.streams[&id].exit.is_none(), "the rest was given up");
    agent.grant(id, 60_000);
    assert_eq!(agent.wait(id).stdout.len(), size);
}

#[test]
fn the_time_limit_kills_the_whole_group() {
    let mut agent = Agent::start();
    let request = ExecRequest { timeout_ms: Some(300), ..sh("sleep 1000 & echo $!; trap '' TERM; while :; do sleep 1000; done") };
    let start = Instant::now();
    let done = agent.run(&request, b"");
    let background: u32 = done.out().trim().parse().unwrap();
    let exit = done.exit.unwrap();
    assert_eq!((exit.signal, exit.timed_out, exit.code), (Some(9), true, None));
    assert!(start.elapsed() >= Duration::from_millis(300));
    gone(background);
}

/// Waits until a process is gone or a zombie.
fn gone(pid: u32) {
    let start = Instant::now();
    while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z ")) {
        assert!(start.elapsed() < DEADLINE, "process {pid} lives on");
        std::thread::yield_now();
    }
}

#[test]
fn signals_reach_the_command_and_are_told() {
    let mut agent = Agent::start();
    assert_eq!(agent.sh("kill -SEGV $$").exit.unwrap().signal, Some(11));
    let id = agent.open(&sh("trap 'echo caught; exit 5' USR1; echo set; while :; do sleep 0.05; done"), b"");
    agent.until("the trap", |a| a.streams[&id].stdout == b"set\n");
    for nonsense in [0, -9, 65, i32::MAX, i32::MIN] {
        agent.send(&Frame::on_stream(FrameKind::StreamControl, id, encode(&StreamControl::Signal { signal: nonsense }).unwrap()));
    }
    agent.send(&Frame::on_stream(FrameKind::StreamControl, id, br#"{"type":"resize","rows":5}"#.to_vec()));
    agent.send(&Frame::on_stream(FrameKind::StreamControl, id, encode(&StreamControl::Signal { signal: libc::SIGUSR1 }).unwrap()));
    let done = agent.wait(id);
    assert_eq!((done.out(), done.code()), ("set\ncaught\n", Some(5)));
}

#[test]
fn commands_that_cannot_run_say_why() {
    let mut agent = Agent::start();
    let dir = std::env::temp_dir().join(format!("smolvm-agent-test-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = |name: &str, text: &str, mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let plain = file("plain", "text", 0o644);
    let orphan = file("orphan", "#!/no/such/interpreter\n", 0o755);
    let garbage = file("garbage", "\u{1}\u{2}\u{3}\u{4}", 0o755);
    let error = |agent: &mut Agent, request: &ExecRequest| agent.run(request, b"").error();
    assert_eq!(error(&mut agent, &command(&["no-such-command"])), Some(NotFound));
    assert_eq!(error(&mut agent, &command(&["/no/such/file"])), Some(NotFound));
    assert_eq!(error(&mut agent, &command(&["/bin/sh/x"])), Some(NotFound));
    for program in [orphan.as_str(), "orphan"] {
        let path = format!("/no/such:{}", dir.display());
        let request = ExecRequest { env: [("PATH".to_owned(), path)].into(), ..command(&[program]) };
        let error = agent.run(&request, b"").exit.unwrap().error.unwrap();
        assert_eq!((error.kind, error.message), (NotFound, format!("{program}: its interpreter is not in the guest")));
    }
    assert_eq!(error(&mut agent, &command(&[&plain])), Some(NotExecutable));
    assert_eq!(error(&mut agent, &command(&[&garbage])), Some(NotExecutable));
    assert_eq!(error(&mut agent, &command(&["/tmp"])), Some(NotExecutable));
    assert_eq!(error(&mut agent, &ExecRequest { cwd: Some("/no/such".to_owned()), ..sh("true") }), Some(BadCwd));
    assert_eq!(error(&mut agent, &ExecRequest { cwd: Some(plain.clone()), ..sh("true") }), Some(BadCwd));
    assert_eq!(error(&mut agent, &ExecRequest { cwd: Some(format!("{plain}/x")), make_cwd: true, ..sh("true") }), Some(BadCwd));
    assert_eq!(error(&mut agent, &ExecRequest { user: Some("no-such-user".to_owned()), ..sh("true") }), Some(BadUser));
    assert_eq!(error(&mut agent, &command(&[])), Some(BadRequest));
    assert_eq!(error(&mut agent, &command(&["a\0b"])), Some(BadRequest));
    let id = agent.open(&sh("true"), b"");
    agent.wait(id);
    let refused = Frame::on_stream(FrameKind::Open, 4_000_000, b"[not json".to_vec());
    agent.streams.insert(4_000_000, support::Stream::default());
    agent.send(&refused);
    assert_eq!(agent.wait(4_000_000).error(), Some(BadRequest));
    std::fs::remove_file(plain).and_then(|()| std::fs::remove_file(orphan)).and_then(|()| std::fs::remove_file(garbage)).unwrap();
    std::fs::remove_dir(dir).unwrap();
}

#[test]
fn environment_and_directory_are_the_requested_ones() {
    let mut agent = Agent::start();
    let request = ExecRequest {
        env: BTreeMap::from([("GREETING".to_owned(), "a=b c\n".to_owned()), ("HOME".to_owned(), "/elsewhere".to_owned())]),
        cwd: Some("/usr".to_owned()),
        ..sh("pwd; env -0 | sort -z | tr '\\0' ';'")
    };
    let done = agent.run(&request, b"");
    let text = done.out();
    assert!(text.starts_with("/usr\n"), "{text}");
    assert!(text.contains("GREETING=a=b c\n;HOME=/elsewhere;LOGNAME=root;"), "{text}");
    assert!(text.contains("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin;"), "{text}");
    assert!(!text.contains("CARGO"), "the agent's own environment leaked: {text}");
}

#[test]
fn users_are_looked_up_and_taken_on() {
    assert!(rustix::process::getuid().is_root(), "this test changes users: run it as root");
    let mut agent = Agent::start();
    let run = |agent: &mut Agent, user: &str| {
        let request = ExecRequest { user: Some(user.to_owned()), ..sh("id -u; id -g; id -G; echo $HOME $USER") };
        agent.run(&request, b"").out().to_owned()
    };
    assert_eq!(run(&mut agent, "12345:54321"), "12345\n54321\n54321\n/ 12345\n");
    assert!(run(&mut agent, "nobody").starts_with("65534\n65534\n65534\n"));
    assert!(run(&mut agent, "root").starts_with("0\n0\n0\n/root root\n"));
}

#[test]
fn a_command_starts_clean() {
    let mut agent = Agent::start();
    let open = agent.run(&command(&["ls", "/proc/self/fd"]), b"");
    assert_eq!(open.out(), "0\n1\n2\n3\n", "three, and the directory that ls reads");
    let masks = agent.run(&command(&["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]), b"");
    assert_eq!(masks.out(), "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
    let ids = agent.sh("ps -o sid=,pgid=,pid= -p $$");
    let ids: Vec<&str> = ids.out().split_whitespace().collect();
    assert!(ids[0] == ids[1] && ids[1] == ids[2], "a session and a group of its own: {ids:?}");
    assert_eq!(agent.sh("ulimit -n").out(), "1024\n");
}

#[test]
fn background_processes_neither_hold_the_exec_nor_die_with_it() {
    let mut agent = Agent::start();
    let start = Instant::now();
    let done = agent.sh("(i=0; while [ $i -lt 20 ]; do sleep 0.1; echo still here; i=$((i+1)); done; sleep 1000) & echo $!");
    assert!(start.elapsed() < Duration::from_secs(2), "the exec waited for its child");
    let pid: u32 = done.out().lines().next().unwrap().parse().unwrap();
    let second = Instant::now();
    while second.elapsed() < Duration::from_secs(1) {
        agent.turn();
    }
    let alive = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    assert!(!alive.contains(") Z "), "a daemon died when its exec ended: {alive}");
    agent.sh(&format!("kill -9 {pid}; pkill -9 -P {pid}; true"));
    gone(pid);
}

#[test]
fn a_new_attach_drops_all_streams_even_in_the_middle_of_a_frame() {
    let mut agent = Agent::start();
    let id = agent.open(&sh("echo $$; exec sleep 1000"), b"");
    agent.until("the pid", |a| a.streams[&id].stdout.ends_with(b"\n"));
    let pid: u32 = agent.streams[&id].out().trim().parse().unwrap();
    // Half a frame, as a host side that was killed leaves it.
    let mut half = Vec::new();
    Frame::data(id, Channel::Stdin, vec![7; 60_000]).encode_into(&mut half);
    agent.send_raw(&half[..30_000]);
    agent.streams.clear();
    agent.said.clear();
    agent.attach(2);
    gone(pid);
    agent.until("hello", |a| a.said.iter().any(|m| matches!(m, AgentMessage::Hello { booted: true, .. })));
    assert_eq!(agent.sh("echo again").out(), "again\n");
}

#[test]
fn garbage_is_skipped_until_somebody_attaches() {
    let mut agent = Agent::start_unattached();
    agent.send_raw(b"login: root\r\n\xf5smolvm-attac\xf5smolvm-attach\r\n");
    agent.send_raw(&[0; 1000]);
    agent.attach(3);
    agent.boot();
    assert_eq!(agent.sh("echo ok").out(), "ok\n");
    agent.send_raw(b"\xff\xff garbage in the middle of a session");
    agent.attach(4);
    assert_eq!(agent.sh("echo ok").out(), "ok\n");
}

#[test]
fn a_host_that_breaks_the_rules_loses_the_stream_only() {
    let mut agent = Agent::start();
    let request = ExecRequest { stdin: true, ..command(&["sleep", "1000"]) };
    let id = agent.open_at(Pace::Manual, &request, b"");
    for _ in 0..10 {
        agent.send(&Frame::data(id, Channel::Stdin, vec![0; MAX_PAYLOAD]));
    }
    assert!(agent.wait(id).reset, "more than the window was taken");
    let id = agent.open(&command(&["sleep", "1000"]), b"");
    agent.send(&Frame::credit(id, Channel::Stdout, u32::MAX));
    assert!(agent.wait(id).reset, "endless credit was taken");
    let id = agent.open(&command(&["sleep", "1000"]), b"");
    agent.send(&Frame::on_stream(FrameKind::Open, id, encode(&sh("true")).unwrap()));
    assert!(agent.wait(id).reset, "an id was used twice");
    agent.send(&Frame::data(77, Channel::Stdin, vec![1]));
    agent.send(&Frame::control(b"not json".to_vec()));
    agent.send(&Frame::control(br#"{"type":"from_the_future"}"#.to_vec()));
    agent.control(&HostMessage::Ping { seq: 9 });
    agent.until("pong", |a| a.said.contains(&AgentMessage::Pong { seq: 9 }));
}

#[test]
fn a_reset_stream_is_killed_without_a_word() {
    let mut agent = Agent::start();
    let id = agent.open(&sh("echo $$; exec sleep 1000"), b"");
    agent.until("the pid", |a| a.streams[&id].stdout.ends_with(b"\n"));
    let pid: u32 = agent.streams[&id].out().trim().parse().unwrap();
    agent.send(&Frame::reset(id));
    gone(pid);
    agent.sh("true");
    assert!(agent.streams[&id].exit.is_none() && !agent.streams[&id].reset);
}

/// Waits until a process is gone, and no zombie.
fn reaped(agent: &mut Agent, pid: &str) {
    let start = Instant::now();
    while std::path::Path::new(&format!("/proc/{}", pid.trim())).exists() {
        assert!(start.elapsed() < DEADLINE, "it is still a zombie");
        agent.turn();
    }
}

#[test]
fn orphans_are_reaped() {
    let mut agent = Agent::start();
    let done = agent.sh("(setsid sh -c 'echo $$; exec sleep 0.2' &)");
    reaped(&mut agent, done.out());
}

/// They are answered first; and nobody needs to say anything more for it.
#[test]
fn commands_that_were_answered_are_reaped() {
    let mut agent = Agent::start();
    for script in ["echo $$; exit 7", "echo $$; kill -9 $$", "echo $$; exec >&- 2>&-; exit 7", "(sleep 5 &); echo $$; exit 7"] {
        let done = agent.sh(script);
        assert!(done.code() == Some(7) || done.exit.as_ref().unwrap().signal == Some(9), "{script}");
        reaped(&mut agent, done.out());
    }
}

#[test]
fn shutdown_asks_then_forces_then_says_halted() {
    let mut agent = Agent::start();
    let polite = agent.open(&sh("trap 'echo bye; exit 0' TERM; echo set; while :; do sleep 0.05; done"), b"");
    let stubborn = agent.open(&sh("trap '' TERM; echo set; while :; do sleep 0.05; done"), b"");
    agent.until("the traps", |a| a.streams[&polite].stdout == b"set\n" && a.streams[&stubborn].stdout == b"set\n");
    agent.control(&HostMessage::Shutdown { grace_ms: 400 });
    let late = agent.open(&sh("echo late"), b"");
    assert_eq!(agent.wait(late).error(), Some(ExecErrorKind::SpawnFailed));
    let done = agent.wait(polite);
    assert_eq!((done.out(), done.code()), ("set\nbye\n", Some(0)));
    assert_eq!(agent.wait(stubborn).exit.unwrap().signal, Some(9));
    agent.until("halted", |a| a.said.contains(&AgentMessage::Halted));
}

#[test]
fn before_the_boot_nothing_runs_and_a_failed_boot_is_told() {
    let mut agent = Agent::start_unattached();
    agent.attach(1);
    assert_eq!(agent.sh("true").error(), Some(ExecErrorKind::SpawnFailed));
    let text = r#"{"type":"boot","hostname":"x","machine_id":"0","time":{"secs":1,"nanos":0},"entropy":"","data_disk":true}"#;
    agent.send(&Frame::control(text.as_bytes().to_vec()));
    agent.until("failed", |a| a.said.iter().any(|m| matches!(m, AgentMessage::Failed { step, .. } if step == "disks")));
    agent.said.clear();
    agent.send(&Frame::control(text.replace("true", "false").into_bytes()));
    agent.until("the first answer", |a| matches!(a.said.as_slice(), [AgentMessage::Failed { .. }]));
    assert_eq!(agent.sh("true").error(), Some(ExecErrorKind::SpawnFailed));
}

#[test]
fn a_second_boot_gets_the_first_answer() {
    let mut agent = Agent::start();
    let first = agent.said.last().cloned();
    agent.said.clear();
    agent.boot();
    assert_eq!(agent.said.last().cloned(), first);
}

/// A command that never stops writing, so that a guest which is not at rest would be caught at it.
fn writer(agent: &mut Agent) -> u32 {
    let id = agent.open(&sh("echo $$; while :; do echo more; done"), b"");
    agent.until("some output", |a| a.streams[&id].stdout.len() > 100);
    id
}

#[test]
fn a_guest_at_rest_sends_nothing_and_goes_on_when_it_hears_the_time() {
    let mut agent = Agent::start();
    let id = writer(&mut agent);
    agent.control(&HostMessage::Freeze { sync: false, seq: 3 });
    agent.until("frozen", |a| a.said.last() == Some(&AgentMessage::Frozen { seq: 3 }));
    let before = agent.streams[&id].stdout.len();
    // What it would have sent, it had the time to: it is asked something, and answers only that.
    agent.control(&HostMessage::Ping { seq: 7 });
    agent.until("the answer", |a| a.said.last() == Some(&AgentMessage::Pong { seq: 7 }));
    assert_eq!(agent.streams[&id].stdout.len(), before, "it sent something behind its word that it would not");
    agent.control(&HostMessage::Clock { time: UnixTime { secs: 5, nanos: 0 } });
    agent.until("more output", |a| a.streams[&id].stdout.len() > before + 1000);
    assert!(agent.said.iter().any(|m| matches!(m, AgentMessage::Clock { .. })));
}

#[test]
fn a_copy_is_told_who_it_is_and_has_none_of_the_commands_of_the_other_host() {
    let mut agent = Agent::start();
    let id = writer(&mut agent);
    let pid: u32 = agent.streams[&id].out().lines().next().unwrap().parse().unwrap();
    let kept = agent.sh("setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!");
    let background: u32 = kept.out().trim().parse().unwrap();
    agent.control(&HostMessage::Freeze { sync: true, seq: 3 });
    agent.until("frozen", |a| a.said.last() == Some(&AgentMessage::Frozen { seq: 3 }));
    // The host side of a copy: it greets, and says who the guest is, without waiting for anything.
    agent.attach(9);
    agent.said.clear();
    agent.control(&HostMessage::Restore(identity("copy")));
    agent.until("ready", |a| matches!(a.said.last(), Some(AgentMessage::Ready(ready)) if ready.hostname == "copy"));
    gone(pid);
    assert!(std::path::Path::new(&format!("/proc/{background}")).exists(), "what nobody waits for goes on");
    assert_eq!(agent.sh("echo mine").out(), "mine\n");
    agent.sh(&format!("kill -9 {background}"));
}

#[test]
fn a_guest_that_was_not_frozen_is_nobodys_copy() {
    let mut agent = Agent::start();
    agent.control(&HostMessage::Restore(identity("copy")));
    agent.until("a refusal", |a| matches!(a.said.last(), Some(AgentMessage::Failed { step, .. }) if step == "restore"));
}
