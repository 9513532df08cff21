use smolvm_host::store::NewSandbox;
use smolvm_model::effect::Commit;
use smolvm_model::ledger::{Kind, Status};
use smolvm_model::spec::NetworkMode;

use super::*;
use crate::installation::Settings;
use crate::paths::{OWNER, Paths};
use crate::testing::spec;

/// Sandboxes whose creation was interrupted, each with its directory.
fn interrupted(ids: &[SandboxId]) -> (tempfile::TempDir, Smolvm, Store) {
    let dir = tempfile::tempdir().unwrap();
    let vm = Smolvm::open(Settings::new(Paths::beneath(dir.path()))).unwrap();
    let mut store = vm.store().unwrap();
    let spec = spec(NetworkMode::None);
    for id in ids {
        let entry = Entry { sandbox: id.clone(), kind: Kind::StateDir, key: id.to_string(), status: Status::Intended, identity: None };
        store
            .write(Commit::Settled, |w| {
                w.insert_sandbox(&NewSandbox { id, spec: &spec, created_ms: 0, expires_ms: None })?;
                w.insert_entry(&entry)
            })
            .unwrap();
        std::fs::create_dir(vm.paths().sandbox(id)).unwrap();
        std::fs::write(vm.paths().sandbox(id).join(OWNER), format!("{}\n", vm.mark(id))).unwrap();
    }
    (dir, vm, store)
}

fn ids(count: usize) -> Vec<SandboxId> {
    (0..count).map(|i| format!("box-{i:02}").parse().unwrap()).collect()
}

#[test]
fn what_changed_after_the_plan_is_skipped_and_the_others_go() {
    let ids = ids(40);
    let (_dir, vm, mut store) = interrupted(&ids);
    let plan = vm.cleanup_plan(&Scope::All).unwrap();
    assert_eq!(plan.targets.len(), 40);
    // Finished after all; deleted by somebody else; being worked at; about to be deleted by somebody who was killed.
    store.write(Commit::Settled, |w| w.set_state(&ids[3], 0, State::Created)).unwrap();
    store.write(Commit::Settled, |w| w.drop_entry(Kind::StateDir, ids[4].as_str()).and_then(|()| w.delete_sandbox(&ids[4]))).unwrap();
    let _busy = vm.lock(&ids[5]).unwrap();
    store.write(Commit::Settled, |w| w.set_state(&ids[6], 0, State::Deleting)).unwrap();
    let report = vm.cleanup_apply(plan).unwrap();
    let failed: Vec<(&str, ErrorCode)> = report.failed.iter().map(|f| (f.id.as_str(), f.code)).collect();
    assert_eq!(failed, [("box-03", ErrorCode::Changed), ("box-05", ErrorCode::Busy)]);
    assert_eq!(report.deleted, ids.iter().filter(|id| !["box-03", "box-05"].contains(&id.as_str())).cloned().collect::<Vec<_>>());
    let mut left: Vec<String> = store.generations().unwrap().into_keys().collect();
    left.sort();
    assert_eq!(left, ["box-03", "box-05"]);
    assert!(vm.paths().sandbox(&ids[3]).exists() && !vm.paths().sandbox(&ids[6]).exists());
}

#[test]
fn a_row_that_broke_after_the_plan_keeps_none_of_the_others() {
    let ids = ids(3);
    let (dir, vm, store) = interrupted(&ids);
    let plan = vm.cleanup_plan(&Scope::All).unwrap();
    drop(store);
    let connection = rusqlite::Connection::open(dir.path().join("state/state.db")).unwrap();
    connection.execute("UPDATE ledger SET status = 'odd' WHERE sandbox = 'box-01'", []).unwrap();
    let report = vm.cleanup_apply(plan).unwrap();
    assert_eq!(report.failed.iter().map(|f| f.id.as_str()).collect::<Vec<_>>(), ["box-01"]);
    assert_eq!(report.deleted, [ids[0].clone(), ids[2].clone()]);
    assert!(vm.paths().sandbox(&ids[1]).exists());
}

/// A row of a restored backup may know less than there is.
#[test]
fn what_carries_the_mark_and_is_not_recorded_goes_too() {
    let ids = ids(2);
    let (_dir, vm, mut store) = interrupted(&ids);
    store.write(Commit::Settled, |w| w.drop_entry(Kind::StateDir, "box-00")).unwrap();
    store.write(Commit::Settled, |w| w.set_status(Kind::StateDir, "box-01", Status::Reserved)).unwrap();
    let report = vm.cleanup_apply(vm.cleanup_plan(&Scope::All).unwrap()).unwrap();
    assert_eq!(report.deleted, ids);
    assert!(ids.iter().all(|id| !vm.paths().sandbox(id).exists()));
}

#[test]
fn a_batch_fits_the_descriptors_there_are() {
    for (descriptors, want) in [(0, 1), (99, 1), (1024, 309), (3096, 1000), (u64::MAX, 1000)] {
        assert_eq!(fitting(descriptors), want, "{descriptors}");
    }
}
