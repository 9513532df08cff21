//! TAPs: made, made again, refused, found by mark, deleted by the hundred.
//! Each test runs in a network namespace of its own.
#![allow(clippy::unwrap_used, clippy::wildcard_imports)] // helpers of tests may panic; the support module is one vocabulary

mod net_support;

use net_support::*;
use smolvm_host::net::links::Outcome;
use smolvm_host::net::sysctl::{self, Switch};
use smolvm_host::net::tap::{self, LinkOwner, TapError};
use smolvm_host::net::{routes, uplink};
use smolvm_model::name::{InstallId, Mark, TapName};

#[test]
fn a_tap_is_made_whole_and_removed_whole() {
    in_namespace(|| {
        let before = (ip("-d link"), ip("route show table all"), ip("neigh"));
        let guest = guest("vm-a", 0);
        let fd = make_tap(&spec(&guest)).unwrap();
        let shown = ip(&format!("-d link show {}", guest.tap));
        for part in
            ["alias smolvm:0123456789:vm-a", "group 1413834633", "user 1900000000", "persist on", "02:73:6d:6f:6c:01", "vnet_hdr on"]
        {
            assert!(shown.contains(part), "no {part} in {shown}");
        }
        assert!(ip(&format!("addr show {}", guest.tap)).contains("inet 10.9.0.1/32"));
        assert!(!ip(&format!("addr show {}", guest.tap)).contains("inet6"), "a TAP speaks no IPv6");
        assert!(ip("route").contains("10.9.0.2 dev svt"));
        assert!(ip("neigh").contains("10.9.0.2 dev svt3ga4qpai77ua lladdr 02:00:00:00:00:00 PERMANENT"));
        assert_eq!(sysctl::forwarding(&(&guest.tap).into()).unwrap(), Switch::On);
        assert_eq!(sysctl::ip_forward().unwrap(), Switch::Off, "the host as a whole must not become a router");
        assert_eq!(tap::owner_of(&guest.tap).unwrap(), Some(LinkOwner::Sandbox(guest.mark.clone())));
        assert_eq!(tap::find_marked(&install()).unwrap()[0].name, guest.tap);
        assert!(routes::known().unwrap().contains(&"10.9.0.2/32".parse().unwrap()));
        drop(fd);
        assert!(tap::owner_of(&guest.tap).unwrap().is_some(), "a finished TAP outlives its maker");
        let outcome = delete_taps(&[(guest.tap.clone(), guest.mark.clone())]).unwrap();
        assert!(matches!(outcome[..], [Outcome::Released]), "{outcome:?}");
        let again = delete_taps(&[(guest.tap.clone(), guest.mark)]).unwrap();
        assert!(matches!(again[..], [Outcome::AlreadyGone]), "{again:?}");
        assert_eq!((ip("-d link"), ip("route show table all"), ip("neigh")), before);
    });
}

#[test]
fn making_twice_is_making_once_unless_it_is_in_use() {
    in_namespace(|| {
        let guest = guest("vm-a", 0);
        let held = make_tap(&spec(&guest)).unwrap();
        assert!(matches!(make_tap(&spec(&guest)), Err(TapError::InUse { .. })));
        drop(held);
        // What an earlier life left on it does not survive.
        ip(&format!("addr add 192.0.2.77/32 dev {}", guest.tap));
        make_tap(&spec(&guest)).unwrap();
        assert!(!ip("addr").contains("192.0.2.77"));
        assert_eq!(tap::find_marked(&install()).unwrap().len(), 1);
    });
}

#[test]
fn a_device_of_somebody_else_is_refused_and_stays() {
    in_namespace(|| {
        let guest = guest("vm-a", 0);
        let target = [(guest.tap.clone(), guest.mark.clone())];
        for make in ["tuntap add {} mode tap", "link add {} type bridge"] {
            for alias in [None, Some("smolvm:0123456789:vm-b"), Some("smolvm:ffffffffff:vm-a"), Some("a bridge of mine")] {
                ip(&make.replace("{}", guest.tap.as_str()));
                if let Some(alias) = alias {
                    smolvm_host::proc::tool::Tool::new("ip").args(["link", "set", guest.tap.as_str(), "alias", alias]).run_ok().unwrap();
                }
                let made = make_tap(&spec(&guest));
                assert!(matches!(made, Err(TapError::Foreign { .. })), "{make} {alias:?}: {made:?}");
                let outcome = delete_taps(&target).unwrap();
                assert!(matches!(outcome[..], [Outcome::Refused { .. }]), "{make} {alias:?}: {outcome:?}");
                ip(&format!("link del {}", guest.tap));
            }
        }
        // Our own mark on something that is no TAP proves nothing.
        ip(&format!("link add {} type bridge", guest.tap));
        ip(&format!("link set {} alias {}", guest.tap, guest.mark));
        assert!(matches!(make_tap(&spec(&guest)), Err(TapError::Foreign { .. })));
        assert!(matches!(delete_taps(&target).unwrap()[..], [Outcome::Refused { .. }]));
        assert!(tap::find_marked(&install()).unwrap().is_empty());
        ip(&format!("link del {}", guest.tap));
    });
}

#[test]
fn a_route_of_somebody_else_to_the_guests_address_is_not_replaced_and_nothing_stays() {
    in_namespace(|| {
        let guest = guest("vm-a", 0);
        ip("link add vpn type bridge");
        ip("link set vpn up");
        ip(&format!("route add {}/32 dev vpn", guest.address));
        assert!(matches!(make_tap(&spec(&guest)), Err(TapError::RouteTaken { .. })));
        assert!(ip("route").contains("dev vpn"));
        assert_eq!(tap::owner_of(&guest.tap).unwrap(), None, "an unfinished TAP vanishes with its maker");
    });
}

#[test]
fn a_hundred_are_deleted_together_and_strangers_stay() {
    in_namespace(|| {
        let targets: Vec<(TapName, Mark)> = (0..100)
            .map(|n| {
                let guest = guest(&format!("vm-{n}"), n);
                make_tap(&spec(&guest)).unwrap();
                (guest.tap, guest.mark)
            })
            .collect();
        // One is renamed away under our feet, one is another installation's, one was never there.
        let other = Mark::new(InstallId::from_digest([7; 32]), "vm-x".parse().unwrap());
        let strange = TapName::derive(&other.install, &other.sandbox);
        make_tap(&tap::TapSpec { name: strange.clone(), mark: other.clone(), ..spec(&guest("vm-200", 200)) }).unwrap();
        let mut asked = targets.clone();
        asked.push((strange.clone(), Mark::new(install(), "vm-x".parse().unwrap())));
        asked.push((TapName::derive(&install(), &"vm-never".parse().unwrap()), Mark::new(install(), "vm-never".parse().unwrap())));
        let start = std::time::Instant::now();
        let outcomes = delete_taps(&asked).unwrap();
        println!("100 TAPs deleted in {:?}", start.elapsed());
        assert!(outcomes[..100].iter().all(|o| matches!(o, Outcome::Released)), "{outcomes:?}");
        assert!(matches!(&outcomes[100], Outcome::Refused { found: LinkOwner::Sandbox(mark) } if *mark == other));
        assert!(matches!(outcomes[101], Outcome::AlreadyGone));
        assert!(tap::find_marked(&install()).unwrap().is_empty());
        assert_eq!(tap::owner_of(&strange).unwrap(), Some(LinkOwner::Sandbox(other)));
    });
}

#[test]
fn uplinks_are_found_by_routes() {
    in_namespace(|| {
        let names = || uplink::find().unwrap().names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(names().is_empty());
        let there = Elsewhere::new();
        there.wire(("up0", "203.0.113.1/24"), ("up0", "203.0.113.2/24"));
        ip("link add idle type bridge");
        let _guest = Played::new("vm-a", 0);
        assert_eq!(names(), ["up0"], "without a default route, the connected network counts, and no TAP");
        ip("link add other type bridge");
        ip("addr add 198.51.100.1/24 dev other");
        ip("link set other up");
        ip("route add default via 203.0.113.2");
        assert_eq!(names(), ["up0"]);
        ip("route del default");
        ip("route add default nexthop via 203.0.113.2 nexthop via 198.51.100.9");
        assert_eq!(names(), ["up0", "other"]);
    });
}

#[test]
fn forwarding_is_switched_per_interface() {
    in_namespace(|| {
        ip("link add up0 type bridge");
        let up0 = "up0".parse().unwrap();
        assert_eq!(sysctl::forwarding(&up0).unwrap(), Switch::Off);
        set_forwarding(&up0, Switch::On).unwrap();
        assert_eq!((sysctl::forwarding(&up0).unwrap(), sysctl::ip_forward().unwrap()), (Switch::On, Switch::Off));
        set_forwarding(&up0, Switch::Off).unwrap();
        assert_eq!(sysctl::forwarding(&up0).unwrap(), Switch::Off);
        assert!(matches!(sysctl::forwarding(&"nosuch".parse().unwrap()), Err(sysctl::SysctlError::Missing { .. })));
    });
}
