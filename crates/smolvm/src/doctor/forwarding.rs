//! Can packets of guests be sent on, and what would smolvm switch for that?

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use smolvm_host::net::sysctl::{self, Switch};
use smolvm_host::net::uplink;

use super::report::{CheckReport, chain};
use crate::installation::{Smolvm, is_root};

const ID: &str = "forwarding";

/// What the host does with packets that are not for itself.
#[derive(Debug, Default)]
struct Facts {
    root: bool,
    whole_host: bool,
    uplinks: Vec<Uplink>,
    /// Interfaces whose names smolvm does not put into rules.
    unusable: Vec<String>,
    trouble: Option<String>,
}

#[derive(Debug)]
struct Uplink {
    name: String,
    on: bool,
    /// Whether the switch could be thrown by this user.
    can_switch: bool,
}

pub(super) fn look(_vm: &Smolvm) -> Vec<CheckReport> {
    let mut facts = Facts { root: is_root(), whole_host: matches!(sysctl::ip_forward(), Ok(Switch::On)), ..Facts::default() };
    match uplink::find() {
        Ok(found) => {
            facts.unusable = found.unusable;
            for name in found.names {
                match sysctl::forwarding(&name) {
                    Ok(switch) => facts.uplinks.push(Uplink {
                        on: switch == Switch::On,
                        can_switch: access(switch_of(name.as_str()), Access::WRITE_OK).is_ok(),
                        name: name.to_string(),
                    }),
                    Err(e) => facts.trouble = Some(chain(&e)),
                }
            }
        }
        Err(e) => facts.trouble = Some(chain(&e)),
    }
    vec![judge(&facts)]
}

fn switch_of(interface: &str) -> PathBuf {
    Path::new("/proc/sys/net/ipv4/conf").join(interface).join("forwarding")
}

fn judge(facts: &Facts) -> CheckReport {
    let each = |uplink: &Uplink| format!("{}.forwarding={}", uplink.name, u8::from(uplink.on));
    let seen: Vec<String> = facts.uplinks.iter().map(each).collect();
    let evidence =
        format!("ip_forward={}; {}", u8::from(facts.whole_host), if seen.is_empty() { "no uplink".to_owned() } else { seen.join(" ") });
    if !facts.root {
        return CheckReport::pass(ID, "not used without root: the network of mode user forwards nothing", evidence);
    }
    if let Some(trouble) = &facts.trouble {
        return CheckReport::fail(ID, "the host's uplinks cannot be found out", trouble).mended_by("ip route; ls /proc/sys/net/ipv4/conf");
    }
    if facts.uplinks.is_empty() {
        let report = CheckReport::warn(ID, "no way out of this host: guests reach nothing beyond it", evidence);
        return match facts.unusable.first() {
            Some(name) => CheckReport { evidence: format!("the interface {name:?} has a name that cannot stand in rules"), ..report }
                .mended_by("ip link set dev NAME name eth0   gives it one that can"),
            None => report.mended_by("ip route add default via GATEWAY"),
        };
    }
    let off: Vec<&Uplink> = facts.uplinks.iter().filter(|uplink| !uplink.on).collect();
    if let Some(locked) = off.iter().find(|uplink| !uplink.can_switch) {
        return CheckReport::fail(ID, format!("forwarding on {} is off and cannot be switched on", locked.name), evidence)
            .mended_by("mount -o remount,rw /proc/sys   (or run it where /proc/sys can be written)");
    }
    if off.is_empty() {
        return CheckReport::pass(ID, "packets are forwarded; smolvm switches nothing", evidence);
    }
    let names: Vec<&str> = off.iter().map(|uplink| uplink.name.as_str()).collect();
    CheckReport::pass(
        ID,
        format!("smolvm switches forwarding on for {} while a sandbox has a network, and back", names.join(", ")),
        evidence,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::CheckStatus;

    fn uplink(on: bool, can_switch: bool) -> Uplink {
        Uplink { name: "eth0".to_owned(), on, can_switch }
    }

    #[test]
    fn what_smolvm_would_switch_is_said_before() {
        let root = |uplinks| Facts { root: true, uplinks, ..Facts::default() };
        let on = judge(&root(vec![uplink(true, true)]));
        assert_eq!((on.status, on.summary.contains("switches nothing")), (CheckStatus::Pass, true));
        let off = judge(&root(vec![uplink(false, true)]));
        assert_eq!((off.status, off.summary.contains("switches forwarding on for eth0")), (CheckStatus::Pass, true));
        let locked = judge(&root(vec![uplink(false, false)]));
        assert_eq!((locked.status, locked.fix.is_some()), (CheckStatus::Fail, true));
        let none = judge(&root(Vec::new()));
        assert_eq!((none.status, none.fix.unwrap().contains("ip route add")), (CheckStatus::Warn, true));
        let odd = judge(&Facts { unusable: vec!["we\"ird".to_owned()], ..root(Vec::new()) });
        assert!(odd.evidence.contains("we\\\"ird"), "{}", odd.evidence);
        assert_eq!(judge(&Facts::default()).status, CheckStatus::Pass);
    }
}
