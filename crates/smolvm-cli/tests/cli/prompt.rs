//! The question of `cleanup`, asked about an orphan: something to confirm without any virtual machine.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use smolvm::{Paths, Settings, Smolvm};
use testkit::{Cmd, SealedEnv, Stdin, until};

use crate::place::{json, run, smolvm};

/// A directory with this installation's mark that no record knows.
fn orphan(env: &SealedEnv) -> PathBuf {
    let vm = Smolvm::open(Settings::new(Paths::beneath(env.home()))).unwrap();
    let directory = vm.paths().sandboxes().join("vm-orphan");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("owner"), format!("smolvm:{}:vm-orphan\n", vm.install_id())).unwrap();
    directory
}

fn asked<'a>(env: &'a SealedEnv, typed: &str) -> Cmd<'a> {
    smolvm(env, &["cleanup"]).stdin(Stdin::Terminal(typed.as_bytes().to_vec()))
}

#[test]
fn anything_but_yes_aborts_with_0() {
    let env = SealedEnv::new();
    let directory = orphan(&env);
    for typed in ["\n", "n\n", "no\n", "yess\n", "ja\n", "\u{4}", "y\u{4}\u{4}"] {
        let ran = asked(&env, typed).run();
        ran.assert_ok();
        assert!(ran.stdout.ends_with("Aborted.\n"), "{typed:?}\n{ran}");
        assert!(ran.stderr.contains("cannot be undone. [y/N] "), "{ran}");
        assert!(ran.stderr.contains("vm-orphan"), "who looks at the question sees what it is about\n{ran}");
        assert!(directory.exists(), "{typed:?}");
    }
}

#[test]
fn yes_in_any_letter_case_goes_on() {
    for typed in ["y\n", "Y\n", "yes\n", "yEs\n"] {
        let env = SealedEnv::new();
        let directory = orphan(&env);
        let ran = asked(&env, typed).run();
        ran.assert_ok();
        assert!(!directory.exists(), "{typed:?}\n{ran}");
        assert!(ran.stdout.contains("1 orphan removed"), "{ran}");
    }
}

#[test]
fn an_interrupt_ends_with_130_and_nothing_deleted() {
    let env = SealedEnv::new();
    let directory = orphan(&env);
    let mut running = asked(&env, "").spawn();
    // The question stands once the process waits in poll; the signal handler is there long before.
    let wchan = format!("/proc/{}/wchan", running.pid());
    until("the question stands", Duration::from_secs(20), || {
        std::fs::read_to_string(&wchan).is_ok_and(|at| at.contains("poll")).then_some(())
    });
    assert!(!running.has_ended());
    running.signal(Signal::INT);
    let ran = running.wait();
    ran.assert_code(130);
    assert!(ran.stderr.contains("nothing was deleted"), "{ran}");
    assert!(directory.exists());
}

#[test]
fn a_dry_run_shows_the_orphan_and_leaves_it() {
    let env = SealedEnv::new();
    let directory = orphan(&env);
    let envelope = json(&env, &["cleanup", "--dry-run", "--json"]);
    let orphans = envelope["data"]["orphans"].as_array().unwrap();
    assert_eq!(orphans.len(), 1, "{envelope}");
    assert_eq!((&orphans[0]["remove"], &orphans[0]["removed"]), (&true.into(), &false.into()));
    // Not ours to remove with this prefix, but shown all the same.
    let other = json(&env, &["cleanup", "--force", "--json", "--prefix", "other-"]);
    assert_eq!(other["data"]["orphans"][0]["removed"], false);
    assert!(directory.exists());
    let done = json(&env, &["cleanup", "--force", "--json"]);
    assert_eq!(done["data"]["orphans"][0]["removed"], true);
    assert!(!directory.exists());
    run(&env, &["cleanup", "--force"]).assert_ok();
}

#[test]
fn strangers_and_other_installations_are_left_alone() {
    let env = SealedEnv::new();
    let sandboxes = env.home().join("state/sandboxes");
    for (name, owner) in [("vm-none", None), ("vm-other", Some("smolvm:0123456789:vm-other\n")), ("vm-torn", Some("smolvm:"))] {
        std::fs::create_dir_all(sandboxes.join(name)).unwrap();
        if let Some(owner) = owner {
            std::fs::write(sandboxes.join(name).join("owner"), owner).unwrap();
        }
    }
    let envelope = json(&env, &["cleanup", "--all", "--force", "--json"]);
    assert_eq!(envelope["data"]["summary"]["deleted_count"], 0);
    for name in ["vm-none", "vm-other", "vm-torn"] {
        assert!(sandboxes.join(name).exists(), "{name}");
    }
}

#[test]
fn what_another_command_holds_is_busy_and_a_partial_failure() {
    let env = SealedEnv::new();
    let directory = orphan(&env);
    let locks = env.home().join("state/locks");
    std::fs::create_dir_all(&locks).unwrap();
    let lock = std::fs::File::create(locks.join("vm-orphan.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let envelope = json(&env, &["cleanup", "--force", "--json"]);
    let failed = envelope["data"]["failed"].as_array().unwrap();
    assert_eq!(failed.len(), 1, "{envelope}");
    assert_eq!((failed[0]["vm_id"].as_str(), failed[0]["code"].as_str()), (Some("vm-orphan"), Some("busy")));
    assert_eq!((envelope["error"]["code"].as_str(), envelope["exit_code"].as_i64()), (Some("partial_failure"), Some(1)));
    assert_eq!(envelope["data"]["summary"]["failed_count"], 1);
    let human = run(&env, &["cleanup", "--force"]);
    human.assert_code(1);
    assert!(human.stdout.contains("failed   vm-orphan: ") && human.stderr.starts_with("error: 1 thing could not"), "{human}");
    assert!(directory.exists());
    drop(lock);
    run(&env, &["cleanup", "--force"]).assert_ok();
    assert!(!directory.exists());
}
