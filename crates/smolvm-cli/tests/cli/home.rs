//! Which installation is meant.

use testkit::SealedEnv;

use crate::place::{run, smolvm};

#[test]
fn the_option_is_stronger_than_the_variable() {
    let env = SealedEnv::new();
    let other = env.scratch().join("other");
    // A ledger that is no database: whoever opens it says so.
    std::fs::create_dir_all(other.join("state")).unwrap();
    std::fs::write(other.join("state/state.db"), "this is no database, but long enough to be looked at as if it were one").unwrap();
    run(&env, &["list"]).assert_ok();
    let other = other.to_str().unwrap();
    for words in [&["--home", other, "list", "--json"][..], &["list", "--json", "--home", other]] {
        let ran = run(&env, words);
        ran.assert_code(1);
        assert_eq!(ran.json()["error"]["code"], "state_corrupt", "{ran}");
    }
    smolvm(&env, &["list"]).env("SMOLVM_HOME", other).run().assert_code(1);
}

#[test]
fn a_relative_home_is_taken_from_the_working_directory() {
    let env = SealedEnv::new();
    std::fs::create_dir_all(env.scratch().join("rel/state")).unwrap();
    std::fs::write(env.scratch().join("rel/state/state.db"), "this is no database, but long enough to be looked at as if it were one")
        .unwrap();
    let ran = run(&env, &["list", "--home", "rel"]);
    ran.assert_code(1);
    assert!(ran.stderr.contains(env.scratch().join("rel").to_str().unwrap()), "{ran}");
}

#[test]
fn a_home_that_cannot_be_told_to_the_monitor_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let env = SealedEnv::new();
    let ran = env.cmd(crate::place::SMOLVM).arg("list").arg("--home").arg(std::ffi::OsStr::from_bytes(b"/tmp/\xff")).run();
    ran.assert_code(2);
    assert!(ran.stderr.contains("UTF-8"), "{ran}");
}
