//! `cleanup` and a ledger that is damaged, newer, locked, or was left in the middle by a power cut.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test starts programs and takes away what it made")]

mod support;

use rusqlite::Connection;
use support::{Place, rows, tree};

/// A ledger that is no database, or a newer program's: refused with the way out, and nothing is touched.
#[test]
fn a_damaged_or_newer_ledger_is_refused() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.seed(&["vm-a"]);
    let database = place.path("state/state.db");
    // All of it in the file that is to be damaged, and nothing in its log.
    rows::open(&place).query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let good = std::fs::read(&database).unwrap();
    let garbage = || std::fs::write(&database, vec![b'?'; 8192]).unwrap();
    let newer = || {
        std::fs::write(&database, &good).unwrap();
        Connection::open(&database).unwrap().pragma_update(None, "user_version", 9999).unwrap();
    };
    let spoilers: [(&dyn Fn(), &str); 2] = [(&garbage, "state_corrupt"), (&newer, "unsupported")];
    for (spoil, code) in spoilers {
        spoil();
        let before = tree(place.home());
        for args in [&["--force"][..], &["--force", "--all"], &["--dry-run"]] {
            let refused = place.cleanup(args);
            assert_eq!((refused.code, refused.error["code"].as_str()), (1, Some(code)), "{}", refused.shown());
            assert!(refused.error["recovery"].is_string(), "{}", refused.shown());
        }
        assert_eq!(tree(place.home()), before);
        assert_eq!(place.taps("smolvm:").len(), 1);
    }
    // A newer one is somebody's good ledger: not even a fix touches it.
    let before = tree(place.home());
    place.smolvm(&["doctor", "--fix"]).run().assert_code(1);
    assert_eq!(tree(place.home()), before);
    // A damaged one is set aside, and everything is found by its mark.
    garbage();
    let fixed = place.smolvm(&["doctor", "--fix"]).run();
    assert!(fixed.stdout.contains("state.db.damaged-"), "{fixed}");
    let aside = std::fs::read_dir(place.path("state")).unwrap().flatten().find(|e| e.file_name().to_string_lossy().contains(".damaged-"));
    assert_eq!(std::fs::read(aside.unwrap().path()).unwrap(), vec![b'?'; 8192], "it is kept as it was");
    assert!(place.ids().is_empty());
    let cleaned = place.cleanup(&["--force", "--all"]);
    cleaned.assert_ok();
    assert!(cleaned.steps_of("vm-a").contains(&("tap", "released")), "{}", cleaned.shown());
    oracle.assert_clean();
}

/// A row whose name is good and whose content is not: told, dropped by `doctor --fix`, its things found by their mark.
#[test]
fn a_row_with_rubbish_in_it_is_told_and_mended() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.seed(&["vm-a", "vm-b"]);
    rows::open(&place).execute("UPDATE sandbox SET spec = '{\"image\": 7}' WHERE id = 'vm-a'", []).unwrap();
    let cleaned = place.cleanup(&["--force"]);
    cleaned.assert_partial();
    assert_eq!(cleaned.deleted(), ["vm-b"], "{}", cleaned.shown());
    assert_eq!(cleaned.failure("vm-a")["code"], "state_corrupt", "{}", cleaned.shown());
    assert!(cleaned.failure("vm-a")["recovery"].as_str().unwrap().contains("doctor --fix"), "{}", cleaned.shown());
    let fixed = place.smolvm(&["doctor", "--fix"]).run();
    assert!(rows::ids(&place).is_empty(), "{fixed}");
    place.cleanup(&["--force"]).assert_ok();
    // Its shared parts had no sandbox left to go with.
    place.cleanup(&["--force", "--all"]).assert_ok();
    oracle.assert_clean();
}

/// Another program keeps the ledger locked: `busy`, and nothing is lost.
#[test]
fn a_locked_ledger_is_busy() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.seed(&["vm-a"]);
    let holder = rows::open(&place);
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let cleaned = place.cleanup(&["--force"]);
    assert_eq!(cleaned.code, 1, "{}", cleaned.shown());
    assert!(cleaned.shown().contains("\"busy\""), "{}", cleaned.shown());
    assert_eq!(place.taps("smolvm:").len(), 1);
    assert!(place.path("state/sandboxes/vm-a/data.img").exists());
    holder.execute_batch("ROLLBACK").unwrap();
    drop(holder);
    place.cleanup(&["--force"]).assert_ok();
    oracle.assert_clean();
}

/// A dry run changes no byte of the ledger, also when what was written last is still in its log, as after a kill.
#[test]
fn a_dry_run_changes_no_byte_after_a_kill() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.create("vm-a", &[]);
    let (database, log) = (place.path("state/state.db"), place.path("state/state.db-wal"));
    let writer = rows::open(&place);
    writer.execute("UPDATE sandbox SET created_ms = created_ms - 1", []).unwrap();
    let (pages, frames) = (std::fs::read(&database).unwrap(), std::fs::read(&log).unwrap());
    assert!(!frames.is_empty(), "the last change is in the log");
    drop(writer);
    // Put back as a killed writer leaves them.
    std::fs::write(&database, pages).unwrap();
    std::fs::write(&log, frames).unwrap();
    let before = tree(place.home());
    assert_eq!(place.cleanup(&["--dry-run"]).targets(), ["vm-a"]);
    let after = tree(place.home());
    let changed: Vec<_> = before.keys().chain(after.keys()).filter(|path| before.get(*path) != after.get(*path)).collect();
    assert!(changed.is_empty(), "a dry run has changed {changed:?}");
    place.cleanup(&["--force"]).assert_ok();
    oracle.assert_clean();
}
