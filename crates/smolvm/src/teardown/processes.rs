//! Ends hypervisors and monitors, all together, under one deadline.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::process::{Signal, geteuid, pidfd_send_signal};
use smolvm_host::effect::{Permit, perform};
use smolvm_host::proc::identity::{self, Presence, TOKEN_AT};
use smolvm_host::proc::kill;
use smolvm_host::proc::scan::MARK_AT;
use smolvm_model::effect::Effect;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::{Entry, Kind, ProcessIdentity};
use smolvm_model::name::Mark;
use smolvm_model::teardown::Outcome;

use super::effects::{HostEffects, Patience, Sight};
use crate::observe::Pids;

/// After SIGKILL a process has only kernel work left; one that takes longer sits in uninterruptible sleep.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// The processes an entry means, or why that cannot be found out.
pub(super) type Meant = Result<Vec<ProcessIdentity>, String>;

impl HostEffects<'_> {
    /// Asks the hypervisors on record to end, so that they do while the caller looks for what is not on record. It is
    /// a courtesy and nobody waits: the plan asks again, waits, kills, and says what it could not do.
    pub(crate) fn ask_to_end(&mut self, entries: &[Entry]) {
        let hypervisors = || entries.iter().filter(|e| e.kind == Kind::Process);
        let pids = Pids::for_records(self.vm, hypervisors().count());
        let (mut handles, mut whose): (Vec<OwnedFd>, Vec<(u32, u64)>) = (Vec::new(), Vec::new());
        for (entry, identity) in hypervisors().filter_map(|e| Some((e, e.identity.as_ref()?))).filter(|(_, i)| pids.may_live(i.pid)) {
            if let Target::Alive(handle) = self.target(entry, identity) {
                handles.push(handle);
                whose.push((identity.pid, identity.start_ticks));
            }
        }
        let ask = |_: &Permit| {
            ask_all(&handles);
            Ok::<_, std::io::Error>(())
        };
        if !handles.is_empty() && perform(Effect::AskHypervisors, ask).is_ok() {
            self.asked.extend(whose);
        }
    }

    /// Ends what the entries mean. What nobody wrote down is looked for until there is nothing: one of them may have been starting another.
    pub(super) fn end_processes(&self, entries: &[&Entry]) -> Vec<Outcome> {
        let mut outcomes = self.end_those_there(entries);
        let until = Instant::now() + AFTER_KILL;
        let was_there = |i: &usize| entries[*i].is_unrecorded();
        let mut again: Vec<usize> = (0..entries.len()).filter(was_there).filter(|i| outcomes[*i] == Outcome::Released).collect();
        while !again.is_empty() && Instant::now() < until {
            let found = self.end_those_there(&again.iter().map(|i| entries[*i]).collect::<Vec<_>>());
            let mut more = Vec::new();
            for (i, outcome) in again.into_iter().zip(found) {
                match outcome {
                    Outcome::AlreadyGone => {}
                    Outcome::Released => more.push(i),
                    Outcome::Refused { .. } | Outcome::Failed { .. } | Outcome::Skipped { .. } => outcomes[i] = outcome,
                }
            }
            again = more;
        }
        for i in again {
            outcomes[i] = Outcome::Failed { code: ErrorCode::Timeout, message: "its processes start others as they end".to_owned() };
        }
        outcomes
    }

    /// Asks, waits, kills, waits. Each pid is opened first and proven after, so that the handle is the proof's subject.
    fn end_those_there(&self, entries: &[&Entry]) -> Vec<Outcome> {
        let mut outcomes = vec![Outcome::AlreadyGone; entries.len()];
        let (mut targets, mut handles): (Vec<usize>, Vec<OwnedFd>) = (Vec::new(), Vec::new());
        for ((i, entry), meant) in entries.iter().enumerate().zip(self.processes_of(entries)) {
            let unprovable = |message| Outcome::Failed { code: ErrorCode::Refused, message };
            match meant {
                Err(evidence) => outcomes[i] = unprovable(evidence),
                Ok(identities) => {
                    for identity in &identities {
                        match self.target(entry, identity) {
                            Target::Gone if outcomes[i].is_settled() && self.asked.contains(&(identity.pid, identity.start_ticks)) => {
                                outcomes[i] = Outcome::Released;
                            }
                            Target::Gone => {}
                            Target::Unprovable(evidence) => outcomes[i] = unprovable(evidence),
                            Target::Alive(handle) => {
                                targets.push(i);
                                handles.push(handle);
                            }
                        }
                    }
                }
            }
        }
        let ended = end_all(&handles, self.grace(entries));
        for (i, ended) in targets.into_iter().zip(ended) {
            let late = || Outcome::Failed {
                code: ErrorCode::Timeout,
                message: format!(
                    "the process did not end within {} s of SIGKILL; it may be in uninterruptible sleep",
                    AFTER_KILL.as_secs()
                ),
            };
            match ended {
                // One of several that ended does not hide another that did not.
                Ok(true) if outcomes[i].is_settled() => outcomes[i] = Outcome::Released,
                Ok(true) => {}
                Ok(false) => outcomes[i] = late(),
                Err(message) => outcomes[i] = Outcome::Failed { code: ErrorCode::PermissionDenied, message },
            }
        }
        outcomes
    }

    /// How long they may take before SIGKILL. QEMU answers SIGTERM within some 20 ms by flushing and ending;
    /// a monitor ends by itself once its hypervisor is gone.
    fn grace(&self, entries: &[&Entry]) -> Duration {
        let kind = entries.first().map(|e| e.kind);
        match (self.patience, kind) {
            (Patience::Orderly, _) => Duration::from_secs(2),
            (Patience::Short, Some(Kind::Monitor)) => Duration::ZERO,
            (Patience::Short, _) => Duration::from_millis(300),
        }
    }

    fn target(&self, entry: &Entry, identity: &ProcessIdentity) -> Target {
        if identity.pid == self.own_pid {
            // A monitor that takes its own sandbox down ends right after this.
            return Target::Gone;
        }
        let handle = match kill::open(identity.pid) {
            Ok(None) => return Target::Gone,
            Ok(Some(handle)) => handle,
            Err(e) => return Target::Unprovable(format!("pid {} cannot be looked at: {e}", identity.pid)),
        };
        match self.vm.presence(&entry.sandbox, identity) {
            Presence::Alive => Target::Alive(handle),
            Presence::Gone | Presence::Recycled => Target::Gone,
            Presence::Unknown { evidence } => Target::Unprovable(format!("whose process it is cannot be proven: {evidence}")),
        }
    }

    /// The processes each entry means. One whose start was intended and never recorded is found by mark and token.
    pub(super) fn processes_of(&self, entries: &[&Entry]) -> Vec<Meant> {
        let running = if entries.iter().any(|e| e.is_unrecorded()) { self.marked() } else { Ok(Vec::new()) };
        entries
            .iter()
            .map(|entry| match &entry.identity {
                Some(identity) => Ok(vec![identity.clone()]),
                None if entry.is_unrecorded() => running.as_ref().map_err(Clone::clone).and_then(|running| self.unrecorded(entry, running)),
                None => Ok(Vec::new()),
            })
            .collect()
    }

    /// Every process with a mark of this installation and a token at their places.
    fn marked(&self) -> Result<Vec<Marked>, String> {
        let proc = self.vm.proc();
        let dir = std::fs::read_dir(proc).map_err(|e| format!("the list of processes cannot be read: {e}"))?;
        let pids = dir.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
        let mut found = Vec::new();
        for pid in pids.filter(|pid| *pid != self.own_pid) {
            // One that ends meanwhile is no finding.
            let Ok(mut argv) = identity::argv(proc, pid) else { continue };
            let Some(mark) = argv.get(MARK_AT).and_then(|a| a.parse::<Mark>().ok()).filter(|m| m.install == self.vm.install) else {
                continue;
            };
            if argv.len() <= TOKEN_AT {
                continue;
            }
            found.push(Marked { pid, mark, token: argv.swap_remove(TOKEN_AT) });
        }
        Ok(found)
    }

    /// All that carry mark and token and act under a uid of ours: any number may copy an argv, and none hides another.
    ///
    /// Whether it is the monitor or the hypervisor of that start makes no difference. What a monitor has just cloned has the monitor's words until it
    /// is the hypervisor; and a hypervisor that its monitor's end has killed has none at all, before it has let go of anything. So they are
    /// found together, and waited for by handles that were opened while both were there.
    fn unrecorded(&self, entry: &Entry, running: &[Marked]) -> Meant {
        let mark = self.vm.mark(&entry.sandbox);
        let named: Vec<&Marked> = running.iter().filter(|m| m.token == entry.key && m.mark == mark).collect();
        if named.is_empty() {
            return Ok(Vec::new());
        }
        let uids = self.own_uids(entry)?;
        let mut meant = Vec::new();
        for Marked { pid, .. } in named {
            let unknown = |e: std::io::Error| format!("whose process {pid} is cannot be proven: {e}");
            let Some(uid) = identity::effective_uid(self.vm.proc(), *pid).map_err(unknown)? else { continue };
            let Some(seen) = identity::look(self.vm.proc(), *pid).map_err(unknown)? else { continue };
            if uids.contains(&uid) {
                meant.push(ProcessIdentity {
                    pid: *pid,
                    start_ticks: seen.start_ticks,
                    boot_id: self.vm.boot_id.clone(),
                    token: entry.key.clone(),
                });
            }
        }
        Ok(meant)
    }

    /// The uids under which a sandbox's processes run: this user's, and the one that is reserved for its hypervisor.
    fn own_uids(&self, entry: &Entry) -> Result<Vec<u32>, String> {
        let unknown = |e: crate::error::Error| format!("its hypervisor's uid cannot be read: {}", e.one_line());
        Ok([vec![geteuid().as_raw()], self.vm.reserved_uids(&entry.sandbox).map_err(unknown)?].concat())
    }

    /// Which of the processes an entry means is still there.
    pub(super) fn process_still_there(&self, entry: &Entry, meant: &Meant, pids: &Pids) -> Sight {
        let identities = match meant {
            Ok(identities) => identities,
            Err(evidence) => return Sight::Unseen { code: ErrorCode::Refused, message: evidence.clone() },
        };
        for identity in identities.iter().filter(|i| i.pid != self.own_pid && pids.may_live(i.pid)) {
            match self.vm.presence(&entry.sandbox, identity) {
                Presence::Alive => return Sight::There(format!("process {}", identity.pid)),
                Presence::Gone | Presence::Recycled => {}
                Presence::Unknown { evidence } => return Sight::There(format!("process {} ({evidence})", identity.pid)),
            }
        }
        Sight::Gone
    }
}

/// A running process with a mark of ours.
struct Marked {
    pid: u32,
    mark: Mark,
    token: String,
}

enum Target {
    Gone,
    Alive(OwnedFd),
    Unprovable(String),
}

fn ask_all(handles: &[OwnedFd]) {
    for handle in handles {
        // What asking cannot do, SIGKILL does or reports.
        let _ = pidfd_send_signal(handle, Signal::TERM);
    }
}

fn end_all(handles: &[OwnedFd], grace: Duration) -> Vec<Result<bool, String>> {
    if handles.is_empty() {
        return Vec::new();
    }
    if !grace.is_zero() {
        ask_all(handles);
    }
    let gone = kill::wait_all(handles, grace).unwrap_or_else(|_| vec![false; handles.len()]);
    let killed: Vec<Result<(), String>> =
        handles.iter().zip(&gone).map(|(h, gone)| if *gone { Ok(()) } else { kill::kill(h).map_err(|e| e.to_string()) }).collect();
    let ended = kill::wait_all(handles, AFTER_KILL);
    killed.into_iter().enumerate().map(|(i, sent)| sent.and_then(|()| ended.as_ref().map(|e| e[i]).map_err(ToString::to_string))).collect()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test starts processes of its own, which hang")]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use smolvm_host::store::NewSandbox;
    use smolvm_model::effect::Commit;
    use smolvm_model::ledger::Status;
    use smolvm_model::name::SandboxId;
    use smolvm_model::spec::NetworkMode;

    use super::*;
    use crate::installation::{Settings, Smolvm};
    use crate::paths::Paths;

    const TOKEN: &str = "11111111-1111-4111-8111-111111111111";
    const NOBODY: u32 = 65534;

    /// A process with words of our kind, ended with the test.
    struct Marked(Child);

    impl Marked {
        fn spawn(mark: &Mark, token: &str, uid: u32) -> Self {
            let mut command = Command::new("/bin/sh");
            command.args(["-s", &mark.to_string(), "-", token]).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).uid(uid);
            Self(command.spawn().unwrap())
        }

        fn lives(&mut self) -> bool {
            self.0.try_wait().unwrap().is_none()
        }
    }

    impl Drop for Marked {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn unrecorded(kind: Kind) -> Entry {
        Entry { sandbox: "vm-a".parse().unwrap(), kind, key: TOKEN.to_owned(), status: Status::Intended, identity: None }
    }

    /// Run as root, like all tests with processes of two users.
    #[test]
    fn no_decoy_hides_or_joins_what_was_never_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let vm = Smolvm::open(Settings::new(Paths::beneath(dir.path()))).unwrap();
        let entry = unrecorded(Kind::Process);
        let (mine, other) = (vm.mark(&entry.sandbox), vm.mark(&"vm-b".parse().unwrap()));
        let root = geteuid().as_raw();
        let mut decoys = [
            Marked::spawn(&other, TOKEN, root),
            Marked::spawn(&mine, "22222222-2222-4222-8222-222222222222", root),
            Marked::spawn(&mine, TOKEN, NOBODY),
        ];
        let mut ours = [Marked::spawn(&mine, TOKEN, root), Marked::spawn(&mine, TOKEN, root)];
        let effects = HostEffects::new(&vm, Patience::Short);
        assert!(matches!(effects.look_again(&[&entry])[..], [Sight::There(_)]));
        assert_eq!(effects.end_processes(&[&entry]), [Outcome::Released]);
        assert_eq!(effects.look_again(&[&entry]), [Sight::Gone]);
        assert!(ours.iter_mut().all(|p| !p.lives()), "one of two was passed over");
        assert!(decoys.iter_mut().all(Marked::lives), "somebody else's process was ended");
        assert_eq!(effects.end_processes(&[&entry]), [Outcome::AlreadyGone]);
        // A name that was only ever reserved means no process at all.
        assert_eq!(effects.end_processes(&[&Entry { status: Status::Reserved, ..entry }]), [Outcome::AlreadyGone]);
    }

    /// As a monitor does that is about to start its hypervisor. Run as root.
    #[test]
    fn what_was_never_recorded_is_looked_for_until_there_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let vm = Smolvm::open(Settings::new(Paths::beneath(dir.path()))).unwrap();
        let monitor = unrecorded(Kind::Monitor);
        let mark = vm.mark(&monitor.sandbox);
        let root = geteuid().as_raw();
        let mut first = Marked::spawn(&mark, TOKEN, root);
        // It has one besides already, and begins another as it ends; both wait for what comes from this test, and end with it.
        let again = format!("/bin/sh -s {mark} - {TOKEN} <&3 &");
        let script =
            format!("exec 3<&0 <<END\ntrap '{again} echo began; exit' TERM\n{again}\necho ready\nwhile :; do sleep 0.01; done\nEND\n");
        first.0.stdin.as_ref().unwrap().write_all(script.as_bytes()).unwrap();
        let mut said = BufReader::new(first.0.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let effects = HostEffects::new(&vm, Patience::Orderly);
        assert_eq!(effects.end_processes(&[&monitor]), [Outcome::Released]);
        assert_eq!(effects.look_again(&[&monitor]), [Sight::Gone]);
        assert!(!first.lives());
        // Whoever had a part in it has ended, so there is an end to what they say.
        line.clear();
        said.read_to_string(&mut line).unwrap();
        assert_eq!(line, "began\n");
        // What is left is a hypervisor that nobody wrote down: there is none.
        assert_eq!(effects.end_processes(&[&Entry { kind: Kind::Process, ..monitor }]), [Outcome::AlreadyGone]);
    }

    /// What a hypervisor could do that a guest has broken out into: its words are its own memory. Run as root.
    #[test]
    fn who_overwrites_its_words_is_ended_by_its_uid_and_never_taken_for_gone() {
        const UID: u32 = 1_987_600_001;
        let dir = tempfile::tempdir().unwrap();
        let vm = Smolvm::open(Settings::new(Paths::beneath(dir.path()))).unwrap();
        let id: SandboxId = "vm-a".parse().unwrap();
        let mut store = vm.store().unwrap();
        let spec = crate::testing::spec(NetworkMode::None);
        let entry = |kind, key: &str, identity| Entry { sandbox: id.clone(), kind, key: key.to_owned(), status: Status::Held, identity };
        store
            .write(Commit::Create, |w| {
                w.insert_sandbox(&NewSandbox { id: &id, spec: &spec, created_ms: 0, expires_ms: None })?;
                w.insert_entry(&entry(Kind::Uid, &UID.to_string(), None))
            })
            .unwrap();
        let other = "22222222-2222-4222-8222-222222222222";
        let recorded = |process: &Marked, ticks_off: u64| {
            let pid = process.0.id();
            let seen = identity::look(vm.proc(), pid).unwrap().unwrap();
            let start_ticks = seen.start_ticks + ticks_off;
            let identity = ProcessIdentity { pid, start_ticks, boot_id: vm.boot_id.clone(), token: TOKEN.to_owned() };
            entry(Kind::Process, TOKEN, Some(identity))
        };
        let effects = HostEffects::new(&vm, Patience::Short);
        // Under the sandbox's own uid it can only be its own.
        let mut escaped = Marked::spawn(&vm.mark(&id), other, UID);
        let known = recorded(&escaped, 0);
        assert!(matches!(effects.look_again(&[&known])[..], [Sight::There(_)]), "it was proven to be gone");
        assert_eq!(effects.end_processes(&[&known]), [Outcome::Released]);
        assert!(!escaped.lives());
        assert_eq!(effects.look_again(&[&known]), [Sight::Gone]);
        // Under any other it is a stranger that got the number within the same tick: not killed, and not in anybody's way.
        let mut unclear = Marked::spawn(&vm.mark(&id), other, NOBODY);
        let known = recorded(&unclear, 0);
        assert_eq!(effects.end_processes(&[&known]), [Outcome::AlreadyGone]);
        assert_eq!(effects.look_again(&[&known]), [Sight::Gone]);
        // And one that got the number of another is a stranger, whoever it runs as.
        let mut stranger = Marked::spawn(&vm.mark(&id), TOKEN, UID);
        assert_eq!(effects.end_processes(&[&recorded(&stranger, 1)]), [Outcome::AlreadyGone]);
        assert!(unclear.lives() && stranger.lives());
    }
}
