//! The oracle sees each kind of leak, and nothing where there is none.

use std::fs;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use super::*;
use crate::{FakeStranger, NetnsHost};

const SOON: Duration = Duration::from_millis(100);

fn gained(oracle: &LeakOracle<'_>, aspect: Aspect, what: &str) {
    let diff = oracle.diff_now().unwrap();
    assert!(diff.gained(aspect).iter().any(|item| item.contains(what)), "{aspect:?} {what} is not in:\n{diff}");
}

#[test]
fn a_host_that_did_not_change_is_clean() {
    let (env, net) = (SealedEnv::new(), NetnsHost::new());
    let oracle = LeakOracle::snapshot(Scope::of(&env).in_netns(net.host()));
    fs::create_dir_all(env.home().join("state/sandboxes")).unwrap();
    fs::write(env.home().join("state/state.db-wal"), "").unwrap();
    fs::create_dir_all(env.home().join("cache/images/debian")).unwrap();
    env.cmd("ip").args(&["link"]).in_netns(net.host()).run().assert_ok();
    oracle.assert_clean();
}

#[test]
fn every_kind_of_network_leak_is_seen() {
    let (env, net) = (SealedEnv::new(), NetnsHost::new());
    let host = net.host();
    let oracle = LeakOracle::snapshot(Scope::of(&env).in_netns(host).settle(SOON));
    host.ip("tuntap add leak0 mode tap").unwrap();
    host.ip("addr add 198.51.100.1/32 dev leak0").unwrap();
    host.ip("link set leak0 up").unwrap();
    host.ip("route add 198.51.100.9 dev up0").unwrap();
    host.ip("rule add from 198.51.100.1 lookup 77").unwrap();
    host.run("nft", &["add table inet leak"]).unwrap();
    host.enter(|| fs::write("/proc/sys/net/ipv4/conf/up0/forwarding", "1")).unwrap();
    gained(&oracle, Aspect::Links, "leak0");
    gained(&oracle, Aspect::Addresses, "198.51.100.1");
    gained(&oracle, Aspect::Routes, "198.51.100.9");
    gained(&oracle, Aspect::PolicyRules, "198.51.100.1");
    gained(&oracle, Aspect::Nft, "leak");
    gained(&oracle, Aspect::Sysctls, "up0/forwarding = 1");
    assert!(oracle.diff().unwrap().lost(Aspect::Sysctls).contains(&"net/ipv4/conf/up0/forwarding = 0"));
    host.ip("link del leak0").unwrap();
    host.ip("route del 198.51.100.9").unwrap();
    host.ip("rule del from 198.51.100.1 lookup 77").unwrap();
    host.run("nft", &["delete table inet leak"]).unwrap();
    host.enter(|| fs::write("/proc/sys/net/ipv4/conf/up0/forwarding", "0")).unwrap();
    oracle.assert_clean();
}

#[test]
fn what_is_lost_on_the_network_is_seen_too() {
    let (env, net) = (SealedEnv::new(), NetnsHost::new());
    net.host().run("nft", &["add table inet strangers"]).unwrap();
    let oracle = LeakOracle::snapshot(Scope::of(&env).in_netns(net.host()).settle(SOON));
    net.host().run("nft", &["delete table inet strangers"]).unwrap();
    net.host().ip("route del default").unwrap();
    let diff = oracle.diff().unwrap();
    assert!(diff.lost(Aspect::Nft)[0].contains("strangers") && diff.lost(Aspect::Routes)[0].contains("default"), "{diff}");
}

#[test]
fn files_sockets_locks_and_mounts_are_seen() {
    let (env, net) = (SealedEnv::new(), NetnsHost::new());
    let oracle = LeakOracle::snapshot(Scope::of(&env).in_netns(net.host()).settle(SOON));
    let run = env.home().join("run/vm-a");
    fs::create_dir_all(&run).unwrap();
    gained(&oracle, Aspect::Files, "directory");
    let listener = net.host().enter(|| UnixListener::bind(run.join("monitor.sock"))).unwrap();
    gained(&oracle, Aspect::Sockets, "run/vm-a/monitor.sock");
    gained(&oracle, Aspect::Files, "socket");
    let lock = fs::File::create(run.join("monitor.lock")).unwrap();
    lock.lock().unwrap();
    gained(&oracle, Aspect::Locks, "monitor.lock");
    net.host().bind_file(&run.join("monitor.lock"), std::path::Path::new("/etc/hostname")).unwrap();
    gained(&oracle, Aspect::Mounts, "/etc/hostname");
    drop((listener, lock));
    net.host().run("umount", &["/etc/hostname"]).unwrap();
    fs::remove_dir_all(env.home().join("run")).unwrap();
    oracle.assert_clean();
}

#[test]
fn processes_are_tied_by_words_files_environment_descent_and_network() {
    let (env, net) = (SealedEnv::new(), NetnsHost::new());
    let oracle = LeakOracle::snapshot(Scope::of(&env).in_netns(net.host()).install("0123456789").settle(SOON));
    let beside = FakeStranger::spawn(&["smolvm:9876543210:vm-a"]);
    oracle.assert_clean();
    let marked = FakeStranger::spawn(&["smolvm:0123456789:vm-a"]);
    gained(&oracle, Aspect::Processes, "smolvm:0123456789:vm-a");
    marked.end();
    let by_environment = env.cmd("sleep").arg("100").spawn();
    gained(&oracle, Aspect::Processes, "sleep 100");
    drop(by_environment);
    let clean = |line: &str| env.cmd("sh").args(&["-c", line]).without_env("SMOLVM_HOME").without_env("HOME").without_env("TMPDIR");
    let by_network = clean("cd /; exec env -i sleep 200").in_netns(net.host()).spawn();
    gained(&oracle, Aspect::Processes, "sleep 200");
    drop(by_network);
    let by_descent = env.cmd("sh").args(&["-c", "cd /; env -i sleep 300 & wait"]).spawn();
    crate::until("the grandchild runs", Duration::from_secs(5), || {
        let diff = oracle.diff_now().unwrap();
        diff.gained(Aspect::Processes).iter().any(|item| item.ends_with(')') && item.contains("sleep: sleep 300")).then_some(())
    });
    drop(by_descent);
    oracle.assert_clean();
    beside.assert_lives();
}

#[test]
fn what_ends_by_itself_is_waited_for() {
    let env = SealedEnv::new();
    let oracle = LeakOracle::snapshot(Scope::of(&env).without_network());
    env.cmd("sh").args(&["-c", "setsid sleep 0.3 >/dev/null 2>&1 & exit 0"]).run().assert_ok();
    assert!(!oracle.diff_now().unwrap().is_clean());
    oracle.assert_clean();
}

#[test]
#[should_panic(expected = "+ Files: file ")]
fn a_leak_fails_the_test_and_is_named() {
    let env = SealedEnv::new();
    let oracle = LeakOracle::snapshot(Scope::of(&env).without_network().settle(SOON));
    fs::create_dir_all(env.home().join("state")).unwrap();
    fs::write(env.home().join("state/left"), "").unwrap();
    oracle.assert_clean();
}
