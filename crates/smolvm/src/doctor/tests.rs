//! Real looks at this machine, into homes that are empty or broken in one way.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use smolvm_host::store::Store;

use super::*;
use crate::{Paths, Settings};

struct Home {
    dir: tempfile::TempDir,
    vm: Smolvm,
}

impl Home {
    fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let vm = Smolvm::open(Settings::new(Paths::beneath(dir.path()))).unwrap();
        Self { dir, vm }
    }

    fn with_state() -> Self {
        let home = Self::empty();
        home.vm.store().unwrap();
        home
    }

    fn check(&self, id: &str) -> CheckReport {
        let reports = self.vm.doctor();
        let found = reports.iter().find(|r| r.id == id);
        found.unwrap_or_else(|| panic!("no check {id} in {reports:#?}")).clone()
    }

    fn sql(&self, text: &str) {
        // Another program's hand in the database, with nothing of ours in between.
        let connection = rusqlite::Connection::open(self.vm.paths().database()).unwrap();
        connection.execute_batch(text).unwrap();
    }
}

fn everything_beneath(path: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut todo = vec![path.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path.clone());
            }
            found.push((path.clone(), std::fs::read(&path).unwrap_or_default()));
        }
    }
    found.sort();
    found
}

#[test]
fn on_an_empty_home_every_check_comes_back_and_nothing_is_made() {
    let home = Home::empty();
    let reports = home.vm.doctor();
    for id in [
        "packages",
        "hypervisor",
        "kernel",
        "initramfs",
        "image.minimal",
        "image.debian",
        "disk.state",
        "disk.cache",
        "accelerator",
        "memory",
        "network.rights",
        "nft",
        "forwarding",
        "firewall",
        "jail",
        "state.directory",
        "state.database",
        "sandboxes.stale",
        "orphans",
        "installations",
        "trash",
        "clock",
    ] {
        let of_id: Vec<_> = reports.iter().filter(|r| r.id == id).collect();
        assert_eq!(of_id.len(), 1, "{id} in {reports:#?}");
    }
    for report in reports.iter().filter(|r| r.status == CheckStatus::Fail) {
        assert!(report.fix.as_ref().is_some_and(|fix| !fix.is_empty()), "{report:?} fails and says nothing of a way out");
    }
    for report in &reports {
        assert!(!report.summary.is_empty() && !report.summary.contains('\n'), "{report:?}");
        assert!(!report.summary.contains("did not end") && !report.summary.contains("broke off"), "{report:?}");
    }
    assert_eq!(std::fs::read_dir(home.dir.path()).unwrap().count(), 0, "a look made something");
    assert_eq!(Tally::of(&reports).pass + Tally::of(&reports).warn + Tally::of(&reports).fail, reports.len());
}

#[test]
fn a_look_at_a_home_in_use_changes_no_file_of_it() {
    let home = Home::with_state();
    std::fs::create_dir_all(home.vm.paths().cache.join("images")).unwrap();
    // The index of the ledger's log is memory of whoever has it open.
    let all = || everything_beneath(home.dir.path()).into_iter().filter(|(path, _)| !path.ends_with("state.db-shm")).collect::<Vec<_>>();
    let before = all();
    home.vm.doctor();
    let after = all();
    let names = |list: &[(std::path::PathBuf, Vec<u8>)]| list.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    assert_eq!(names(&after), names(&before));
    assert_eq!(after, before);
}

#[test]
fn a_home_that_others_can_look_into_is_a_warning_with_its_command() {
    let home = Home::with_state();
    let state = &home.vm.paths().state;
    std::fs::set_permissions(state, std::fs::Permissions::from_mode(0o755)).unwrap();
    let report = home.check("state.directory");
    assert_eq!((report.status, report.fix), (CheckStatus::Warn, Some(format!("chmod 0700 {}", state.display()))));
}

#[test]
fn a_home_beneath_a_file_cannot_be_made() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let vm = Smolvm::open(Settings::new(Paths::beneath(dir.path()))).unwrap();
    std::fs::write(&vm.paths().state, "").unwrap();
    let report = vm.doctor().into_iter().find(|r| r.id == "state.directory").unwrap();
    assert_eq!(report.status, CheckStatus::Fail, "{report:?}");
}

#[test]
fn a_read_only_home_fails_and_everything_else_still_answers() {
    // The kernel's own tree is the one place that root cannot write either.
    let vm = Smolvm::open(Settings::new(Paths::beneath(Path::new("/proc/self/no-such-home")))).unwrap();
    let reports = vm.doctor();
    let directory = reports.iter().find(|r| r.id == "state.directory").unwrap();
    assert_eq!(directory.status, CheckStatus::Fail, "{directory:?}");
    assert!(directory.fix.as_ref().unwrap().contains("findmnt"), "{directory:?}");
    assert!(reports.iter().any(|r| r.id == "clock" && r.status == CheckStatus::Pass));
}

#[test]
fn a_damaged_database_is_named_with_the_way_around_it() {
    let home = Home::with_state();
    std::fs::write(home.vm.paths().database(), "this is no database".repeat(20)).unwrap();
    let report = home.check("state.database");
    assert_eq!(report.status, CheckStatus::Fail);
    assert!(report.fix.unwrap().contains("smolvm cleanup --all"));
    assert_eq!(home.check("sandboxes.stale").status, CheckStatus::Fail);
    assert!(home.vm.doctor_fix().unwrap()[0].contains("state.db.damaged-"));
    assert_eq!(home.check("state.database").status, CheckStatus::Pass);
    assert!(home.vm.doctor_fix().unwrap().is_empty(), "there is nothing more to mend");
}

#[test]
fn a_database_damaged_behind_its_head_is_found_too() {
    let home = Home::with_state();
    let path = home.vm.paths().database();
    home.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100..].fill(0x5a);
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(home.check("state.database").status, CheckStatus::Fail);
    assert_eq!(home.vm.doctor_fix().unwrap().len(), 1);
    assert_eq!(home.check("state.database").status, CheckStatus::Pass);
}

#[test]
fn a_newer_database_is_left_exactly_as_it_is() {
    let home = Home::with_state();
    home.sql("PRAGMA journal_mode=DELETE; PRAGMA user_version=99;");
    let before = std::fs::read(home.vm.paths().database()).unwrap();
    let report = home.check("state.database");
    assert_eq!(report.status, CheckStatus::Fail);
    assert!(report.evidence.contains("version 99"), "{report:?}");
    assert_eq!(std::fs::read(home.vm.paths().database()).unwrap(), before);
}

#[test]
fn a_hostile_row_is_shown_then_dropped_and_no_file_is_touched() {
    let home = Home::with_state();
    let victim = home.dir.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    home.sql(
        "INSERT INTO sandbox (id, state, generation, spec, created_ms) VALUES ('../../victim', 'running', 1, '{}', 0);
         INSERT INTO ledger (kind, key, sandbox, status) VALUES ('state_dir', '../../victim', '../../victim', 'held');",
    );
    let report = home.check("state.rows");
    assert_eq!(report.status, CheckStatus::Fail);
    assert!(report.fix.as_deref().unwrap().starts_with("smolvm doctor --fix"), "{report:?}");
    let did = home.vm.doctor_fix().unwrap();
    assert_eq!(did[0], "dropped the rows of \"../../victim\"; no file was touched");
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    assert_eq!(home.check("state.rows").status, CheckStatus::Pass);
    assert_eq!(home.vm.doctor_fix().unwrap(), Vec::<String>::new());
}

#[test]
fn a_fix_of_nothing_makes_nothing() {
    let home = Home::empty();
    assert_eq!(home.vm.doctor_fix().unwrap(), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(home.dir.path()).unwrap().count(), 0);
}

#[test]
fn trash_is_seen() {
    let home = Home::with_state();
    std::fs::create_dir(home.vm.paths().trash().join("vm-a.0123456789abcdef")).unwrap();
    let report = home.check("trash");
    assert_eq!((report.status, report.fix.as_deref()), (CheckStatus::Warn, Some("smolvm cleanup")));
}

#[test]
fn a_directory_with_our_mark_and_no_record_is_an_orphan() {
    let home = Home::with_state();
    for (id, fix) in [("vm-left", "smolvm cleanup"), ("mine", "smolvm cleanup --prefix mine; smolvm cleanup --prefix vm-left")] {
        let dir = home.vm.paths().sandboxes().join(id);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("owner"), format!("smolvm:{}:{id}\n", home.vm.install_id())).unwrap();
        let report = home.check("orphans");
        assert_eq!((report.status, report.fix.as_deref()), (CheckStatus::Warn, Some(fix)), "{report:?}");
        assert!(report.evidence.contains(id));
    }
}

#[test]
fn a_hypervisor_that_is_none_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings::new(Paths::beneath(dir.path()));
    settings.hypervisor = Some("/bin/true".into());
    let vm = Smolvm::open(settings).unwrap();
    let report = vm.doctor().into_iter().find(|r| r.id == "hypervisor").unwrap();
    assert_eq!(report.status, CheckStatus::Fail, "{report:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_row_that_lost_its_process_is_a_warning() {
    let home = Home::with_state();
    let spec: smolvm_model::spec::Spec = spec();
    let id = "vm-gone".parse().unwrap();
    let mut store = Store::open(&home.vm.paths().database()).unwrap();
    store
        .write(smolvm_model::effect::Commit::Create, |w| {
            w.insert_sandbox(&smolvm_host::store::NewSandbox { id: &id, spec: &spec, created_ms: 1, expires_ms: None })
        })
        .unwrap();
    drop(store);
    home.sql("UPDATE sandbox SET state='running'");
    let report = home.check("sandboxes.stale");
    assert_eq!(report.status, CheckStatus::Warn, "{report:?}");
    assert!(report.evidence.contains("vm-gone") && report.fix.unwrap().starts_with("smolvm cleanup"));
    assert_eq!(home.vm.setup_remove().unwrap_err().code, smolvm_model::error_code::ErrorCode::Refused);
}

fn spec() -> smolvm_model::spec::Spec {
    smolvm_model::spec::Spec {
        workdir: None,
        user: None,
        init: None,
        restored_from: None,
        image: "minimal".parse().unwrap(),
        image_digest: format!("sha256:{}", "0".repeat(64)),
        cpus: smolvm_model::quantity::Cpus::default(),
        memory: smolvm_model::quantity::Memory::from_mib(128).unwrap(),
        disk: smolvm_model::quantity::DiskSize::default(),
        network: smolvm_model::spec::NetworkMode::None,
        env: std::collections::BTreeMap::new(),
        labels: std::collections::BTreeMap::new(),
        accelerator: smolvm_model::engine::AcceleratorRequest::Auto,
    }
}
