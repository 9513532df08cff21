//! The question: who is asked, what counts as yes, and that the answer is about what was listed.

mod support;

use rustix::process::Signal;
use support::{Place, Pty, rows, tree};
use testkit::Stdin;

const QUESTION: &str = "[y/N] ";

/// A sandbox that is quickly made, and nothing but a target.
fn target(place: &Place, name: &str) {
    place.create(name, &[]);
}

#[test]
fn yes_in_any_letter_case_goes_on() {
    let place = Place::without_network();
    let oracle = place.oracle();
    for answer in ["y", "Y", "yes", "YES", "yEs"] {
        target(&place, "vm-a");
        target(&place, "vm-b");
        let mut pty = Pty::smolvm(&place, &["cleanup"]);
        let question = pty.expect(QUESTION);
        assert!(question.ends_with(QUESTION), "the question ends in {QUESTION:?}:\n{question}");
        assert!(question.contains("vm-a") && question.contains("vm-b") && question.contains("created"), "ids and states:\n{question}");
        assert!(question.contains("cannot be undone"), "{question}");
        pty.types(&format!("{answer}\r"));
        let (code, screen) = pty.end();
        assert_eq!(code, 0, "{screen}");
        assert!(!screen.contains("Aborted."), "{screen}");
        assert!(place.ids().is_empty(), "{answer:?} is a yes:\n{screen}");
    }
    oracle.assert_clean();
}

#[test]
fn anything_else_aborts_and_deletes_nothing() {
    let place = Place::without_network();
    let oracle = place.oracle();
    target(&place, "vm-a");
    let (before, before_rows) = (tree(place.home()), rows::dump(&place));
    // Enter alone, no, near misses, and the end of input (Ctrl-D).
    for keys in ["\r", "n\r", "N\r", "no\r", "ye\r", "yess\r", "y y\r", "yes please\r", "0\r", "\u{4}"] {
        let mut pty = Pty::smolvm(&place, &["cleanup"]);
        pty.expect(QUESTION);
        pty.types(keys);
        let (code, screen) = pty.end();
        assert_eq!(code, 0, "{keys:?}:\n{screen}");
        assert!(screen.contains("Aborted.\n"), "{keys:?}:\n{screen}");
        assert!(!screen.contains("deleted"), "{keys:?}:\n{screen}");
    }
    assert_eq!((tree(place.home()), rows::dump(&place)), (before, before_rows));
    place.cleanup(&["--force"]).assert_ok();
    oracle.assert_clean();
}

#[test]
fn ctrl_c_exits_with_130_and_deletes_nothing() {
    let place = Place::without_network();
    let oracle = place.oracle();
    target(&place, "vm-a");
    let (before, before_rows) = (tree(place.home()), rows::dump(&place));
    for keys in ["\u{3}", "yes\u{3}"] {
        let mut pty = Pty::smolvm(&place, &["cleanup"]);
        pty.expect(QUESTION);
        pty.types(keys);
        let (code, screen) = pty.end();
        assert_eq!(code, 130, "{screen}");
        assert!(!screen.contains("Aborted."), "{screen}");
    }
    // The signal without the key does the same, and so does the end of the terminal delete nothing.
    let mut asked = place.smolvm(&["cleanup"]).stdin(Stdin::Terminal(Vec::new())).spawn();
    // From the moment the signal is caught, whatever it finds the command at must end the same way.
    let status = format!("/proc/{}/status", asked.pid());
    let catches_interrupt = || {
        let caught = std::fs::read_to_string(&status).ok()?;
        let mask = caught.lines().find_map(|line| line.strip_prefix("SigCgt:"))?.trim().to_owned();
        (u64::from_str_radix(&mask, 16).ok()? & 0b10 != 0).then_some(())
    };
    testkit::until("the command catches Ctrl-C", support::SOON, catches_interrupt);
    assert!(!asked.has_ended(), "it waits for an answer");
    asked.signal(Signal::INT);
    asked.wait().assert_code(130);
    let mut pty = Pty::smolvm(&place, &["cleanup"]);
    pty.expect(QUESTION);
    pty.hang_up();
    pty.end();
    assert_eq!((tree(place.home()), rows::dump(&place)), (before, before_rows));
    place.cleanup(&["--force"]).assert_ok();
    oracle.assert_clean();
}

/// Nobody is asked with `--force`, in a dry run, or when there is nothing to do.
#[test]
fn where_no_question_is_needed_none_is_asked() {
    let place = Place::without_network();
    let oracle = place.oracle();
    for args in [&["cleanup"][..], &["cleanup", "--all"]] {
        let (code, screen) = Pty::smolvm(&place, args).end();
        assert_eq!((code, screen.contains(QUESTION)), (0, false), "nothing to do:\n{screen}");
        assert_eq!(screen.trim().lines().count(), 1, "one sentence:\n{screen}");
    }
    target(&place, "vm-a");
    let (code, screen) = Pty::smolvm(&place, &["cleanup", "--dry-run"]).end();
    assert_eq!((code, screen.contains(QUESTION), screen.contains("vm-a")), (0, false, true), "{screen}");
    assert_eq!(place.ids(), ["vm-a"]);
    let (code, screen) = Pty::smolvm(&place, &["cleanup", "-f"]).end();
    assert_eq!((code, screen.contains(QUESTION)), (0, false), "{screen}");
    assert!(place.ids().is_empty(), "{screen}");
    oracle.assert_clean();
}

/// Orphans to remove count as something to confirm.
#[test]
fn orphans_alone_are_asked_about() {
    let place = Place::without_network();
    let oracle = place.oracle();
    target(&place, "vm-a");
    for file in ["state/state.db", "state/state.db-wal", "state/state.db-shm"] {
        std::fs::remove_file(place.path(file)).ok();
    }
    let mut pty = Pty::smolvm(&place, &["cleanup"]);
    let question = pty.expect(QUESTION);
    assert!(question.contains("vm-a"), "{question}");
    pty.types("n\r");
    assert_eq!(pty.end().0, 0);
    assert!(place.path("state/sandboxes/vm-a/data.img").exists());
    let mut pty = Pty::smolvm(&place, &["cleanup"]);
    pty.expect(QUESTION);
    pty.types("y\r");
    assert_eq!(pty.end().0, 0);
    assert!(!place.path("state/sandboxes/vm-a").exists());
    oracle.assert_clean();
}

/// What is deleted is what was listed; what changed meanwhile is left alone and told; what another
/// command finished counts as deleted.
#[test]
fn the_answer_is_about_what_was_listed() {
    let place = Place::without_network();
    let oracle = place.oracle();
    for name in ["vm-started", "vm-gone", "vm-plain"] {
        target(&place, name);
    }
    let mut pty = Pty::smolvm(&place, &["cleanup"]);
    let question = pty.expect(QUESTION);
    assert!(question.contains('3'), "three targets:\n{question}");
    place.smolvm(&["start", "vm-started"]).timeout(support::BOOT).run().assert_ok();
    place.smolvm(&["delete", "vm-gone"]).run().assert_ok();
    target(&place, "vm-new");
    pty.types("y\r");
    let (code, screen) = pty.end();
    assert_eq!(code, 1, "one was left alone:\n{screen}");
    assert_eq!(place.ids(), ["vm-new", "vm-started"], "{screen}");
    assert!(screen.contains("changed") && screen.contains("vm-started"), "{screen}");
    let outcome = screen.split(QUESTION).last().unwrap();
    assert!(!outcome.contains("vm-new"), "{screen}");
    assert!(outcome.contains("vm-gone"), "what another command deleted counts as deleted:\n{screen}");
    assert!(outcome.contains("2 deleted") && outcome.contains("1 failed"), "{screen}");
    place.assert_answers("vm-started");
    place.cleanup(&["--force"]).assert_ok();
    oracle.assert_clean();
}

/// A stale sandbox that was started again while the question stood runs on.
#[test]
fn a_stale_sandbox_that_was_started_meanwhile_runs_on() {
    let place = Place::without_network();
    let oracle = place.oracle();
    let pair = place.boot(&["named"])["named"].clone();
    assert!(pair.hypervisor.signal(Signal::KILL));
    support::assert_ends(&pair.monitor);
    let mut pty = Pty::smolvm(&place, &["cleanup"]);
    let question = pty.expect(QUESTION);
    assert!(question.contains("stale"), "{question}");
    place.smolvm(&["start", "named"]).timeout(support::BOOT).run().assert_ok();
    pty.types("yes\r");
    let (code, screen) = pty.end();
    assert_eq!(code, 1, "{screen}");
    assert!(screen.contains("changed"), "{screen}");
    place.assert_answers("named");
    place.cleanup(&["--force", "--all"]).assert_ok();
    oracle.assert_clean();
}
