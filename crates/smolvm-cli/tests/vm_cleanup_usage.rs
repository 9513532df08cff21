//! The command line of `cleanup`: options, refusals, exit statuses, and its second name.

mod support;

use support::{Cleaned, Place, envelope, rows, tree};
use testkit::{Stdin, prerequisite};

#[test]
fn usage_errors_exit_with_2_and_point_to_the_way() {
    let place = Place::without_network();
    let oracle = place.oracle();
    let long = "x".repeat(300);
    let lines: &[(&[&str], &str)] = &[
        (&["--prefix", ""], "--all"),
        (&["--prefix="], "--all"),
        (&["--all", "--prefix", "vm-"], "--all"),
        (&["--prefix", "vm-", "--all"], "--prefix"),
        (&["--nope"], "--nope"),
        (&["vm-a"], "vm-a"),
        // Hostile prefixes are no prefixes of ids: refused before any effect.
        (&["--prefix", "../.."], ""),
        (&["--prefix", "/etc"], ""),
        (&["--prefix", "vm-\n"], ""),
        (&["--prefix", "VM-"], ""),
        (&["--prefix", "*"], ""),
        (&["--prefix", "%"], ""),
        (&["--prefix", &long], ""),
    ];
    place.create("vm-a", &[]);
    let (before, before_rows) = (tree(place.home()), rows::dump(&place));
    for (args, hint) in lines {
        let human = place.smolvm(&[&["cleanup", "--force"], *args].concat()).run();
        human.assert_code(2);
        assert!(human.stdout.is_empty() && human.stderr.contains(hint), "{args:?}\n{human}");
        let json = Cleaned::of(&place.smolvm(&[&["cleanup", "--force"], *args].concat()).arg("--json").run());
        assert_eq!((json.code, json.error["code"].as_str()), (2, Some("usage_error")), "{}", json.shown());
    }
    // A bare `cleanup` on an empty prefix is told of `--all` also without --force.
    place.smolvm(&["cleanup", "--prefix", ""]).run().assert_code(2);
    assert_eq!((tree(place.home()), rows::dump(&place)), (before, before_rows));
    place.cleanup(&["--force"]).assert_ok();
    oracle.assert_clean();
}

#[test]
fn without_force_and_without_a_terminal_it_refuses() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.create("vm-a", &[]);
    let file = place.scratch().join("answers");
    std::fs::write(&file, "y\nyes\n").unwrap();
    let (before, before_rows) = (tree(place.home()), rows::dump(&place));
    let yes = || Stdin::Bytes(b"y\nyes\n".to_vec());
    for stdin in [yes(), Stdin::Null, Stdin::Closed, Stdin::Bytes(Vec::new()), Stdin::Held] {
        for args in [&["cleanup"][..], &["cleanup", "--all"], &["cleanup", "--prefix", "vm-"], &["sandbox", "cleanup"]] {
            let ran = place.smolvm(args).stdin(stdin.clone()).run();
            ran.assert_code(1);
            assert!(ran.stderr.contains("--force") && ran.stdout.is_empty(), "{stdin:?}\n{ran}");
        }
    }
    let from_file = place.cmd("sh").args(&["-c", "exec \"$0\" cleanup <\"$1\""]).arg(prerequisite::smolvm_bin()).arg(&file).run();
    from_file.assert_code(1);
    // With --json whatever the terminal, and in the envelope.
    for stdin in [Stdin::Terminal(b"y\n".to_vec()), yes(), Stdin::Null, Stdin::Closed] {
        let ran = place.smolvm(&["cleanup", "--json"]).stdin(stdin).run();
        let answer = envelope(&ran);
        assert_eq!((ran.code(), answer["error"]["code"].as_str()), (Some(1), Some("refused")), "{ran}");
        assert!(answer["error"]["message"].as_str().unwrap().contains("--force"), "{ran}");
        assert!(!ran.stdout.contains("[y/N]") && !ran.stderr.contains("[y/N]"), "{ran}");
    }
    // It refuses even where there is nothing to do: what a script gets does not depend on luck.
    let empty = Place::without_network();
    empty.smolvm(&["cleanup"]).run().assert_code(1);
    // A dry run never deletes: it needs neither --force nor a terminal.
    for stdin in [yes(), Stdin::Null, Stdin::Closed] {
        let dry = place.smolvm(&["cleanup", "--dry-run"]).stdin(stdin.clone()).run();
        dry.assert_ok();
        assert!(dry.stdout.contains("vm-a"), "{dry}");
        Cleaned::of(&place.smolvm(&["cleanup", "--dry-run", "--json"]).stdin(stdin).run()).assert_ok();
    }
    // --force in a dry run changes nothing about that.
    assert_eq!(place.cleanup(&["--dry-run", "--force"]).targets(), ["vm-a"]);
    assert_eq!((tree(place.home()), rows::dump(&place)), (before, before_rows));
    // Both spellings of --force, and no terminal needed with it.
    place.smolvm(&["cleanup", "-f"]).stdin(Stdin::Closed).run().assert_ok();
    assert!(place.ids().is_empty());
    oracle.assert_clean();
}

#[test]
fn nothing_to_do_is_one_sentence_and_makes_nothing() {
    let place = Place::without_network();
    let before = tree(place.home());
    for args in [&["--force"][..], &["--force", "--all"], &["--dry-run"], &["--dry-run", "--all"], &["--force", "--prefix", "ci-"]] {
        let human = place.smolvm(&[&["cleanup"], args].concat()).run();
        human.assert_ok();
        assert_eq!(human.stdout.trim().lines().count(), 1, "{human}");
        assert!(human.stderr.is_empty(), "{human}");
        let cleaned = place.cleanup(args);
        cleaned.assert_ok();
        assert!(cleaned.targets().is_empty() && cleaned.list("orphans").is_empty() && cleaned.list("steps").is_empty());
    }
    assert_eq!(tree(place.home()), before, "a home where nothing ever was stays empty");
}

#[test]
fn smolvm_cleanup_is_the_same_command() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.create("vm-a", &[]);
    place.create("named", &[]);
    let alias = place.scratch().join("smolvm-cleanup");
    std::os::unix::fs::symlink(prerequisite::smolvm_bin(), &alias).unwrap();
    let own_name = alias.to_str().unwrap();
    let run = |args: &[&str]| place.cmd(own_name).args(args).run();
    run(&[]).assert_code(1);
    run(&["--all", "--prefix", "a"]).assert_code(2);
    run(&["--prefix", ""]).assert_code(2);
    run(&["list"]).assert_code(2);
    assert_eq!(Cleaned::of(&run(&["--dry-run", "--json"])).targets(), ["vm-a"]);
    let human = run(&["--dry-run"]);
    assert_eq!(human.stdout, place.smolvm(&["cleanup", "--dry-run"]).run().stdout, "{human}");
    let cleaned = Cleaned::of(&run(&["--force", "--json"]));
    cleaned.assert_ok();
    assert_eq!(cleaned.deleted(), ["vm-a"]);
    // Through PATH as well, where argv[0] has no directory; and with a home of its own choice.
    let dir = place.scratch().to_str().unwrap();
    let path = format!("{dir}:/usr/bin:/bin");
    let home = place.home().to_str().unwrap();
    let line =
        place.cmd("sh").args(&["-c", "smolvm-cleanup --all --force --home \"$0\"", home]).env("PATH", path).without_env("SMOLVM_HOME");
    line.run().assert_ok();
    assert!(place.ids().is_empty());
    oracle.assert_clean();
}

#[test]
fn help_points_to_doctor_and_back() {
    let place = Place::without_network();
    for args in [&["cleanup", "--help"][..], &["cleanup", "-h"]] {
        let help = place.smolvm(args).run();
        help.assert_ok();
        assert!(help.stdout.contains("smolvm doctor"), "{help}");
        for option in ["--all", "--prefix", "--dry-run", "--force", "-f", "--json", "vm-"] {
            assert!(help.stdout.contains(option), "{option}\n{help}");
        }
    }
    let help = place.smolvm(&["doctor", "--help"]).run();
    assert!(help.stdout.contains("smolvm cleanup"), "{help}");
}

/// Hostile ids are no ids anywhere: refused before any effect.
#[test]
fn hostile_ids_in_arguments_are_refused() {
    let place = Place::without_network();
    place.create("vm-a", &[]);
    let oracle = place.oracle();
    let bait = place.scratch().join("bait");
    std::fs::create_dir(&bait).unwrap();
    std::fs::write(bait.join("owner"), "precious").unwrap();
    let before = tree(place.scratch());
    let long = "a".repeat(300);
    let just_too_long = "a".repeat(64);
    for id in [
        "../..",
        "../../bait",
        "/etc",
        "/",
        ".",
        "..",
        "",
        "vm-a\n",
        "vm-\u{0007}a",
        "VM-A",
        "-a",
        "a-",
        "a/b",
        "a b",
        &long,
        &just_too_long,
    ] {
        for verb in ["delete", "start", "stop", "inspect"] {
            let ran = place.smolvm(&[verb, "--json", "--", id]).run();
            let answer = envelope(&ran);
            assert_eq!((ran.code(), answer["error"]["code"].as_str()), (Some(2), Some("usage_error")), "{verb} {id:?}\n{ran}");
        }
        let ran = place.smolvm(&["create", "--json", "--image", "minimal", &format!("--name={id}")]).run();
        assert_eq!((ran.code(), envelope(&ran)["error"]["code"].as_str()), (Some(2), Some("usage_error")), "create {id:?}\n{ran}");
    }
    assert_eq!(tree(place.scratch()), before);
    oracle.assert_clean();
    place.cleanup(&["--force"]).assert_ok();
}
