//! Other installations of smolvm on this host: listed, never touched.

use std::collections::{BTreeMap, BTreeSet};

use smolvm_host::net::netlink::Netlink;
use smolvm_host::net::nft;
use smolvm_host::proc::identity;
use smolvm_host::proc::scan::MARK_AT;
use smolvm_model::name::{InstallId, Mark};

use super::report::{CheckReport, count};
use super::sandboxes::some;
use crate::installation::Smolvm;

const ID: &str = "installations";

/// What one other installation has here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Holding {
    processes: usize,
    devices: usize,
    table: usize,
}

pub(super) fn look(vm: &Smolvm) -> Vec<CheckReport> {
    let mut found: BTreeMap<InstallId, Holding> = BTreeMap::new();
    for install in processes(vm) {
        found.entry(install).or_default().processes += 1;
    }
    for install in devices() {
        found.entry(install).or_default().devices += 1;
    }
    for install in nft::list_tables().unwrap_or_default() {
        found.entry(install).or_default().table += 1;
    }
    found.remove(vm.install_id());
    vec![judge(&vm.install_id().to_string(), &found)]
}

/// One per process with a mark in the place where hypervisors and monitors have it.
fn processes(vm: &Smolvm) -> Vec<InstallId> {
    let Ok(entries) = std::fs::read_dir(vm.proc()) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let args = identity::argv(vm.proc(), pid).ok()?;
            Some(args.get(MARK_AT)?.parse::<Mark>().ok()?.install)
        })
        .collect()
}

fn devices() -> Vec<InstallId> {
    let links = Netlink::open().and_then(|mut netlink| netlink.links()).unwrap_or_default();
    links.into_iter().filter_map(|link| Some(link.alias?.parse::<Mark>().ok()?.install)).collect()
}

fn judge(own: &str, others: &BTreeMap<InstallId, Holding>) -> CheckReport {
    if others.is_empty() {
        return CheckReport::pass(ID, "no other installation of smolvm has anything here", format!("this one is {own}"));
    }
    let each: Vec<String> = others
        .iter()
        .map(|(install, h)| {
            format!(
                "{install}: {}, {}, {}",
                count(h.processes, "process", "processes"),
                count(h.devices, "device", "devices"),
                count(h.table, "nftables table", "nftables tables")
            )
        })
        .collect();
    let unique: BTreeSet<&str> = each.iter().map(String::as_str).collect();
    let shown: Vec<&str> = unique.into_iter().collect();
    // Each is its own user's, or another state directory's, to clean up: nothing here is to be mended.
    CheckReport::pass(
        ID,
        format!(
            "{}, left alone by this one",
            count(others.len(), "other installation has something here", "other installations have something here")
        ),
        format!("this one is {own}; {}", some(&shown)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::CheckStatus;

    #[test]
    fn others_are_listed_and_nobody_is_told_to_remove_them() {
        let mut others = BTreeMap::new();
        assert!(judge("0123456789", &others).summary.starts_with("no other"));
        others.insert("aaaaaaaaaa".parse().unwrap(), Holding { processes: 1, devices: 2, table: 1 });
        let report = judge("0123456789", &others);
        assert_eq!((report.status, report.fix), (CheckStatus::Pass, None));
        assert!(report.evidence.contains("aaaaaaaaaa: 1 process, 2 devices, 1 nftables table"), "{}", report.evidence);
    }
}
