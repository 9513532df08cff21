//! What carries this installation's mark and is in no record.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use smolvm_host::engine::probe::Engine;
use smolvm_host::net::{nft, tap};
use smolvm_host::proc::identity::{self, TOKEN_AT};
use smolvm_host::proc::scan::{self, Proof};
use smolvm_host::store::Table;
use smolvm_model::ledger::{Entry, Kind, ProcessIdentity, Status};
use smolvm_model::name::{Mark, SandboxId};
use smolvm_model::network::{ElementKey, ElementOwner, table_name};
use smolvm_model::select::Scope;

use crate::installation::Smolvm;
use crate::paths::OWNER;

/// The first word of a monitor's command line, by which it is told from the hypervisor of the same start.
const MONITOR: &str = "monitor";

/// One resource without a record.
#[derive(Debug, Clone)]
pub struct Orphan {
    /// A kind of the ledger, or `nft_table`, `forwarding`, `trash`.
    pub kind: String,
    /// Which one.
    pub key: String,
    /// The mark it carries.
    pub owner: String,
    /// Whether this cleanup is to remove it.
    pub remove: bool,
    /// Whether it was removed.
    pub removed: bool,
    /// What the teardown needs, where it is a sandbox's.
    pub(super) entry: Option<Entry>,
    /// Why it is not touched although it was asked for.
    pub(super) doubt: Option<String>,
}

/// Looks for marks on the host. What cannot be looked at (no `nft`, no rights) is not there for this user.
///
/// `before` and `after` are the records around the look: what either of them knows is being made or
/// was just removed, and no orphan.
pub(super) fn find(vm: &Smolvm, scope: &Scope, seen: Seen, before: &Table, after: &Table) -> Vec<Orphan> {
    let known = names(before).chain(names(after)).collect::<BTreeSet<&str>>();
    let is_known = |id: &SandboxId| known.contains(id.as_str());
    let Seen { entries, elements, shared } = seen;
    let mut entries: Vec<(Entry, Option<String>)> = entries.into_iter().filter(|(e, _)| !is_known(&e.sandbox)).collect();
    entries.extend(elements.into_iter().filter(|e| !is_known(&e.sandbox)).map(|e| (e, None)));
    let shared = unrecorded_shared(vm, shared, after);
    let meant = |id: &SandboxId| match scope {
        Scope::All => true,
        Scope::Prefix(prefix) => prefix.matches(id),
    };
    let mut orphans: Vec<Orphan> = entries
        .into_iter()
        .map(|(entry, doubt)| Orphan {
            kind: entry.kind.to_string(),
            key: entry.identity.as_ref().map_or_else(|| entry.key.clone(), |i| i.pid.to_string()),
            owner: vm.mark(&entry.sandbox).to_string(),
            remove: meant(&entry.sandbox),
            removed: false,
            entry: Some(entry),
            doubt,
        })
        .collect();
    let all = *scope == Scope::All;
    orphans.extend(shared.into_iter().map(|(kind, key)| Orphan {
        kind,
        key,
        owner: format!("smolvm:{}", vm.install),
        remove: all,
        removed: false,
        entry: None,
        doubt: None,
    }));
    orphans
}

/// Everything that carries this installation's mark right now, recorded or not.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    entries: Vec<(Entry, Option<String>)>,
    elements: Vec<Entry>,
    shared: Vec<(String, String)>,
}

/// Looks at the host. `wanted` says for which sandboxes something of a kind is proven, where that costs more than a list.
pub(crate) fn look(vm: &Smolvm, wanted: impl Fn(Kind, &SandboxId) -> bool) -> Seen {
    let mut entries = processes(vm, |id| wanted(Kind::Process, id));
    entries.extend(taps(vm).into_iter().map(|e| (e, None)));
    for kind in [Kind::RunDir, Kind::StateDir] {
        entries.extend(dirs(vm, kind, |id| wanted(kind, id)).into_iter().map(|e| (e, None)));
    }
    let (elements, shared) = filter_objects(vm);
    Seen { entries, elements, shared }
}

/// What a look that costs next to nothing shows of sandboxes that are not `known`: directories and TAPs.
///
/// Processes and filter elements are not looked for; who has those usually has one of these, too.
pub(crate) fn glimpse(vm: &Smolvm, known: impl Fn(&SandboxId) -> bool) -> Vec<Entry> {
    let mut found = taps(vm);
    found.retain(|entry| !known(&entry.sandbox));
    for kind in [Kind::RunDir, Kind::StateDir] {
        found.extend(dirs(vm, kind, |id| !known(id)));
    }
    found
}

/// Adds to a sandbox's recorded entries what carries its mark and is not recorded as held: after a restored
/// backup the row may know nothing of a hypervisor that runs.
pub(crate) fn add_unrecorded(vm: &Smolvm, entries: &mut Vec<Entry>, ids: &BTreeSet<&SandboxId>) {
    // A directory that is recorded as held is looked at by the teardown itself; its owner need not be read twice.
    let is_dir = |e: &&Entry| matches!(e.kind, Kind::RunDir | Kind::StateDir) && e.status != Status::Reserved;
    let held: HashSet<(Kind, &str)> = entries.iter().filter(is_dir).map(|e| (e.kind, e.key.as_str())).collect();
    let Seen { entries: found, elements, .. } = look(vm, |kind, id| ids.contains(id) && !held.contains(&(kind, id.as_str())));
    drop(held);
    let mut keys: HashMap<(Kind, String), usize> = HashMap::new();
    let mut processes: HashMap<(u32, u64), usize> = HashMap::new();
    for (i, entry) in entries.iter().enumerate() {
        keys.entry((entry.kind, entry.key.clone())).or_insert(i);
        if let Some(identity) = &entry.identity {
            processes.entry((identity.pid, identity.start_ticks)).or_insert(i);
        }
    }
    let sure = found.into_iter().filter(|(_, doubt)| doubt.is_none()).map(|(e, _)| e);
    for seen in sure.chain(elements).filter(|e| ids.contains(&e.sandbox)) {
        let same = match &seen.identity {
            Some(identity) => processes.get(&(identity.pid, identity.start_ticks)),
            None => keys.get(&(seen.kind, seen.key.clone())),
        };
        match same.and_then(|i| entries.get_mut(*i)) {
            Some(recorded) if recorded.status == Status::Reserved => recorded.status = Status::Held,
            Some(_) => {}
            None => entries.push(seen),
        }
    }
}

fn names(table: &Table) -> impl Iterator<Item = &str> {
    table.sandboxes.iter().map(|r| r.id.as_str()).chain(table.broken.iter().map(|b| b.raw_id.as_str()))
}

fn orphan_entry(sandbox: SandboxId, kind: Kind, key: String, identity: Option<ProcessIdentity>) -> Entry {
    Entry { sandbox, kind, key, status: Status::Held, identity }
}

/// Hypervisors by argv, executable and an open file beneath the sandbox's directory; less than all three is a doubt.
///
/// A monitor of an earlier build has another executable than this process, so for it counts the file that nobody else
/// opens, the sandbox's monitor lock, and that it acts for the same user.
fn processes(vm: &Smolvm, wanted: impl Fn(&SandboxId) -> bool) -> Vec<(Entry, Option<String>)> {
    let executable = OnceCell::new();
    let find = || Engine::executable(vm.settings.hypervisor.as_deref());
    let is_program = |argv: &[String], exe| {
        if role(argv) == Kind::Monitor {
            argv.first().is_some_and(|word| word == "smolvm")
        } else {
            executable.get_or_init(find).as_ref().is_some_and(|id| (id.dev, id.ino) == exe)
        }
    };
    let holds = |process: &Path, mark: &Mark| {
        scan::has_open_beneath(process, &vm.paths().sandbox(&mark.sandbox))
            || scan::has_open_beneath(process, &vm.paths().run_dir(&mark.sandbox))
    };
    let found = scan::marked(vm.proc(), &vm.install, |mark| wanted(&mark.sandbox), is_program, holds).unwrap_or_default();
    found
        .into_iter()
        .map(|m| {
            let token = m.argv.get(TOKEN_AT).cloned().unwrap_or_default();
            let identity = ProcessIdentity { pid: m.pid, start_ticks: m.start_ticks, boot_id: vm.boot_id.clone(), token: token.clone() };
            let ours = match m.proof {
                Proof::Ours => role(&m.argv) != Kind::Monitor || acts_as_monitor(vm, m.pid, &m.mark.sandbox),
                Proof::Unknown => false,
            };
            let doubt = (!ours).then(|| {
                format!("process {} carries the mark, but is not proven to be a hypervisor or monitor of this installation", m.pid)
            });
            (orphan_entry(m.mark.sandbox, role(&m.argv), token, Some(identity)), doubt)
        })
        .collect()
}

/// What a marked process says it is.
fn role(argv: &[String]) -> Kind {
    if argv.get(1).is_some_and(|word| word == MONITOR) { Kind::Monitor } else { Kind::Process }
}

/// Whether a process has the sandbox's monitor lock open and runs under this user.
fn acts_as_monitor(vm: &Smolvm, pid: u32, id: &SandboxId) -> bool {
    let own_user = identity::effective_uid(vm.proc(), pid).is_ok_and(|uid| uid == Some(rustix::process::geteuid().as_raw()));
    own_user && scan::has_open_beneath(&vm.proc().join(pid.to_string()), &vm.paths().monitor_lock(id))
}

fn taps(vm: &Smolvm) -> Vec<Entry> {
    let links = tap::find_marked(&vm.install).unwrap_or_default();
    links.into_iter().map(|l| orphan_entry(l.mark.sandbox, Kind::Tap, l.name.to_string(), None)).collect()
}

/// Elements of sandboxes, and the shared parts.
fn filter_objects(vm: &Smolvm) -> (Vec<Entry>, Vec<(String, String)>) {
    // No sandbox, no TAP, no rights: `nft` is not run for a user who never had a network.
    let Ok(Some(elements)) = nft::elements(&vm.install) else { return (Vec::new(), Vec::new()) };
    let mut entries = Vec::new();
    let mut shared = vec![("nft_table".to_owned(), table_name(&vm.install))];
    for element in elements {
        match (&element.key, &element.owner) {
            (ElementKey::Opened { uplink }, _) => shared.push(("forwarding".to_owned(), uplink.to_string())),
            (ElementKey::Source { .. }, ElementOwner::Sandbox(mark)) if mark.install == vm.install => {
                entries.push(orphan_entry(mark.sandbox.clone(), Kind::NftElements, element.key.to_string(), None));
            }
            (ElementKey::Source { .. }, _) => {}
        }
    }
    (entries, shared)
}

/// The shared parts of which the ledger does not know.
fn unrecorded_shared(vm: &Smolvm, mut shared: Vec<(String, String)>, table: &Table) -> Vec<(String, String)> {
    let recorded = vm.look().ok().flatten().and_then(|s| s.shared_parts().ok()).unwrap_or_default();
    let known: BTreeMap<&str, &str> = recorded.iter().map(|p| (p.key.as_str(), p.kind.as_str())).collect();
    shared.retain(|(_, key)| !known.contains_key(key.as_str()));
    // While sandboxes with a network are on record, a start in flight may be about to record the table.
    if table.entries.iter().any(|e| e.kind == Kind::Tap && e.status != Status::Reserved) {
        shared.clear();
    }
    shared
}

fn dirs(vm: &Smolvm, kind: Kind, wanted: impl Fn(&SandboxId) -> bool) -> Vec<Entry> {
    let parent = if kind == Kind::RunDir { vm.paths().run.clone() } else { vm.paths().sandboxes() };
    let Ok(listing) = std::fs::read_dir(parent) else { return Vec::new() };
    listing
        .flatten()
        .filter_map(|entry| {
            let id: SandboxId = entry.file_name().to_str()?.parse().ok().filter(&wanted)?;
            let owner = std::fs::read_to_string(entry.path().join(OWNER)).ok()?;
            (owner.trim_end() == vm.mark(&id).to_string()).then(|| orphan_entry(id.clone(), kind, id.to_string(), None))
        })
        .collect()
}
