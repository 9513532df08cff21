//! The users' pages: their examples are run, and show what they say they show.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::Place;

/// `…` stands for anything within a line; alone on a line, for any number of lines.
fn shows(pattern: &[&str], lines: &[&str]) -> bool {
    match (pattern.split_first(), lines.split_first()) {
        (None, None) => true,
        (Some((&"…", rest)), _) => (0..=lines.len()).any(|skip| shows(rest, &lines[skip..])),
        (Some((first, rest)), Some((line, others))) => line_shows(first, line) && shows(rest, others),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

fn line_shows(pattern: &str, line: &str) -> bool {
    let parts: Vec<&str> = pattern.split('…').collect();
    let [first, middle @ .., last] = parts.as_slice() else { return pattern == line };
    let Some(mut rest) = line.strip_prefix(first).and_then(|rest| rest.strip_suffix(last)) else { return false };
    for part in middle {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    true
}

/// Runs every command of a page's examples; gives how many there were.
fn run_examples(page: &str, examples: usize) -> usize {
    run_examples_with(page, examples, &["kernels", "images", "disks"], &["initramfs"])
}

/// The same with these parts of the cache shared, and these copied.
fn run_examples_with(page: &str, examples: usize, shared: &[&str], copied: &[&str]) -> usize {
    let page = std::fs::read_to_string(format!("{}/../../docs/{page}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let found: Vec<&str> = page.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(found.len(), examples, "the page's examples were not found");
    let place = Place::without_network();
    // What an example prunes is its own.
    place.own_cache(shared, copied);
    let oracle = place.oracle();
    let bin = place.scratch().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(testkit::prerequisite::smolvm_bin(), bin.join("smolvm")).unwrap();
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display());
    let mut commands = 0;
    for block in found.iter().flat_map(|example| example.split("$ ").skip(1)) {
        let (command, output) = block.split_once('\n').unwrap();
        let line = format!("cd {}; {command}", place.scratch().display());
        let ran = place.cmd("sh").args(&["-c", &line]).env("PATH", &path).run();
        ran.assert_ok();
        let (wanted, got): (Vec<&str>, Vec<&str>) = (output.lines().collect(), ran.stdout.lines().collect());
        assert!(shows(&wanted, &got), "the page shows\n{output}\n{ran}");
        commands += 1;
    }
    place.ok(&["setup", "--remove"]);
    // What an example settled is its user's own file.
    std::fs::remove_file(place.path("config.toml")).ok();
    oracle.assert_clean();
    commands
}

#[test]
fn the_examples_of_cleanup_run_as_they_are_printed() {
    assert!(run_examples("cleanup.md", 2) >= 8, "commands of the examples were not found");
}

#[test]
fn the_example_of_templates_runs_as_it_is_printed() {
    assert!(run_examples("templates.md", 1) >= 7, "commands of the example were not found");
}

#[test]
fn the_example_of_pause_runs_as_it_is_printed() {
    assert!(run_examples("pause.md", 1) >= 7, "commands of the example were not found");
}

#[test]
fn the_example_of_the_pool_runs_as_it_is_printed() {
    assert!(run_examples("pool.md", 1) >= 7, "commands of the example were not found");
}

#[test]
fn the_example_of_the_configuration_runs_as_it_is_printed() {
    assert!(run_examples("config.md", 1) >= 6, "commands of the example were not found");
}

#[test]
fn the_example_of_fork_runs_as_it_is_printed() {
    assert!(run_examples("fork.md", 1) >= 8, "commands of the example were not found");
}

#[test]
fn the_example_of_snapshots_runs_as_it_is_printed() {
    assert!(run_examples("snapshots.md", 1) >= 10, "commands of the example were not found");
}

#[test]
fn the_example_of_prune_runs_as_it_is_printed() {
    assert!(run_examples("prune.md", 1) >= 5, "commands of the example were not found");
}

#[test]
fn the_example_of_images_runs_as_it_is_printed() {
    // Names are given to images: they are this page's own.
    let commands = run_examples_with("images.md", 1, &["kernels", "disks"], &["images", "initramfs"]);
    assert!(commands >= 5, "commands of the example were not found");
}

#[test]
fn patterns() {
    assert!(shows(&["a … c", "…", "end"], &["a b c", "x", "y", "end"]));
    assert!(shows(&["…", "end"], &["end"]));
    assert!(!shows(&["a … c"], &["a b d"]));
    assert!(!shows(&["a"], &["a", "b"]));
}
