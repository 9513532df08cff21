//! Which processes a scope holds.

use std::collections::HashSet;

use super::{Bag, Reach, Scope, add};
use crate::process::{self, Process};

/// The uids hypervisors run under.
const RESERVED: std::ops::Range<u32> = 1_900_000_000..2_147_000_000;

pub(super) fn look(scope: &Scope<'_>) -> Bag {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let everybody: Vec<Process> = process::all().into_iter().filter(|process| process.pid != own).collect();
    let net = scope.netns.map(crate::Netns::identity);
    let mut held: HashSet<i32> =
        everybody.iter().filter(|p| is_held(scope, p) || net.is_some() && p.namespace("net") == net).map(|p| p.pid).collect();
    // Children of what is held, and everybody in a pid namespace one of them has to itself.
    let own_namespace = std::fs::read_link("/proc/self/ns/pid").ok().and_then(|link| link.to_str().map(str::to_owned));
    loop {
        let namespaces: HashSet<String> = everybody
            .iter()
            .filter(|p| held.contains(&p.pid))
            .filter_map(|p| p.namespace("pid"))
            .filter(|ns| Some(ns) != own_namespace.as_ref())
            .collect();
        let more: Vec<i32> = everybody
            .iter()
            .filter(|p| !held.contains(&p.pid))
            .filter(|p| held.contains(&p.parent) || p.namespace("pid").is_some_and(|ns| namespaces.contains(&ns)))
            .map(|p| p.pid)
            .collect();
        if more.is_empty() {
            break;
        }
        held.extend(more);
    }
    let mut bag = Bag::new();
    for process in everybody.iter().filter(|process| held.contains(&process.pid)) {
        // The start time makes a successor with the same pid and the same words another process.
        add(&mut bag, format!("{} (start {})", process.describe(), process.start));
    }
    bag
}

fn is_held(scope: &Scope<'_>, process: &Process) -> bool {
    let tied = scope.directories.iter().any(|directory| process.touches(directory))
        || process.argv.iter().any(|word| scope.marks.iter().any(|mark| word.contains(mark)));
    let looks_ours = || {
        process.argv.iter().any(|word| word.starts_with("smolvm:"))
            || process.exe_name().starts_with("qemu-system")
            || process.exe_name() == "smolvm"
            || RESERVED.contains(&process.uid)
    };
    tied || scope.reach == Reach::Host && looks_ours()
}
