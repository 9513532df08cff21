//! Guests on a network: out through NAT, names, not to each other, not to the host, not as somebody else.

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use support::{BOOT, Place};
use testkit::process::{self, Process};
use testkit::{DnsServer, HttpServer, NetnsHost};

#[test]
fn taps() {
    let place = Place::with_network();
    let resolv = place.scratch().join("resolv.conf");
    std::fs::write(&resolv, format!("nameserver {}\n", NetnsHost::SERVER)).unwrap();
    place.host().bind_file(&resolv, "/etc/resolv.conf".as_ref()).unwrap();
    let names = DnsServer::start(Some(place.server()), (NetnsHost::SERVER, 53), &[("files.example", NetnsHost::SERVER)]);
    let web = HttpServer::with_files(Some(place.server()), (NetnsHost::SERVER, 8080), &[("/hello.txt", b"hello from outside")]);
    let on_host = HttpServer::start(Some(place.host()), (NetnsHost::HOST, 8081));
    let oracle = place.oracle();
    place.boot(&["a", "b"]);
    let guest = |name: &str, script: &str| place.smolvm(&["exec", "--timeout", "30s", name, "--", "sh", "-c", script]).run();
    let address = |name: &str| place.list()[name]["network"]["address"].as_str().unwrap().to_owned();

    // Out through NAT, by name: the server sees the host.
    let got = guest("a", "timeout 20 wget -q -O - http://files.example:8080/hello.txt");
    assert_eq!(got.stdout, "hello from outside", "{got}");
    assert!(web.requests().iter().all(|r| r.peer == IpAddr::V4(NetnsHost::HOST)), "{:?}", web.requests());
    assert!(names.asked().iter().any(|(_, name)| name.contains("files.example")));

    // Not to each other, not to the host's own services, not to metadata.
    for target in
        [format!("http://{}:8080/", address("b")), format!("http://{}:8081/", NetnsHost::HOST), "http://169.254.169.254/".to_owned()]
    {
        let denied = guest("a", &format!("timeout 2 wget -q -O - {target} && echo REACHED"));
        assert!(!denied.stdout.contains("REACHED"), "{target}: {denied}");
    }
    let ping = guest("a", &format!("ping -c 1 -W 2 {} && echo REACHED", address("b")));
    assert!(!ping.stdout.contains("REACHED"), "{ping}");
    assert!(on_host.requests().is_empty(), "a guest reached a service of the host");

    // Not as somebody else: with the neighbour's address, or another Ethernet address, nothing comes through.
    let before = web.requests().len();
    let own = address("a");
    let stolen = guest(
        "a",
        &format!(
            "ip addr add {}/32 dev eth0 && timeout 2 wget -q -O - --bind-address={0} http://{1}:8080/ ; ip route change default via $(ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p') dev eth0 onlink src {0} && timeout 2 wget -q -O - http://{1}:8080/hello.txt && echo REACHED",
            address("b"),
            NetnsHost::SERVER
        ),
    );
    assert!(!stolen.stdout.contains("REACHED"), "{stolen}");
    assert_eq!(web.requests().len(), before, "a packet with a stolen address got out");
    let masked = guest(
        "b",
        &format!(
            "ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:99; ip link set eth0 up; ip route replace default via $(ip route show table all | sed -n 's/.*via \\([0-9.]*\\).*/\\1/p' | head -1) dev eth0 onlink; timeout 2 wget -q -O - http://{}:8080/hello.txt && echo REACHED",
            NetnsHost::SERVER
        ),
    );
    assert!(!masked.stdout.contains("REACHED"), "{masked}");
    let _ = own;

    // Both still answer on the link, which is no network; and everything goes.
    place.assert_answers("a");
    place.ok(&["delete", "a", "b"]);
    oracle.assert_clean();
}

#[test]
fn user_mode_reaches_out_and_not_the_host() {
    let place = Place::with_network();
    let web = HttpServer::with_files(Some(place.server()), (NetnsHost::SERVER, 8080), &[("/hello.txt", b"hello from outside")]);
    let on_host = HttpServer::start(Some(place.host()), (Ipv4Addr::LOCALHOST, 8081));
    let oracle = place.oracle();
    place.ok(&["create", "--image", "minimal", "--name", "u", "--net", "user"]);
    place.smolvm(&["start", "u"]).timeout(BOOT).run().assert_ok();
    let guest = |script: &str| place.smolvm(&["exec", "--timeout", "30s", "u", "--", "sh", "-c", script]).run();
    let got = guest(&format!("timeout 20 wget -q -O - http://{}:8080/hello.txt", NetnsHost::SERVER));
    assert_eq!(got.stdout, "hello from outside", "{got}");
    for target in ["127.0.0.1", "10.0.2.2"] {
        let denied =
            guest(&format!("ip route add 127.0.0.1 dev eth0 2>/dev/null; timeout 2 wget -q -O - http://{target}:8081/ && echo REACHED"));
        assert!(!denied.stdout.contains("REACHED"), "{target}: {denied}");
    }
    assert!(on_host.requests().is_empty(), "a guest reached the host's loopback");
    assert!(!web.requests().is_empty());
    place.ok(&["delete", "u"]);
    oracle.assert_clean();
}

/// They are made while its hypervisor starts. The command stands still before it makes them: the guest waits for it.
#[test]
fn no_guest_runs_before_its_rules_are_made() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.boot(&["src"]);
    place.ok(&["delete", "src"]);
    let trace = place.scratch().join("trace");
    let starting = place
        .smolvm(&["create", "--name", "a", "--image", "minimal", "--start"])
        .env("SMOLVM_TEST_FAULT", "stop@before:filter")
        .env("SMOLVM_TEST_TRACE", &trace)
        .timeout(BOOT)
        .spawn();
    let hypervisor = || process::all().into_iter().find(|p| p.exe_name().starts_with("qemu-system") && p.touches(place.home()));
    testkit::until("a hypervisor", BOOT, hypervisor);
    let passed = || std::fs::read_to_string(&trace).unwrap();
    // One that is not kept waiting has answered within a fraction of this.
    let begin = Instant::now();
    testkit::until("a while", BOOT, || (passed().contains("ledger/ready") || begin.elapsed() > Duration::from_secs(2)).then_some(()));
    assert!(!passed().contains("ledger/ready") && place.list()["a"]["state"] == "starting", "it runs without rules\n{}", passed());
    assert!(!place.nft().contains("smolvm"), "{}", place.nft());
    Process::read(starting.pid()).unwrap().signal(rustix::process::Signal::CONT);
    starting.wait().assert_ok();
    place.assert_answers("a");
    let at = |point: &str| passed().lines().position(|line| line.split(' ').nth(1) == Some(point)).unwrap();
    assert!(at("after:hypervisor") < at("after:filter") && at("after:filter") < at("before:ledger/ready"), "{}", passed());
    place.ok(&["delete", "a"]);
    oracle.assert_clean();
}
