//! Completion scripts: they parse, and complete what they say.

use testkit::{SealedEnv, prerequisite};

use crate::place::{SMOLVM, json, run};

#[test]
fn the_bash_script_parses_and_completes() {
    prerequisite::programs(&["bash"]);
    let env = SealedEnv::new();
    let script = env.scratch().join("smolvm.bash");
    let text = run(&env, &["completion", "bash"]).stdout;
    std::fs::write(&script, &text).unwrap();
    env.cmd("bash").arg("-n").arg(&script).run().assert_ok();
    let complete = |line: &str, word: &str| {
        // The names come from a stand-in for the binary: what counts here is where they are offered.
        let program = format!(
            "smolvm() {{ case \"$2\" in images) printf 'python:3\\npython:4\\n' ;; *) printf 'vm-a\\nvm-b\\n' ;; esac; }}; source {}; \
             COMP_LINE='{line} {word}'; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=({line} '{word}'); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _smolvm_with_names smolvm \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script.display()
        );
        let ran = env.cmd("bash").args(&["-c", &program]).run();
        assert_eq!(ran.stderr, "", "{ran}");
        ran.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    for line in [
        "smolvm start",
        "smolvm --home x stop",
        "smolvm sandbox inspect",
        "smolvm exec",
        "smolvm exec -u root",
        "smolvm rm",
        "smolvm delete vm-a",
    ] {
        assert_eq!(complete(line, ""), ["vm-a", "vm-b"], "{line}");
    }
    for line in [
        "smolvm run",
        "smolvm run --name vm-c -e A=b",
        "smolvm create --image",
        "smolvm template build",
        "smolvm image rm",
        "smolvm image rm x",
        "smolvm image save",
    ] {
        assert_eq!(complete(line, ""), ["python:3", "python:4"], "{line}");
    }
    // What stands before the colon is not typed again.
    assert_eq!(complete("smolvm run", "python:"), ["3", "4"]);
    for line in ["smolvm start vm-a", "smolvm exec vm-a ls", "smolvm create", "smolvm run x", "smolvm image tag x", "smolvm image"] {
        let offered = complete(line, "");
        assert!(!offered.contains(&"vm-b".to_owned()) && !offered.contains(&"python:4".to_owned()), "{line}: {offered:?}");
    }
    assert!(complete("smolvm", "").contains(&"cleanup".to_owned()));
}

#[test]
fn every_shell_asks_for_names() {
    let env = SealedEnv::new();
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(&env, &["completion", shell]);
        ran.assert_ok();
        assert!(ran.stdout.contains("smolvm __complete-names"), "{shell}");
        assert!(ran.stdout.contains("dry-run"), "{shell}");
        let envelope = json(&env, &["completion", shell, "--json"]);
        assert_eq!(envelope["data"]["script"].as_str(), Some(ran.stdout.as_str()));
    }
    // Every positional that is a sandbox, in both forms of the command line.
    let zsh = run(&env, &["completion", "zsh"]).stdout;
    assert_eq!(zsh.matches(":_smolvm_names'").count(), 22, "nine verbs and two aliases, each in two forms");
    assert_eq!(zsh.matches(":_smolvm_images'").count(), 13, "run and create in two forms, a template, six verbs of images, two aliases");
    assert!(zsh.find("_smolvm_names() {").unwrap() < zsh.find("if [ \"$funcstack[1]\"").unwrap(), "defined before it is called");
}

#[test]
fn names_that_cannot_be_read_are_no_noise() {
    let env = SealedEnv::new();
    std::fs::create_dir_all(env.home().join("state")).unwrap();
    std::fs::write(env.home().join("state/state.db"), "no database at all, but something").unwrap();
    let ran = env.cmd(SMOLVM).arg("__complete-names").run();
    ran.assert_ok();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
}
