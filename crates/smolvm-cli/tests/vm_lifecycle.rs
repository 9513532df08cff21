//! One life of a real sandbox: create, start, many kinds of exec, stop, start again, power off, delete.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::Value;
use support::{BOOT, Place, SOON};
use testkit::Stdin;

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What the kernel says of a process, by field of its status.
fn status(pid: i32, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with(&format!("{field}:"))).unwrap_or_else(|| panic!("no {field} in\n{status}"));
    line[field.len() + 1..].trim().to_owned()
}

#[test]
fn one_life() {
    let place = Place::without_network();
    let oracle = place.oracle();
    let created = place.ok(&[
        "create",
        "--image",
        "minimal",
        "--name",
        "life",
        "--net",
        "none",
        "--env",
        "COLOUR=red",
        "--label",
        "team/x=1",
        "--ttl",
        "1h",
    ]);
    assert_eq!(created["sandbox"]["state"], "created");
    assert_eq!(created["sandbox"]["labels"]["team/x"], "1");
    assert!(created["sandbox"]["expires_at"].is_string() && created["sandbox"]["process"].is_null());
    let started = place.smolvm(&["start", "life", "--json"]).timeout(BOOT).run();
    started.assert_ok();
    let pair = place.pair("life");
    the_jail_holds(pair.hypervisor.pid, pair.monitor.pid);
    what_inspect_says(&place);
    streams_and_statuses(&place);
    many_at_once(&place);
    floods_are_bounded(&place, pair.monitor.pid);
    a_signal_ends_an_exec_whose_output_nobody_reads(&place);
    // What the guest wrote is on its disk after an orderly stop.
    place.smolvm(&["exec", "life", "--", "sh", "-c", "echo kept > /root/file; echo also > /etc/of-the-image"]).run().assert_ok();
    let stopped = place.ok(&["stop", "life"]);
    assert_eq!(stopped["sandbox"]["state"], "stopped");
    assert_eq!(stopped["sandbox"]["exit"]["kind"], "stopped");
    assert!(stopped["sandbox"]["process"].is_null() && !pair.hypervisor.lives() && !pair.monitor.lives());
    assert_eq!(place.ok(&["stop", "life"])["sandbox"]["state"], "stopped", "stopping twice is no error");
    let refused = place.smolvm(&["exec", "life", "--", "true"]).run();
    refused.assert_code(125);
    assert!(refused.stderr.contains("smolvm start life"), "{refused}");
    place.smolvm(&["start", "life"]).timeout(BOOT).run().assert_ok();
    let read = place.smolvm(&["exec", "life", "--", "cat", "/root/file", "/etc/of-the-image"]).run();
    assert_eq!(read.stdout, "kept\nalso\n", "{read}");
    // A guest that powers itself off in order is stopped, not stale.
    let pair = place.pair("life");
    place.smolvm(&["exec", "life", "--", "poweroff"]).run();
    support::assert_ends(&pair.hypervisor);
    support::assert_ends(&pair.monitor);
    let after = place.list()["life"].clone();
    assert_eq!((text(&after["state"]), text(&after["exit"]["kind"]), &after["stale"]), ("stopped", "guest_poweroff", &Value::Bool(false)));
    let deleted = place.ok(&["delete", "life"]);
    assert_eq!(deleted["deleted"], serde_json::json!(["life"]));
    let again = place.envelope(&["delete", "life"]);
    assert_eq!((again["exit_code"].as_i64(), text(&again["data"]["failed"][0]["code"])), (Some(1), "not_found"));
    place.ok(&["delete", "--ignore-missing", "life"]);
    oracle.assert_clean();
}

/// Read from the kernel, not from what smolvm says of itself.
fn the_jail_holds(hypervisor: i32, monitor: i32) {
    let uid: u32 = status(hypervisor, "Uid").split_whitespace().next().unwrap().parse().unwrap();
    assert!((1_900_000_000..2_147_000_000).contains(&uid), "uid {uid}");
    assert_eq!(status(hypervisor, "Uid").split_whitespace().collect::<Vec<_>>(), vec![uid.to_string().as_str(); 4]);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&status(hypervisor, set), 16).unwrap(), 0, "{set}");
    }
    assert_eq!(
        (status(hypervisor, "NoNewPrivs"), status(hypervisor, "Seccomp"), status(hypervisor, "Groups")),
        ("1".into(), "2".into(), String::new())
    );
    assert!(status(hypervisor, "NSpid").ends_with("\t1"), "pid 1 of its own namespace");
    for namespace in ["mnt", "pid", "ipc", "net", "uts"] {
        let of = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        assert_ne!(of(hypervisor), of(monitor), "{namespace}");
    }
    let limits = std::fs::read_to_string(format!("/proc/{hypervisor}/limits")).unwrap();
    let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    let mounts = std::fs::read_to_string(format!("/proc/{hypervisor}/mountinfo")).unwrap();
    assert!(mounts.lines().all(|l| l.split(' ').nth(5).unwrap().split(',').any(|o| o == "ro") || l.contains("/dev/")), "{mounts}");
}

fn what_inspect_says(place: &Place) {
    let data = place.ok(&["inspect", "life"]);
    let enforced = &data["enforced"];
    assert_eq!(
        (&enforced["capabilities_empty"], &enforced["no_new_privs"], &enforced["seccomp"]),
        (&true.into(), &true.into(), &true.into()),
        "{data:#}"
    );
    assert!(!text(&data["sandbox"]["accelerator_reason"]).is_empty());
}

fn streams_and_statuses(place: &Place) {
    let exec = |args: &[&str]| place.smolvm(&[&["exec"], args].concat());
    let ran = exec(&["life", "--", "sh", "-c", "echo out; echo err >&2; exit 37"]).run();
    ran.assert_code(37);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"));
    let json = support::envelope(&exec(&["--json", "life", "--", "sh", "-c", "echo out; echo err >&2; exit 37"]).run());
    assert_eq!(
        (json["exit_code"].as_i64(), text(&json["error"]["code"]), json["data"]["exit_code"].as_i64()),
        (Some(37), "guest_error", Some(37))
    );
    assert_eq!((text(&json["data"]["stdout"]), text(&json["data"]["stderr"])), ("out\n", "err\n"));
    let input: Vec<u8> = (0..3_000_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let sum = exec(&["-i", "life", "--", "sh", "-c", "wc -c; wc -c < /dev/null"]).stdin(Stdin::Bytes(input.clone())).run();
    assert_eq!(sum.stdout.split_whitespace().collect::<Vec<_>>(), ["3000000", "0"], "{sum}");
    let back = exec(&["-i", "life", "--", "cat"]).stdin(Stdin::Bytes(input.clone())).run();
    assert!(back.stdout_bytes == input, "{} bytes came back", back.stdout_bytes.len());
    let environment = exec(&["-e", "SHAPE=round", "-w", "/tmp", "life", "--", "sh", "-c", "echo $COLOUR $SHAPE $PWD $HOME"]).run();
    assert_eq!(environment.stdout, "red round /tmp /root\n", "{environment}");
    let user = exec(&["-u", "nobody", "life", "--", "id", "-un"]).run();
    assert_eq!(user.stdout, "nobody\n", "{user}");
    let who =
        exec(&["life", "--", "sh", "-c", "hostname; cat /etc/machine-id | wc -c; ls /dev/pts /dev/shm > /dev/null && echo mounted"]).run();
    assert_eq!(who.stdout, "life\n33\nmounted\n", "{who}");
    exec(&["life", "--", "no-such-command"]).run().assert_code(127);
    exec(&["life", "--", "/etc/passwd"]).run().assert_code(126);
    exec(&["-w", "/no/such", "life", "--", "true"]).run().assert_code(125);
    exec(&["-u", "no-such-user", "life", "--", "true"]).run().assert_code(125);
    exec(&["life", "--", "sh", "-c", "kill -TERM $$"]).run().assert_code(128 + 15);
    let late = exec(&["--timeout", "1s", "life", "--", "sh", "-c", "sleep 987 & sleep 987"]).run();
    late.assert_code(124);
    let left = exec(&["life", "--", "sh", "-c", "ps | grep -c '[s]leep 987'"]).run();
    assert_eq!(left.stdout.trim(), "0", "the timeout left processes of its group: {left}");
    // Ctrl-C reaches the command in the guest: one that handles it ends as it likes, one that does not ends with 130.
    for (script, status) in
        [("trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.1; done", 3), ("echo ready; while :; do sleep 0.1; done", 130)]
    {
        let running = exec(&["life", "--", "sh", "-c", script]).spawn();
        let waiting = || exec(&["life", "--", "sh", "-c", "ps | grep -c '[e]cho ready'"]).run().stdout.trim() != "0";
        testkit::until("the command runs in the guest", SOON, || waiting().then_some(()));
        running.signal(rustix::process::Signal::INT);
        let interrupted = running.wait();
        interrupted.assert_code(status);
        assert_eq!(interrupted.stdout.contains("caught"), status == 3, "{interrupted}");
    }
}

fn many_at_once(place: &Place) {
    let running: Vec<_> =
        (0..12).map(|i| place.smolvm(&["exec", "life", "--", "sh", "-c", &format!("sleep 0.2; echo {i}; exit {i}")]).spawn()).collect();
    for (i, run) in running.into_iter().enumerate() {
        let ran = run.wait();
        ran.assert_code(i32::try_from(i).unwrap());
        assert_eq!(ran.stdout, format!("{i}\n"));
    }
}

/// A guest that writes without end, to a reader that does not read, costs the monitor a window and no more.
fn floods_are_bounded(place: &Place, monitor: i32) {
    let mut flood =
        place.cmd("sh").args(&["-c", &format!("{} exec life -- yes | sleep 4", testkit::prerequisite::smolvm_bin().display())]).spawn();
    testkit::until("the flood to be held up", SOON, || flood.has_ended().then_some(()));
    let resident: u64 = status(monitor, "VmRSS").split_whitespace().next().unwrap().parse().unwrap();
    assert!(resident < 32 << 10, "the monitor grew to {resident} KiB");
    drop(flood.wait());
    place.assert_answers("life");
}

/// A command of smolvm's, its standard output a pipe that is full and that nobody reads while the second lives.
fn unread(place: &Place, words: &str) -> (testkit::Running, std::os::fd::OwnedFd) {
    use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
    let fifo = place.path("unread");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let reader = open(&fifo, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let line = format!("exec {} {words} > {}", testkit::prerequisite::smolvm_bin().display(), fifo.display());
    let running = place.cmd("sh").args(&["-c", &line]).timeout(BOOT).spawn();
    testkit::until("the pipe is full", BOOT, || (rustix::io::ioctl_fionread(&reader).unwrap() >= 60_000).then_some(()));
    std::fs::remove_file(&fifo).unwrap();
    (running, reader)
}

fn a_signal_ends_an_exec_whose_output_nobody_reads(place: &Place) {
    for (signal, status) in [(rustix::process::Signal::TERM, 128 + 15), (rustix::process::Signal::HUP, 128 + 1)] {
        let (running, _reader) = unread(place, "exec life -- yes");
        running.signal(signal);
        let begin = std::time::Instant::now();
        running.wait().assert_code(status);
        assert!(begin.elapsed() < SOON, "{signal:?} took {:?}", begin.elapsed());
    }
    let left = place.smolvm(&["exec", "life", "--", "sh", "-c", "ps | grep -c '[y]es'"]).run();
    assert_eq!(left.stdout.trim(), "0", "the command was left behind: {left}");
}

#[test]
fn run_leaves_nothing_whatever_ends_it() {
    let place = Place::without_network();
    let oracle = place.oracle();
    let run = |words: &[&str]| place.smolvm(&[&["run", "--net", "none"], words].concat()).timeout(BOOT);
    let ran = run(&["minimal", "--", "sh", "-c", "echo hello; echo oops >&2; exit 5"]).run();
    ran.assert_code(5);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("hello\n", "oops\n"));
    assert!(place.ids().is_empty());
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM, rustix::process::Signal::HUP] {
        let running = run(&["minimal", "--", "sh", "-c", "echo ready; sleep 600"]).spawn();
        testkit::until("the sandbox runs", BOOT, || place.list().values().any(|s| s["state"] == "running").then_some(()));
        running.signal(signal);
        let ended = running.wait();
        assert_ne!(ended.code(), Some(0), "{ended}");
        assert!(place.ids().is_empty(), "{signal:?} left {:?}", place.ids());
    }
    // A signal while nobody reads its output.
    let (running, _reader) = unread(&place, "run --net none minimal -- yes");
    running.signal(rustix::process::Signal::TERM);
    running.wait().assert_code(128 + 15);
    assert!(place.ids().is_empty(), "an unread output left {:?}", place.ids());
    // A signal while it boots.
    let running = run(&["minimal", "--", "true"]).spawn();
    testkit::until("the sandbox starts", BOOT, || place.list().values().any(|s| s["state"] == "starting").then_some(()));
    running.signal(rustix::process::Signal::INT);
    running.wait().assert_code(130);
    assert!(place.ids().is_empty());
    let kept = run(&["--keep", "minimal", "--", "true"]).run();
    kept.assert_ok();
    let ids = place.ids();
    assert!(ids.len() == 1 && ids[0].starts_with("vm-"), "{ids:?}");
    place.ok(&["delete", &ids[0]]);
    oracle.assert_clean();
}
