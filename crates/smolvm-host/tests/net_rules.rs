//! The packet filter against a guest that does what it likes: the test writes frames into the TAP.
//!
//! ```text
//!   played guests ── TAPs ── [this namespace: smolvm's host] ── up0 ── [another: a server at 203.0.113.2]
//! ```
//! That something is dropped is shown by sending it first and an allowed thing after it on the same
//! way: when the second has arrived, the first never will.
#![allow(clippy::unwrap_used, clippy::wildcard_imports)] // helpers of tests may panic; the support module is one vocabulary

mod net_support;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, channel};

use net_support::*;
use smolvm_host::net::firewall::{self, Hook, Manager};
use smolvm_host::net::nft::{self, NftError, Removal};
use smolvm_host::net::sysctl::Switch;
use smolvm_host::net::{rights, tap};
use smolvm_host::proc::tool::Tool;
use smolvm_model::name::{InstallId, MacAddr};
use smolvm_model::network::{self, ElementKey, ElementOwner, LinkGroup, SetName};

const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const PORT: u16 = 7;

/// A namespace behind the uplink in which a UDP server answers and reports what came.
struct Server {
    there: Elsewhere,
    heard: Receiver<(SocketAddr, String)>,
}

impl Server {
    fn start() -> Self {
        let there = Elsewhere::new();
        there.wire(("up0", "203.0.113.1/24"), ("up0", "203.0.113.2/24 169.254.169.254/32 10.9.63.9/32"));
        ip("route add default via 203.0.113.2");
        set_forwarding(&"up0".parse().unwrap(), Switch::On).unwrap();
        let (tell, heard) = channel();
        there.run(move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
            std::thread::spawn(move || serve(&socket, &tell));
        });
        Self { there, heard }
    }

    fn next(&self) -> (SocketAddr, String) {
        self.heard.recv_timeout(PATIENCE).expect("the server waited in vain")
    }
}

/// Answers until somebody sends `stop`, so that the thread (and its namespace) goes with the test.
fn serve(socket: &UdpSocket, tell: &std::sync::mpsc::Sender<(SocketAddr, String)>) {
    let mut buffer = [0; 2000];
    while let Ok((len, from)) = socket.recv_from(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
        if text == "stop" || tell.send((from, text.clone())).is_err() {
            return;
        }
        let _ = socket.send_to(format!("re: {text}").as_bytes(), from);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.there.run(|| {
            let _ = UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"stop", ("127.0.0.1", PORT));
        });
    }
}

fn admit(guests: &[&Played]) {
    let guests: Vec<_> = guests.iter().map(|played| played.guest.clone()).collect();
    apply(&(network::base(&base()) + &network::add(&install(), &guests))).unwrap();
}

#[test]
fn a_guest_reaches_a_server_through_nat_and_gets_the_answer() {
    in_namespace(|| {
        let server = Server::start();
        let a = Played::new("vm-a", 0);
        admit(&[&a]);
        a.udp(SERVER, PORT, "hello");
        let (from, text) = server.next();
        assert_eq!((from.ip(), text.as_str()), (HOST.into(), "hello"), "the guest's own address must not leave the host");
        let (from, port, text) = a.expect("the answer", read_udp);
        assert_eq!((from, port, text.as_str()), (SERVER, PORT, "re: hello"));
    });
}

#[test]
fn a_guest_cannot_send_as_somebody_else() {
    in_namespace(|| {
        let server = Server::start();
        let (a, b) = (Played::new("vm-a", 0), Played::new("vm-b", 1));
        admit(&[&a, &b]);
        let packet = |from, text: &str| ipv4(from, SERVER, 17, &udp(4000, PORT, text.as_bytes()));
        // Its own MAC with b's address, a free address of the pool, the gateway's, the server's, none.
        for from in [b.guest.address, pool().nth(99).unwrap(), pool().gateway(), SERVER, HOST, Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST] {
            a.frame(&ethernet(a.guest.mac, 0x0800, &packet(from, "spoofed address")));
        }
        // Its own address with b's MAC, with one nobody has, with the broadcast address.
        for mac in [b.guest.mac, MacAddr::local([9; 5]), MacAddr([0xff; 6])] {
            a.frame(&ethernet(mac, 0x0800, &packet(a.guest.address, "spoofed MAC")));
        }
        // Everything of b's, but through a's TAP.
        a.frame(&ethernet(b.guest.mac, 0x0800, &packet(b.guest.address, "spoofed both")));
        a.udp(SERVER, PORT, "honest");
        assert_eq!(server.next().1, "honest");
        a.expect("the answer", read_udp);
    });
}

#[test]
fn a_tap_without_elements_is_silent_and_falls_silent_again() {
    in_namespace(|| {
        let server = Server::start();
        let (a, b) = (Played::new("vm-a", 0), Played::new("vm-b", 1));
        admit(&[&b]);
        a.udp(SERVER, PORT, "too early");
        b.udp(SERVER, PORT, "b");
        assert_eq!(server.next().1, "b");
        admit(&[&a]);
        a.udp(SERVER, PORT, "a");
        assert_eq!(server.next().1, "a");
        assert_eq!(remove_elements(&install(), &[a.guest.key()]).unwrap(), Removal::Done);
        a.udp(SERVER, PORT, "too late");
        b.udp(SERVER, PORT, "b again");
        assert_eq!(server.next().1, "b again");
        // A device on its way out passes nothing either, whatever the elements say.
        admit(&[&a]);
        ip(&format!("link set {} group {}", a.guest.tap, LinkGroup::transient(77).number()));
        a.udp(SERVER, PORT, "leaving");
        b.udp(SERVER, PORT, "b last");
        assert_eq!(server.next().1, "b last");
    });
}

#[test]
fn guests_do_not_reach_each_other() {
    in_namespace(|| {
        let server = Server::start();
        let (a, b) = (Played::new("vm-a", 0), Played::new("vm-b", 1));
        admit(&[&a, &b]);
        a.udp(b.guest.address, PORT, "for b");
        a.ipv4(b.guest.address, 1, &icmp_echo(b"for b"));
        a.udp(SERVER, PORT, "sent");
        assert_eq!(server.next().1, "sent");
        b.udp(SERVER, PORT, "marker");
        let (from, _, text) = b.expect("the marker's answer and nothing before it", |frame| {
            assert!(frame[12..14] != [8, 0] || frame[23] == 17, "b got something that is no UDP");
            read_udp(frame)
        });
        assert_eq!((from, text.as_str()), (SERVER, "re: marker"));
    });
}

#[test]
fn a_guest_reaches_of_the_host_only_name_service_and_echo() {
    in_namespace(|| {
        let _server = Server::start();
        let a = Played::new("vm-a", 0);
        admit(&[&a]);
        let gateway = pool().gateway();
        let services: Vec<UdpSocket> =
            [53, 67, 111, 5353].map(|port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()).into_iter().collect();
        let _web = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).unwrap();
        let _names = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap();
        for port in [67, 111, 5353] {
            for to in [gateway, HOST, Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 251)] {
                a.udp(to, port, "let me in");
            }
        }
        a.udp(HOST, 53, "another address of the host");
        a.ipv4(HOST, 1, &icmp_echo(b"another address of the host"));
        a.ipv4(gateway, 6, &tcp_syn(a.guest.address, gateway, 80));
        // What is allowed, after it: the answers come in this order, and nothing between them.
        a.ipv4(gateway, 1, &icmp_echo(b"ping"));
        a.expect("the echo", |frame| {
            assert!(is_syn_ack(frame).is_none(), "the web server answered");
            is_echo_reply(frame)
        });
        a.ipv4(gateway, 6, &tcp_syn(a.guest.address, gateway, 53));
        a.expect("the name server's handshake", is_syn_ack);
        a.udp(gateway, 53, "query");
        let mut buffer = [0; 100];
        services[0].set_read_timeout(Some(PATIENCE)).unwrap();
        let (len, from) = services[0].recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from.ip()), (&b"query"[..], a.guest.address.into()));
        for closed in &services[1..] {
            closed.set_nonblocking(true).unwrap();
            assert!(closed.recv_from(&mut buffer).is_err(), "a closed port heard {}", String::from_utf8_lossy(&buffer));
        }
    });
}

#[test]
fn metadata_link_local_and_stray_addresses_of_the_pool_are_dropped() {
    in_namespace(|| {
        let server = Server::start();
        ip("route add 169.254.169.254/32 via 203.0.113.2");
        let a = Played::new("vm-a", 0);
        admit(&[&a]);
        for to in [[169, 254, 169, 254], [10, 9, 63, 9], [224, 0, 0, 251], [240, 0, 0, 1], [0, 0, 0, 1], [127, 0, 0, 1]] {
            a.udp(Ipv4Addr::from(to), PORT, "nobody should hear this");
        }
        a.udp(SERVER, PORT, "marker");
        assert_eq!(server.next().1, "marker");
    });
}

#[test]
fn the_world_reaches_a_guest_only_when_asked_and_the_host_does() {
    in_namespace(|| {
        let server = Server::start();
        let a = Played::new("vm-a", 0);
        admit(&[&a]);
        server.there.run(move || {
            ip("route add 10.9.0.0/18 via 203.0.113.1");
            UdpSocket::bind("203.0.113.2:0").unwrap().send_to(b"unasked", ("10.9.0.2", 4000)).unwrap();
        });
        let host = UdpSocket::bind("0.0.0.0:0").unwrap();
        host.set_read_timeout(Some(PATIENCE)).unwrap();
        host.send_to(b"from the host", (a.guest.address, 4000)).unwrap();
        let (from, port, text) = a.expect("the host's packet and nothing before it", read_udp);
        assert_eq!((from, text.as_str()), (pool().gateway(), "from the host"));
        a.ipv4(from, 17, &udp(4000, port, b"fine"));
        let mut buffer = [0; 10];
        assert_eq!(host.recv(&mut buffer).unwrap(), 4);
    });
}

#[test]
fn ipv6_and_foreign_arp_lead_nowhere() {
    in_namespace(|| {
        // The least favourable setting of the host: sources are hardly checked anywhere.
        std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "2").unwrap();
        let server = Server::start();
        let (a, b) = (Played::new("vm-a", 0), Played::new("vm-b", 1));
        admit(&[&a, &b]);
        let before = ip(&format!("neigh show dev {} nud all", a.guest.tap));
        // A flood of made-up neighbours, then b's address, then the host's uplink address asked for.
        for n in 2..40 {
            a.frame(&arp_request(a.guest.mac, pool().nth(n).unwrap(), pool().gateway()));
            a.frame(&arp_request(a.guest.mac, Ipv4Addr::new(8, 8, 8, u8::try_from(n).unwrap()), pool().gateway()));
        }
        a.frame(&arp_request(a.guest.mac, b.guest.address, pool().gateway()));
        a.frame(&arp_request(a.guest.mac, a.guest.address, HOST));
        a.frame(&ethernet(a.guest.mac, 0x86dd, &[0x60, 0, 0, 0, 0, 0, 58, 255]));
        a.frame(&arp_request(a.guest.mac, a.guest.address, pool().gateway()));
        let told = a.expect("the one ARP answer", |frame| is_arp_reply(frame).map(|()| frame[28..32].to_vec()));
        assert_eq!(told, pool().gateway().octets(), "the host told an address that is not the wire's");
        assert_eq!(ip(&format!("neigh show dev {} nud all", a.guest.tap)), before, "the guest wrote into the neighbour table");
        // Taking over b's address in the table of neighbours does not work by an unasked answer either.
        let mut reply = arp_request(a.guest.mac, b.guest.address, pool().gateway());
        reply[21] = 2;
        a.frame(&reply);
        b.udp(SERVER, PORT, "b");
        server.next();
        assert_eq!(b.expect("b's own answer", read_udp).2, "re: b");
        assert_eq!(ip(&format!("neigh show dev {}", a.guest.tap)), ip(&format!("neigh show dev {} nud permanent", a.guest.tap)));
    });
}

#[test]
fn an_uplink_we_opened_makes_no_router_for_others() {
    in_namespace(|| {
        let server = Server::start();
        let inner = Elsewhere::new();
        inner.wire(("in0", "198.51.100.1/24"), ("in0", "198.51.100.2/24"));
        inner.run(|| ip("route add default via 198.51.100.1"));
        let heard = inner.run(|| UdpSocket::bind("198.51.100.2:7").unwrap());
        heard.set_read_timeout(Some(PATIENCE)).unwrap();
        let probe = |text: &'static str| {
            server.there.run(move || {
                let _ = Tool::new("ip").args(["route", "replace", "198.51.100.0/24", "via", "203.0.113.1"]).run_ok();
                UdpSocket::bind("203.0.113.2:0").unwrap().send_to(text.as_bytes(), ("198.51.100.2", 7)).unwrap();
            });
        };
        let next = || {
            let mut buffer = [0; 50];
            let len = heard.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..len]).into_owned()
        };
        // Forwarding at up0 is on: without the element the host routes for strangers.
        apply(&network::base(&base())).unwrap();
        probe("open");
        assert_eq!(next(), "open");
        let up0 = ["up0".parse().unwrap()];
        apply(&network::open_uplinks(&install(), &up0)).unwrap();
        probe("closed");
        remove_elements(&install(), &[ElementKey::Opened { uplink: up0[0].clone() }]).unwrap();
        probe("open again");
        assert_eq!(next(), "open again");
    });
}

#[test]
fn elements_come_and_go_twice_and_others_stay() {
    in_namespace(|| {
        assert_eq!(nft::elements(&install()).unwrap(), None);
        assert_eq!(remove_elements(&install(), &[guest("vm-a", 0).key()]).unwrap(), Removal::NoTable);
        assert_eq!(ruleset(), "", "removing from nothing makes nothing");
        assert!(matches!(apply(&network::add(&install(), &[guest("vm-a", 0)])), Err(NftError::NoSuchObject { .. })));
        let strangers = "table inet docker { set s { type ifname; elements = { \"svtaaaaaaaaaaaa\" } }\n }\n";
        apply(strangers).unwrap();
        let before = ruleset();
        let guests: Vec<_> = (0..100).map(|n| guest(&format!("vm-{n}"), n)).collect();
        let keys: Vec<_> = guests.iter().map(network::Guest::key).collect();
        for _ in 0..2 {
            nft::check(&network::base(&base())).unwrap();
            apply(&(network::base(&base()) + &network::add(&install(), &guests))).unwrap();
        }
        apply(&network::open_uplinks(&install(), &["eth0".parse().unwrap()])).unwrap();
        let found = nft::elements(&install()).unwrap().unwrap();
        assert_eq!(found.len(), 101);
        assert!(guests.iter().all(|g| {
            found.iter().any(|e| e.key == g.key() && e.owner == ElementOwner::Sandbox(g.mark.clone()) && e.set == SetName::Sources)
        }));
        assert_eq!(found.iter().filter(|e| e.owner == ElementOwner::Install(install())).count(), 1);
        assert_eq!(nft::list_tables().unwrap(), [install()]);
        let start = std::time::Instant::now();
        for _ in 0..2 {
            assert_eq!(remove_elements(&install(), &keys[..99]).unwrap(), Removal::Done);
        }
        println!("99 elements removed twice in {:?}", start.elapsed());
        let left = nft::elements(&install()).unwrap().unwrap();
        assert_eq!(left.iter().filter(|e| e.set == SetName::Sources).map(|e| e.key.clone()).collect::<Vec<_>>(), [keys[99].clone()]);
        for _ in 0..2 {
            drop_table(&install()).unwrap();
        }
        assert!(!nft::table_exists(&install()).unwrap());
        assert_eq!(ruleset(), before);
    });
}

#[test]
fn leftovers_of_every_shape_are_met() {
    in_namespace(|| {
        let table = network::table_name(&install());
        // Elements of an earlier life of the same TAP, of nobody, of another kind, and hand-made chains.
        apply(&network::base(&base())).unwrap();
        let mut old = guest("vm-a", 0);
        old.address = pool().nth(50).unwrap();
        apply(&network::add(&install(), &[old.clone()])).unwrap();
        apply(&format!(
            "add element inet {table} sources {{ \"eth0\" . 02:00:00:00:00:09 . 10.9.0.9 }}\n\
             add element inet {table} opened {{ \"we\\\\ird\" comment \"smolvm:../..\" }}\n\
             add chain inet {table} extra {{ type filter hook forward priority -20; policy drop; }}\n"
        ))
        .unwrap();
        let found = nft::elements(&install()).unwrap().unwrap();
        let now = guest("vm-a", 0);
        let displaced = network::displaced(found.iter().map(|e| &e.key), std::slice::from_ref(&now));
        assert_eq!(displaced, [old.key()]);
        apply(&(network::remove(&install(), &displaced) + &network::add(&install(), &[now]))).unwrap();
        assert!(nft::elements(&install()).unwrap().unwrap().iter().all(|e| e.key != old.key()));
        // A set of another shape under our name: refused whole, told apart, and mended by building anew; so is a chain.
        let shapes = [
            "set sources { type ipv4_addr; }",
            "chain arriving { type filter hook input priority 3; policy accept; }",
            "chain arriving { accept; }",
            "chain from_guest { type filter hook input priority 3; policy accept; }",
        ];
        for shape in shapes {
            drop_table(&install()).unwrap();
            apply(&format!("table inet {table} {{\n{shape}\n}}\n")).unwrap();
            let met = apply(&network::base(&base()));
            assert!(matches!(met, Err(NftError::Exists { .. })), "{shape}: {met:?}");
            apply(&network::rebuild(&base(), &[guest("vm-a", 0)], &[])).unwrap();
            assert_eq!(nft::elements(&install()).unwrap().unwrap().len(), 1);
        }
        // A table without the sets: nothing in it, nothing to remove, and no error.
        drop_table(&install()).unwrap();
        apply(&format!("add table inet {table}\n")).unwrap();
        assert_eq!(remove_elements(&install(), &[guest("vm-a", 0).key()]).unwrap(), Removal::Done);
        // A name that only looks like ours is not.
        apply("add table inet smolvm_x\nadd table ip smolvm_0123456780\n").unwrap();
        assert_eq!(nft::list_tables().unwrap(), [install()]);
        apply("delete table inet smolvm_x\n").unwrap();
    });
}

#[test]
fn a_table_that_is_there_is_not_taken_for_a_new_one() {
    in_namespace(|| {
        let text = |name, number| network::base_anew(&base()) + &network::add(&install(), &[guest(name, number)]);
        apply(&text("vm-a", 0)).unwrap();
        let before = ruleset();
        let met = apply(&text("vm-b", 1));
        assert!(matches!(met, Err(NftError::Exists { .. })), "{met:?}");
        assert_eq!(ruleset(), before, "refused as a whole");
    });
}

#[test]
fn two_installations_stand_side_by_side() {
    in_namespace(|| {
        let server = Server::start();
        let a = Played::new("vm-a", 0);
        admit(&[&a]);
        let other = InstallId::from_digest([7; 32]);
        let shape = network::Base { install: other.clone(), pool: "10.20.0.0/18".parse().unwrap() };
        let mut b = guest("vm-b", 1);
        b.mark.install = other.clone();
        b.tap = smolvm_model::name::TapName::derive(&other, &b.mark.sandbox);
        b.address = shape.pool.nth(0).unwrap();
        let tap = make_tap(&tap::TapSpec { gateway: shape.pool.gateway(), ..spec(&b) }).unwrap();
        apply(&(network::base(&shape) + &network::add(&other, std::slice::from_ref(&b)))).unwrap();
        // Guests of one do not reach guests of the other, and both reach the world.
        a.udp(b.address, PORT, "across");
        a.udp(SERVER, PORT, "a");
        assert_eq!(server.next().1, "a");
        let b = Played::hold(b, tap);
        b.udp(a.guest.address, PORT, "across");
        b.udp(SERVER, PORT, "b");
        assert_eq!(server.next().1, "b");
        for (guest, text) in [(&a, "re: a"), (&b, "re: b")] {
            assert_eq!(guest.expect("its own answer and nothing before", read_udp).2, text);
        }
        // One goes; the other goes on.
        drop_table(&other).unwrap();
        delete_taps(&[(b.guest.tap.clone(), b.guest.mark.clone())]).unwrap();
        a.udp(SERVER, PORT, "still");
        assert_eq!(server.next().1, "still");
    });
}

#[test]
fn other_firewalls_are_named_with_the_commands_that_mend_them() {
    in_namespace(|| {
        assert_eq!(firewall::blockers().unwrap(), []);
        apply(&network::base(&base())).unwrap();
        apply("table ip6 filter { chain F { type filter hook forward priority 0; policy drop; }\n }\n").unwrap();
        assert_eq!(firewall::blockers().unwrap(), [], "our own table and IPv6 are no hindrance");
        let server = Server::start();
        let a = Played::new("vm-a", 0);
        admit(&[&a]);
        let foreign = "table inet mine {
            chain fwd-all { type filter hook forward priority 0; policy drop; }
            chain in-all { type filter hook input priority 0; policy accept; counter drop; }
        }\n";
        apply(foreign).unwrap();
        let names = std::net::UdpSocket::bind((pool().gateway(), 53)).unwrap();
        names.set_read_timeout(Some(PATIENCE)).unwrap();
        let found = firewall::blockers().unwrap();
        let seen: Vec<_> = found.iter().map(|b| (b.manager, b.hook, b.chain.as_str())).collect();
        assert_eq!(seen, [(Manager::Unknown, Hook::Forward, "inet mine fwd-all"), (Manager::Unknown, Hook::Input, "inet mine in-all"),]);
        // The commands, given to a shell as they stand, let the guest through.
        for blocker in &found {
            for line in &blocker.fix {
                Tool::new("sh").args(["-c", line]).run_ok().unwrap();
            }
        }
        assert_eq!(firewall::blockers().unwrap(), [], "what is mended is no longer named");
        a.udp(SERVER, PORT, "through");
        assert_eq!(server.next().1, "through");
        assert_eq!(a.expect("the answer", read_udp).2, "re: through");
        a.udp(pool().gateway(), 53, "query");
        assert_eq!(names.recv(&mut [0; 10]).unwrap(), 5);
    });
}

#[test]
fn docker_and_ufw_are_recognised() {
    in_namespace(|| {
        let chains = "table ip filter {
            chain DOCKER-USER { }
            chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }
        }\n";
        apply(chains).unwrap();
        let found = firewall::blockers().unwrap();
        assert_eq!((found.len(), found[0].manager, found[0].hook), (1, Manager::Docker, Hook::Forward));
        assert!(found[0].fix[0].ends_with("iptables -I DOCKER-USER -i svt+ -j ACCEPT"), "{:?}", found[0].fix);
        apply("add chain ip filter ufw-before-forward\nadd chain ip filter ufw-user-forward\n").unwrap();
        assert_eq!(firewall::blockers().unwrap()[0].manager, Manager::Ufw);
    });
}

#[test]
fn rights_are_proved_without_a_trace() {
    in_namespace(|| {
        let before = (ip("link"), ruleset());
        rights::can_tap().unwrap();
        assert_eq!((ip("link"), ruleset()), before);
        let unprivileged = std::thread::spawn(|| {
            drop_capabilities();
            assert!(matches!(rights::can_tap(), Err(rights::WhyNot::NoRights)));
            assert!(matches!(make_tap(&spec(&guest("vm-a", 0))), Err(tap::TapError::NoRights)));
            assert!(matches!(apply(&network::base(&base())), Err(NftError::NoRights)));
        });
        unprivileged.join().expect("a call by an ordinary user went wrong");
    });
}
