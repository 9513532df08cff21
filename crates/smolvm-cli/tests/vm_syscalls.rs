//! No process of smolvm's changes anything outside the gate: the system calls of every verb, traced by somebody else.
//!
//! ```text
//!   strace -f smolvm VERB ──► per process: calls that change something, and the lines of the product's own trace
//!                               │                                         (before:tap … after:tap) in between
//!                               └─ each such call lies between a before and its after, or where one of the
//!                                  few rules of `Excuse` says why not
//! ```

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test starts programs; how much was tried is told"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use rustix::process::Signal;
use support::matrix::{self, Scenario};

/// The calls that are looked at: those that can change a file, a process or a network.
const CALLS: &str = "trace=open,openat,creat,mkdir,mkdirat,rmdir,unlink,unlinkat,rename,renameat,renameat2,link,linkat,symlink,\
                     symlinkat,mknod,mknodat,chmod,fchmod,fchmodat,chown,fchown,lchown,fchownat,truncate,ftruncate,fallocate,\
                     copy_file_range,setxattr,fsetxattr,mount,umount2,kill,tgkill,pidfd_send_signal,ioctl,bind,sendto,sendmsg,write,\
                     execve,clone,clone3";

/// One call of one process.
#[derive(Debug)]
struct Call<'a> {
    pid: &'a str,
    name: &'a str,
    rest: &'a str,
}

fn parse(line: &str) -> Option<Call<'_>> {
    let (pid, rest) = line.split_once(' ')?;
    let rest = rest.trim_start();
    // Of calls that were interrupted by another process's only a clone's end is of interest: it names the clone.
    let (name, rest) = match rest.strip_prefix("<... clone") {
        Some(rest) => ("clone", rest),
        None => rest.split_once('(')?,
    };
    // What failed changed nothing.
    let failed = rest.rsplit_once(" = ").is_some_and(|(_, result)| result.starts_with('-'));
    (!failed && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')).then_some(Call { pid, name, rest })
}

impl Call<'_> {
    /// Whether it changes something that is there after the process.
    fn changes(&self) -> bool {
        let has = |words: &[&str]| words.iter().any(|word| self.rest.contains(word));
        match self.name {
            "open" | "openat" => has(&["O_CREAT", "O_TRUNC", "O_WRONLY", "O_RDWR"]),
            "ioctl" => has(&["TUNSET", "SIOCS"]),
            "bind" => has(&["sun_path"]),
            "sendto" | "sendmsg" => has(&["RTM_NEW", "RTM_DEL", "RTM_SET", "NFT_MSG_NEW", "NFT_MSG_DEL"]),
            "kill" | "tgkill" | "pidfd_send_signal" => !has(&[", 0"]),
            "write" | "execve" | "clone" | "clone3" => false,
            _ => true,
        }
    }

    /// Why it may lie outside every effect.
    fn excuse(&self, home: &str) -> Option<&'static str> {
        let beneath = |dir: &str| self.rest.contains(&format!("{home}/{dir}"));
        let devices = ["\"/dev/null\"", "\"/dev/kvm\"", "\"/dev/tty\"", "\"/dev/net/tun\""];
        if beneath("state/state.db") {
            return Some("the ledger's own files: SQLite survives its own end at any point");
        }
        if beneath("state/sandboxes/") || beneath("run/vm-") {
            return Some("inside a directory that is on record as a whole");
        }
        if beneath("cache/tmp/") || beneath("cache/tmp>") {
            return Some("inside the private directory of a builder, gone with it or with the next one");
        }
        if (beneath("state/locks/") || beneath("cache/locks/")) && !self.rest.contains("O_CREAT") && self.name == "openat" {
            return Some("a lock file that is there is opened to be locked");
        }
        if devices.iter().any(|device| self.rest.contains(device)) {
            return Some("a device that keeps nothing by being opened");
        }
        if self.rest.contains("ifi_index=2147483647") {
            return Some("a question about rights: no device has this number, so the answer is all there is");
        }
        if self.rest.contains("/trace\"") {
            return Some("the trace that this test reads");
        }
        None
    }
}

/// Runs the verb under `strace`; gives every call that nothing covers.
fn uncovered(scenario: &Scenario) -> (Vec<String>, usize) {
    let place = (scenario.place)();
    (scenario.prepare)(&place);
    let log = place.scratch().join("strace");
    let product = testkit::prerequisite::smolvm_bin();
    let words = ["-f", "-q", "-y", "-s", "256", "-e", CALLS, "-e", "signal=none", "-o"];
    // The quick way stops at these calls only, and leaves a filter behind that needs its tracer: not for who stays.
    let quick: &[&str] = if scenario.name == matrix::START.name { &[] } else { &["--seccomp-bpf"] };
    let mut tracer = place
        .cmd("strace")
        .args(quick)
        .args(&words)
        .arg(&log)
        .arg(&product)
        .args(scenario.verb)
        .env("SMOLVM_TEST_TRACE", Scenario::trace(&place))
        .timeout(matrix::PATIENCE)
        .spawn();
    // The tracer would stay as long as the monitor and the hypervisor; when it is gone, the kernel lets them go.
    let text = testkit::until(&format!("{}: the end of the verb", scenario.name), matrix::PATIENCE, || {
        let text = std::fs::read_to_string(&log).ok()?;
        let verb = text.split(' ').next()?;
        // Short pids are filled up with spaces.
        let ended = text.lines().any(|line| line.strip_prefix(verb).is_some_and(|rest| rest.trim_start().starts_with("+++ ")));
        (ended || tracer.has_ended()).then_some(text)
    });
    tracer.signal(Signal::KILL);
    let ran = tracer.wait();
    assert!(text.contains(" +++ exited with 0 +++"), "{}: {ran}\n{text}", scenario.name);
    place.cleanup(&["--all", "--force"]);
    let home = place.home().to_str().unwrap();
    judge(&whole(&text), home, product.to_str().unwrap())
}

/// The calls that another process's interrupted, as one line where they ended: only then it is known whether they failed. One that never
/// ended stays where it began; so do `execve` and clones, for what they make runs before they end.
fn whole(text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut begun: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(call) = rest.strip_suffix("<unfinished ...>") {
            if !call.starts_with("clone") && !call.starts_with("execve") {
                begun.insert(pid, (at, call));
            }
        } else if let Some((_, end)) = rest.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>"))
            && let Some((began, call)) = begun.remove(pid)
        {
            lines[at] = format!("{pid} {call}{end}");
            lines[began].clear();
        }
    }
    lines.join("\n")
}

/// Every thread's process. Its first calls may be told before the clone that made it is told to have returned.
fn leaders(text: &str) -> BTreeMap<&str, &str> {
    // Clones whose end is told on a line of its own, and whether they make a thread.
    let mut begun: BTreeMap<&str, bool> = BTreeMap::new();
    let mut leaders: BTreeMap<&str, &str> = BTreeMap::new();
    for call in text.lines().filter_map(parse).filter(|call| call.name.starts_with("clone")) {
        let thread = call.rest.contains("CLONE_THREAD") || begun.remove(call.pid).unwrap_or(false);
        match call.rest.rsplit_once(" = ") {
            None => drop(begun.insert(call.pid, thread)),
            Some((_, made)) if thread => {
                let process = leaders.get(call.pid).copied().unwrap_or(call.pid);
                leaders.insert(made.split(' ').next().unwrap_or(made), process);
            }
            Some(_) => {}
        }
    }
    leaders
}

fn judge(text: &str, home: &str, product: &str) -> (Vec<String>, usize) {
    let mut depth: BTreeMap<&str, usize> = BTreeMap::new();
    // Tools and the hypervisor are no processes of the product: what they do was begun inside an effect, or only asks.
    let mut ours: BTreeSet<&str> = BTreeSet::new();
    // The group of a tool that has ended is made sure to be gone.
    let mut tools: BTreeSet<&str> = BTreeSet::new();
    let own_tool = |call: &Call<'_>, tools: &BTreeSet<&str>| {
        let group = call.rest.strip_prefix('-').and_then(|rest| rest.split(',').next());
        call.name == "kill" && group.is_some_and(|group| tools.contains(group))
    };
    let leader = leaders(text);
    let (mut found, mut covered) = (Vec::new(), 0);
    for mut call in text.lines().filter_map(parse) {
        if call.name == "execve" {
            let program = call.rest.contains(product) || call.rest.contains("/proc/self/exe");
            if program {
                ours.insert(call.pid);
            } else {
                ours.remove(call.pid);
                tools.insert(call.pid);
            }
            continue;
        }
        call.pid = leader.get(call.pid).copied().unwrap_or(call.pid);
        if !ours.contains(call.pid) {
            continue;
        }
        // A thread does what its process is about; a child is looked at once it is the product again.
        if call.name.starts_with("clone") {
            continue;
        }
        if call.name == "write" {
            let inside = depth.entry(call.pid).or_default();
            if call.rest.contains(" before:") {
                *inside += 1;
            } else if call.rest.contains(" after:") {
                *inside = inside.saturating_sub(1);
            }
            continue;
        }
        if !call.changes() {
            continue;
        }
        if depth.get(call.pid).is_some_and(|inside| *inside > 0) || call.excuse(home).is_some() || own_tool(&call, &tools) {
            covered += 1;
        } else {
            found.push(format!("{} {}({}", call.pid, call.name, call.rest));
        }
    }
    (found, covered)
}

#[test]
fn nothing_changes_outside_the_gate() {
    let mut all = 0;
    for scenario in [
        &matrix::CREATE,
        &matrix::START,
        &matrix::STOP,
        &matrix::PAUSE,
        &matrix::RESUME,
        &matrix::DELETE,
        &matrix::RUN,
        &matrix::TEMPLATE_BUILD,
        &matrix::TEMPLATE_DELETE,
        &matrix::CLEANUP,
        &matrix::CLEANUP_LOST,
        &matrix::SET_ASIDE,
        &matrix::SETUP,
        &matrix::SETUP_DEBIAN,
        &matrix::SETUP_REMOVE,
        &matrix::IMAGE_PULL,
        &matrix::IMAGE_TAG,
        &matrix::IMAGE_RM,
        &matrix::IMAGE_SAVE,
        &matrix::IMAGE_LOAD,
        &matrix::IMAGE_IMPORT,
        &matrix::IMAGE_DEBOOTSTRAP,
        &matrix::IMAGE_PRUNE,
        &matrix::POOL_FILL,
    ] {
        let (found, covered) = uncovered(scenario);
        assert!(found.is_empty(), "{}: outside every effect:\n{}", scenario.name, found.join("\n"));
        assert!(covered > 0, "{}: nothing was seen at all", scenario.name);
        all += covered;
    }
    println!("{all} calls that change something, each inside an effect");
}

/// The judge itself: a call outside is found, one inside is not, and a tool's or a stranger's is not looked at.
#[test]
fn the_judge_sees_what_lies_outside() {
    let lines = [
        r#"10 execve("/x/smolvm", ["smolvm"], 0x0) = 0"#,
        r#"10 mkdirat(AT_FDCWD, "/h/state/odd", 0700) = 0"#,
        r#"10 write(3</t/trace>, "10 before:home\n", 15) = 15"#,
        r#"10 mkdirat(AT_FDCWD, "/h/state/locks", 0700) = 0"#,
        r#"10 write(3</t/trace>, "10 after:home\n", 14) = 14"#,
        r#"10 mkdirat(AT_FDCWD, "/h/late", 0700) = 0"#,
        r#"10 mkdirat(AT_FDCWD, "/h/failed", 0700) = -1 EEXIST (File exists)"#,
        r#"10 openat(AT_FDCWD, "/h/file", O_RDONLY) = 4"#,
        r"10 sendto(4<NETLINK:[1]>, [{nlmsg_len=32, nlmsg_type=RTM_DELLINK}], 32, 0, NULL, 0) = 32",
        r#"11 execve("/usr/sbin/nft", ["nft"], 0x0) = 0"#,
        r#"11 unlink("/h/other") = 0"#,
    ];
    let (found, covered) = judge(&lines.join("\n"), "/h", "/x/smolvm");
    assert_eq!(covered, 1);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found[0].contains("odd") && found[1].contains("late") && found[2].contains("RTM_DELLINK"), "{found:#?}");
}

/// A thread's calls are its process's, also those that are told before its maker has heard of it.
#[test]
fn a_thread_is_known_before_it_is_told_to_be_there() {
    let lines = [
        r#"10 execve("/x/smolvm", ["smolvm"], 0x0) = 0"#,
        r"10 clone3({flags=CLONE_VM|CLONE_THREAD, exit_signal=0} <unfinished ...>",
        r#"12 write(3</t/trace>, "10 before:home\n", 15) = 15"#,
        r"10 <... clone3 resumed>) = 12",
        r#"12 mkdir("/h/within", 0700) = 0"#,
        r#"12 write(3</t/trace>, "10 after:home\n", 14) = 14"#,
        r#"12 mkdir("/h/late", 0700) = 0"#,
    ];
    let (found, covered) = judge(&whole(&lines.join("\n")), "/h", "/x/smolvm");
    assert_eq!((found.len(), covered), (1, 1), "{found:#?}");
    assert!(found[0].contains("late"), "{found:#?}");
}

/// What came of a call is told where it ends; one whose end is not told is taken for done.
#[test]
fn interrupted_calls_are_judged_by_how_they_end() {
    let lines = [
        r#"10 execve("/x/smolvm", ["smolvm"], 0x0) = 0"#,
        r#"10 mkdir("/h/there", 0700 <unfinished ...>"#,
        r#"7  mkdir("/h/not ours", 0700 <unfinished ...>"#,
        r"10 <... mkdir resumed>)            = -1 EEXIST (File exists)",
        r#"10 mkdir("/h/made", 0700 <unfinished ...>"#,
        r"7  <... mkdir resumed>) = 0",
        r"10 <... mkdir resumed>) = 0",
        r#"10 write(3</t/trace>, "10 before:home\n", 15 <unfinished ...>"#,
        r"10 <... write resumed>) = 15",
        r#"10 mkdir("/h/within", 0700 <unfinished ...>"#,
        r"10 <... mkdir resumed>) = 0",
        r#"10 write(3</t/trace>, "10 after:home\n", 14) = 14"#,
        r#"10 unlink("/h/never told" <unfinished ...>"#,
    ];
    let (found, covered) = judge(&whole(&lines.join("\n")), "/h", "/x/smolvm");
    assert_eq!((found.len(), covered), (2, 1), "{found:#?}");
    assert!(found[0].contains("made") && found[1].contains("never told"), "{found:#?}");
}
