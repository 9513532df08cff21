//! The nftables text: one table per installation, fixed chains, sandboxes as elements.
//!
//! ```text
//!                  prerouting -300            input -10
//!   guest ─► TAP ─► who are you? ──┬─► host: only its name service and echo, else drop
//!                                  │
//!                                  │        forward -10                 postrouting 110
//!                                  └─► not to guests, not to link-local ─► masquerade ─► uplink
//!
//!   uplink ─► forward -10: to a guest only what a guest asked for
//!                          elsewhere, from an uplink smolvm opened: nothing new (the host was no router before)
//! ```
//!
//! Invariants: the table only ever drops, or accepts for itself (other tables may still drop; nothing
//! here relies on them accepting); every text is one transaction; every text but [`base_anew`] can be applied twice;
//! TAPs are known by their link group, so one without elements is silent rather than free.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::element::{ElementKey, Guest, SetName};
use super::{AddressPool, IfName, LinkGroup};
use crate::name::InstallId;

/// What the fixed part of the table depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Whose table it is.
    pub install: InstallId,
    /// The addresses of its guests.
    pub pool: AddressPool,
}

/// The name of an installation's table, in the family `inet`.
pub fn table_name(install: &InstallId) -> String {
    format!("smolvm_{install}")
}

/// Makes the table and its chains, or brings them into shape; elements that are there stay.
///
/// May be followed in the same text by [`add`] and [`open_uplinks`].
pub fn base(base: &Base) -> String {
    let table = table_name(&base.install);
    let (mask, leaving) = LinkGroup::transient_mask();
    let ours = LinkGroup::of(&base.install);
    let (pool, gateway) = (base.pool, base.pool.gateway());
    // `flush table` takes the rules and leaves the sets alone, so this is safe under running guests.
    format!(
        "add table inet {table}
flush table inet {table}
table inet {table} {{
	set sources {{ type ifname . ether_addr . ipv4_addr; }}
	set opened {{ type ifname; }}
	chain arriving {{
		type filter hook prerouting priority -300; policy accept;
		meta iifgroup & {mask:#x} == {leaving:#x} drop
		meta iifgroup {ours} jump from_guest
	}}
	chain from_guest {{
		meta nfproto != ipv4 drop
		iifname . ether saddr . ip saddr != @sources drop
	}}
	chain to_host {{
		type filter hook input priority -10; policy accept;
		meta iifgroup {ours} jump guest_to_host
	}}
	chain guest_to_host {{
		ct state established,related accept
		ip daddr {gateway} udp dport 53 accept
		ip daddr {gateway} tcp dport 53 accept
		ip daddr {gateway} icmp type echo-request accept
		drop
	}}
	chain forwarded {{
		type filter hook forward priority -10; policy accept;
		meta oifgroup & {mask:#x} == {leaving:#x} drop
		meta iifgroup {ours} jump guest_to_world
		meta oifgroup {ours} jump world_to_guest
		meta nfproto ipv4 iifname @opened jump transit
	}}
	chain guest_to_world {{
		meta oifgroup {ours} drop
		ip daddr {{ 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3, {pool} }} drop
		ct state invalid drop
		accept
	}}
	chain world_to_guest {{
		ct state established,related accept
		drop
	}}
	chain transit {{
		ct state established,related return
		ct status dnat return
		drop
	}}
	chain leaving {{
		type nat hook postrouting priority 110; policy accept;
		ip saddr {pool} oifgroup != {ours} masquerade
	}}
}}
"
    )
}

/// Makes the table unless it is there, and sees to it that it is in force.
pub fn add_table(install: &InstallId) -> String {
    format!("add table inet {}\n", table_name(install))
}

/// How many rules [`base`] makes.
pub fn rules_of(shape: &Base) -> usize {
    base(shape).lines().filter(|line| line.strip_prefix("\t\t").is_some_and(|rule| !rule.starts_with("type "))).count()
}

/// The same, refused as a whole where the table is there already: then there may be elements to look at first.
pub fn base_anew(shape: &Base) -> String {
    format!("create table inet {}\n{}", table_name(&shape.install), base(shape))
}

/// Lets guests send. The table must be there (see [`base`]); a guest that may already, may still.
pub fn add(install: &InstallId, guests: &[Guest]) -> String {
    let elements: Vec<String> = guests.iter().map(|g| format!("{} comment \"{}\"", g.key().nft(), g.mark)).collect();
    element_line("add", install, SetName::Sources, &elements)
}

/// Notes that smolvm switched forwarding on at these uplinks, which closes them for everybody else's traffic.
pub fn open_uplinks(install: &InstallId, uplinks: &[IfName]) -> String {
    let elements: Vec<String> = uplinks
        .iter()
        .map(|uplink| format!("{} comment \"smolvm:{install}\"", ElementKey::Opened { uplink: uplink.clone() }.nft()))
        .collect();
    element_line("add", install, SetName::Opened, &elements)
}

/// Removes elements, whether they are there or not. The table must be there.
pub fn remove(install: &InstallId, keys: &[ElementKey]) -> String {
    // Twice the same element in one transaction would be deleted twice, and the second fails.
    let unique: BTreeSet<&ElementKey> = keys.iter().collect();
    let mut text = String::new();
    for set in SetName::ALL {
        let elements: Vec<String> = unique.iter().filter(|key| key.set() == set).map(|key| key.nft()).collect();
        // nft 1.0.6 knows no `destroy`: adding first makes the deletion succeed in any case.
        text.push_str(&element_line("add", install, set, &elements));
        text.push_str(&element_line("delete", install, set, &elements));
    }
    text
}

/// Removes the table with everything in it, whether it is there or not.
pub fn drop_table(install: &InstallId) -> String {
    let table = table_name(install);
    format!("add table inet {table}\ndelete table inet {table}\n")
}

/// Makes the table anew with exactly these guests and uplinks, for one whose shape is not what this version makes.
pub fn rebuild(shape: &Base, guests: &[Guest], uplinks: &[IfName]) -> String {
    drop_table(&shape.install) + &base(shape) + &add(&shape.install, guests) + &open_uplinks(&shape.install, uplinks)
}

fn element_line(verb: &str, install: &InstallId, set: SetName, elements: &[String]) -> String {
    let mut text = String::new();
    if !elements.is_empty() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{verb} element inet {} {set} {{ {} }}", table_name(install), elements.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::{MacAddr, Mark, TapName};

    fn install() -> InstallId {
        "0123456789".parse().unwrap()
    }

    fn guest(name: &str, last: u8) -> Guest {
        let mark = Mark::new(install(), name.parse().unwrap());
        let tap = TapName::derive(&mark.install, &mark.sandbox);
        Guest { mark, tap, mac: MacAddr::local([0, 0, 0, 0, last]), address: std::net::Ipv4Addr::new(10, 9, 0, last) }
    }

    #[test]
    fn golden_base() {
        let shape = Base { install: install(), pool: "10.9.0.0/18".parse().unwrap() };
        assert_eq!(base(&shape), include_str!("ruleset.golden.nft"));
    }

    #[test]
    fn golden_elements() {
        let guests = [guest("vm-a", 2), guest("vm-b", 3)];
        assert_eq!(
            add(&install(), &guests),
            "add element inet smolvm_0123456789 sources { \
             \"svt3ga4qpai77ua\" . 02:00:00:00:00:02 . 10.9.0.2 comment \"smolvm:0123456789:vm-a\", \
             \"svtoua4qpaiaava\" . 02:00:00:00:00:03 . 10.9.0.3 comment \"smolvm:0123456789:vm-b\" }\n"
        );
        assert_eq!(
            open_uplinks(&install(), &["eth0".parse().unwrap()]),
            "add element inet smolvm_0123456789 opened { \"eth0\" comment \"smolvm:0123456789\" }\n"
        );
        let keys = [guests[0].key(), ElementKey::Opened { uplink: "eth0".parse().unwrap() }, guests[0].key()];
        assert_eq!(
            remove(&install(), &keys),
            "add element inet smolvm_0123456789 sources { \"svt3ga4qpai77ua\" . 02:00:00:00:00:02 . 10.9.0.2 }\n\
             delete element inet smolvm_0123456789 sources { \"svt3ga4qpai77ua\" . 02:00:00:00:00:02 . 10.9.0.2 }\n\
             add element inet smolvm_0123456789 opened { \"eth0\" }\n\
             delete element inet smolvm_0123456789 opened { \"eth0\" }\n"
        );
    }

    #[test]
    fn nothing_to_do_is_no_text() {
        assert_eq!(add(&install(), &[]) + &remove(&install(), &[]) + &open_uplinks(&install(), &[]), "");
    }
}
