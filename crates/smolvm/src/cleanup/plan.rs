//! What `cleanup` would do, found by looking only.

use std::collections::{BTreeSet, HashMap, HashSet};

use smolvm_host::store::{SandboxRecord, Store, Table};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::{Entry, Kind};
use smolvm_model::name::SandboxId;
use smolvm_model::select::{Candidate, Expiry, Scope, Selection, Why, select};
use smolvm_model::state::{State, Verdict};
use smolvm_model::teardown::{Plan, Reason, may_exist};

use super::orphans::{self, Orphan};
use crate::clock::now_ms;
use crate::error::Error;
use crate::installation::Smolvm;
use crate::list::by_sandbox;
use crate::observe::{Looker, Pids, process_of};

/// Everything `cleanup` found. It is what the user is shown, and exactly what [`Smolvm::cleanup_apply`] does.
#[derive(Debug, Clone)]
pub struct CleanupPlan {
    /// What was asked for.
    pub scope: Scope,
    /// Every sandbox that is stale at this look.
    pub reconciled_stale: Vec<SandboxId>,
    /// What is to be removed, sorted by id.
    pub targets: Vec<Target>,
    /// What cannot be judged, or is no valid sandbox.
    pub failed: Vec<Failed>,
    /// What is on the host and in no record.
    pub orphans: Vec<Orphan>,
    /// The steps in order.
    pub steps: Vec<StepView>,
}

/// One sandbox to be removed.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its id.
    pub id: SandboxId,
    /// Its recorded state.
    pub state: State,
    /// Why it is a target.
    pub why: Why,
    /// Whether its guest runs right now.
    pub running: bool,
    /// Creation, milliseconds since 1970 UTC.
    pub created_ms: i64,
    /// What it holds on the host, for people.
    pub holds: Vec<String>,
    pub(super) generation: i64,
}

/// One sandbox that is not, or cannot be, cleaned.
#[derive(Debug, Clone)]
pub struct Failed {
    /// Its id as recorded; may be no valid id.
    pub id: String,
    /// What happened.
    pub error: String,
    /// Stable code.
    pub code: ErrorCode,
    /// The step that failed.
    pub step: Option<String>,
    /// What to do next.
    pub recovery: Option<String>,
}

/// One step of a plan or a report.
#[derive(Debug, Clone)]
pub struct StepView {
    /// The sandbox.
    pub id: String,
    /// What is removed.
    pub kind: &'static str,
    /// Which one.
    pub key: String,
    /// `planned`, or what became of it.
    pub outcome: &'static str,
}

impl Smolvm {
    /// Looks at records and host. Changes nothing, not even the ledger.
    pub fn cleanup_plan(&self, scope: &Scope) -> Result<CleanupPlan, Error> {
        let store = self.look()?;
        let read = || store.as_ref().map_or_else(|| Ok(Table::default()), Store::table);
        let before = read()?;
        let known: HashSet<&str> = before.sandboxes.iter().map(|r| r.id.as_str()).collect();
        let seen = orphans::look(self, |_, id| !known.contains(id.as_str()));
        let table = read()?;
        let grouped = by_sandbox(&table);
        let mut plan = CleanupPlan {
            scope: scope.clone(),
            reconciled_stale: Vec::new(),
            targets: Vec::new(),
            failed: Vec::new(),
            orphans: orphans::find(self, scope, seen, &before, &table),
            steps: Vec::new(),
        };
        let looks: Vec<Look<'_>> =
            table.sandboxes.iter().map(|record| (record, grouped.get(record.id.as_str()).copied().unwrap_or_default())).collect();
        self.consider(&mut plan, store.as_ref(), &looks);
        let mut told = BTreeSet::new();
        // A broken row and the entries under it are one trouble.
        for row in table.broken.iter().filter(|row| broken_is_meant(scope, &row.raw_id) && told.insert(row.raw_id.as_str())) {
            plan.failed.push(Failed {
                id: row.raw_id.chars().take(100).collect(),
                error: format!("this row of the ledger is no valid sandbox: {}", row.problem),
                code: ErrorCode::StateCorrupt,
                step: None,
                recovery: Some("smolvm doctor --fix   drops the row and touches no file".to_owned()),
            });
        }
        plan.targets.sort_by(|a, b| a.id.cmp(&b.id));
        plan.reconciled_stale.sort();
        let entries: Vec<Entry> =
            plan.targets.iter().flat_map(|t| grouped.get(t.id.as_str()).copied().unwrap_or_default()).cloned().collect();
        plan.steps = Plan::teardown(&entries, Reason::Delete)
            .steps()
            .map(|s| StepView {
                id: s.entry.sandbox.to_string(),
                kind: s.entry.kind.as_str(),
                key: s.entry.key.clone(),
                outcome: "planned",
            })
            .collect();
        Ok(plan)
    }

    /// Judges all, with a second look at the rows where somebody may have finished between the look at one and at its lock.
    fn consider(&self, plan: &mut CleanupPlan, store: Option<&Store>, looks: &[Look<'_>]) {
        let pids = Pids::for_records(self, looks.len());
        let verdicts: Vec<Verdict> =
            looks.iter().map(|(record, entries)| self.verdict_among(&pids, record, process_of(record, entries), Looker::Passer)).collect();
        let is_doubtful = |verdict: &Verdict| matches!(verdict, Verdict::Interrupted | Verdict::Stale);
        // After the last verdict, for all of them at once. A row that cannot be read again is told when it is to be removed.
        let now: Option<HashMap<String, i64>> =
            store.filter(|_| verdicts.iter().any(is_doubtful)).and_then(|store| store.generations().ok());
        for ((record, entries), verdict) in looks.iter().zip(&verdicts) {
            let now = now.as_ref().filter(|_| is_doubtful(verdict)).map(|now| now.get(record.id.as_str()));
            let fresh = match now {
                None => None,
                Some(Some(generation)) if *generation == record.generation => None,
                // Another command finished it.
                Some(None) => continue,
                Some(Some(_)) => match store.map(|store| store.sandbox(&record.id)) {
                    Some(Ok(None)) => continue,
                    Some(Ok(Some(fresh))) => Some(fresh),
                    Some(Err(_)) | None => None,
                },
            };
            match fresh {
                Some((fresh, entries)) => judge_one(plan, &fresh, &entries, &self.verdict(&fresh, &entries, Looker::Passer)),
                None => judge_one(plan, record, entries, verdict),
            }
        }
    }
}

/// A row and its entries, as they were read together.
type Look<'a> = (&'a SandboxRecord, &'a [Entry]);

fn judge_one(plan: &mut CleanupPlan, record: &SandboxRecord, entries: &[Entry], verdict: &Verdict) {
    if *verdict == Verdict::Stale {
        plan.reconciled_stale.push(record.id.clone());
    }
    match select(&plan.scope, &candidate(record, verdict.clone())) {
        Selection::Keep => {}
        Selection::Unknown { evidence } => plan.failed.push(unknown(&record.id, &evidence)),
        Selection::Target(why) => plan.targets.push(Target {
            id: record.id.clone(),
            state: record.state,
            why,
            running: record.state.claims_process() && *verdict == Verdict::Current,
            created_ms: record.created_ms,
            holds: entries.iter().filter(|e| may_exist(e)).map(describe).collect(),
            generation: record.generation,
        }),
    }
}

/// A record as the selection sees it.
pub(super) fn candidate(record: &SandboxRecord, verdict: Verdict) -> Candidate {
    let expired = record.expires_ms.is_some_and(|at| at <= now_ms());
    Candidate { id: record.id.clone(), state: record.state, verdict, expiry: if expired { Expiry::Expired } else { Expiry::Alive } }
}

pub(super) fn unknown(id: &SandboxId, evidence: &str) -> Failed {
    Failed {
        id: id.to_string(),
        error: format!("whether its process runs cannot be told, so nothing was touched: {evidence}"),
        code: ErrorCode::Refused,
        step: None,
        recovery: Some("smolvm doctor; run it with the rights that started the sandbox".to_owned()),
    }
}

fn broken_is_meant(scope: &Scope, raw_id: &str) -> bool {
    match scope {
        Scope::All => true,
        Scope::Prefix(prefix) => raw_id.starts_with(prefix.as_str()),
    }
}

fn describe(entry: &Entry) -> String {
    match (entry.kind, &entry.identity) {
        (Kind::Process, Some(identity)) => format!("process {}", identity.pid),
        (Kind::Process, None) => "process".to_owned(),
        (Kind::Monitor, _) => "monitor".to_owned(),
        (Kind::Tap, _) => format!("tap {}", entry.key),
        (Kind::NftElements, _) => "rules".to_owned(),
        (Kind::RunDir, _) => "sockets".to_owned(),
        (Kind::StateDir, _) => "disk".to_owned(),
        (Kind::Address | Kind::Mac | Kind::Uid, _) => entry.kind.to_string(),
    }
}
