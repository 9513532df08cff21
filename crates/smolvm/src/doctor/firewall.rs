//! Who else drops packets of guests.

use smolvm_host::net::firewall::{self, Blocker, Hook, Manager};
use smolvm_host::net::nft::NftError;

use super::report::{CheckReport, chain};
use crate::installation::{Smolvm, is_root};

const ID: &str = "firewall";

pub(super) fn look(_vm: &Smolvm) -> Vec<CheckReport> {
    vec![judge(&firewall::blockers(), is_root())]
}

fn judge(found: &Result<Vec<Blocker>, NftError>, root: bool) -> CheckReport {
    match found {
        Ok(blockers) if blockers.is_empty() => CheckReport::pass(ID, "no other firewall drops packets of guests", ""),
        Ok(blockers) => {
            let each: Vec<String> =
                blockers.iter().map(|b| format!("{} ({}) drops {}", b.chain, owner(b.manager), dropped(b.hook))).collect();
            let fixes: Vec<&str> = blockers.iter().flat_map(|b| b.fix.iter().map(String::as_str)).collect();
            let mut once: Vec<&str> = Vec::new();
            for fix in fixes {
                if !once.contains(&fix) {
                    once.push(fix);
                }
            }
            let mut owners: Vec<&str> = blockers.iter().map(|b| owner(b.manager)).collect();
            owners.dedup();
            CheckReport::warn(ID, format!("packets of guests are dropped by {}", owners.join(", ")), each.join("; "))
                .mended_by(once.join("; "))
        }
        Err(NftError::Missing | NftError::NoRights) if !root => {
            CheckReport::pass(ID, "not used without root: the network of mode user passes no firewall's forward hook", "")
        }
        // The check of nft itself says how to mend these.
        Err(e @ (NftError::Missing | NftError::NoRights)) => {
            CheckReport::warn(ID, "other firewalls cannot be looked at", chain(e)).mended_by("smolvm doctor   see the check nft")
        }
        Err(e) => CheckReport::warn(ID, "other firewalls cannot be looked at", chain(e)).mended_by("nft list ruleset   shows what it says"),
    }
}

fn owner(manager: Manager) -> &'static str {
    match manager {
        Manager::Docker => "Docker",
        Manager::Ufw => "ufw",
        Manager::Firewalld => "firewalld",
        Manager::Unknown => "a chain of the administrator's",
    }
}

fn dropped(hook: Hook) -> &'static str {
    match hook {
        Hook::Forward => "what guests send to the world",
        Hook::Input => "what guests ask the name service",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::CheckStatus;

    #[test]
    fn each_blocker_is_named_with_its_exact_commands_once() {
        let blocker =
            |hook, fix: &str| Blocker { manager: Manager::Ufw, hook, chain: "ip filter FORWARD".to_owned(), fix: vec![fix.to_owned()] };
        let report = judge(&Ok(vec![blocker(Hook::Forward, "do a"), blocker(Hook::Input, "do b"), blocker(Hook::Input, "do b")]), true);
        assert_eq!((report.status, report.fix.as_deref()), (CheckStatus::Warn, Some("do a; do b")));
        assert_eq!(report.summary, "packets of guests are dropped by ufw");
        assert_eq!(judge(&Ok(Vec::new()), true).status, CheckStatus::Pass);
        assert_eq!(judge(&Err(NftError::NoRights), false).status, CheckStatus::Pass);
        assert_eq!(judge(&Err(NftError::Missing), true).status, CheckStatus::Warn);
    }
}
