//! The jail tried from the inside: a program in the hypervisor's place goes for everything, and gets nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};

use smolvm_model::engine::fd;
use standin::{END, Targets, Template, Then, Tried};
use support::{Bench, Caller, NOBODY, command, line};

/// Succeeds in the jail on purpose, or is forbidden by QEMU's own seccomp filter only, which the
/// stand-in runs without.
fn is_allowed(caller: Caller, what: &str) -> bool {
    // Root's child may forbid executable memory files in its pid namespace; an ordinary user's may not.
    let from_memory = what == "run a program from memory" && (caller == Caller::Nobody || !Path::new("/proc/sys/vm/memfd_noexec").exists());
    what.starts_with("may ") || what.starts_with("left to seccomp") || from_memory
}

/// Things worth attacking, alive while this is.
struct Host {
    targets: Targets,
    victim: Child,
    _unix: UnixListener,
    _abstract: UnixListener,
    _tcp: TcpListener,
}

impl Host {
    fn new(bench: &Bench, then: Then) -> Self {
        let uid = bench.caller.jail_uid();
        let other_file = bench.path("other-sandbox.img");
        std::fs::write(&other_file, "secret").unwrap();
        chown(&other_file, Some(uid), Some(uid)).unwrap();
        let unix_path = bench.path("monitor.sock");
        let unix = UnixListener::bind(&unix_path).unwrap();
        std::fs::set_permissions(&unix_path, std::fs::Permissions::from_mode(0o777)).unwrap();
        let name = format!("smolvm-test-{}", bench.token);
        let listening = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        // Of the jail's own uid: nothing but the jail protects it.
        let victim = command("/bin/sleep".as_ref()).arg("600").uid(uid).gid(uid).spawn().unwrap();
        let library = std::fs::canonicalize("/lib/x86_64-linux-gnu/libc.so.6").unwrap();
        let targets = Targets {
            other_file: other_file.display().to_string(),
            unix_path: unix_path.display().to_string(),
            unix_abstract: name,
            tcp_port: tcp.local_addr().unwrap().port(),
            victim_pid: i32::try_from(victim.id()).unwrap(),
            file_size: bench.data_size,
            library: library.display().to_string(),
            template: None,
            then,
        };
        Self { targets, victim, _unix: unix, _abstract: listening, _tcp: tcp }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
    }
}

fn report(lines: impl BufRead) -> BTreeMap<String, i32> {
    let tried = lines.lines().map_while(Result::ok).map_while(|l| serde_json::from_str::<Tried>(&l).ok());
    tried.take_while(|t| t.what != END).map(|t| (t.what, t.errno)).collect()
}

/// The attempts, once it is seen that nothing was inherited but the descriptors up to this one, and the disk's second one.
fn without_descriptors(report: BTreeMap<String, i32>, last: i32) -> BTreeMap<String, i32> {
    let (descriptors, tried): (BTreeMap<_, _>, BTreeMap<_, _>) = report.into_iter().partition(|(what, _)| what.starts_with("descriptor"));
    let want: BTreeSet<String> = (0..=last).chain([fd::DATA_READ]).map(|n| format!("descriptor {n}")).collect();
    assert_eq!(descriptors.into_keys().collect::<BTreeSet<_>>(), want, "descriptors inherited");
    tried
}

fn everything_fails_inside(caller: Caller) {
    let bench = Bench::new(caller).with_standin();
    let host = Host::new(&bench, Then::Exit);
    let mut started = bench.start(Some(&host.targets), "console");
    assert!(started.pid() > 1);
    let tried = report(&mut started.out);
    let tried = without_descriptors(tried, 8);
    assert!(tried.len() > 40, "the stand-in stopped early: {tried:#?}");
    let broken: Vec<_> = tried.iter().filter(|(what, errno)| (**errno == 0) != is_allowed(caller, what)).collect();
    assert!(broken.is_empty(), "as {caller:?}: {broken:#?}\nof {tried:#?}");
    let end = line(&mut started.out);
    assert_eq!(end["outcome"], "exit status 0");
}

#[test]
fn everything_fails_inside_for_root() {
    everything_fails_inside(Caller::Root);
}

#[test]
fn everything_fails_inside_for_an_ordinary_user() {
    everything_fails_inside(Caller::Nobody);
}

/// What the stand-in gets done without a jail; gives how much it tried.
fn all_succeeds_outside(bench: &Bench, host: &Host) -> usize {
    let mut child = command(&bench.path("standin")).arg("--outside").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    serde_json::to_writer(child.stdin.take().unwrap(), &host.targets).unwrap();
    let tried = report(std::io::BufReader::new(child.stdout.take().unwrap()));
    child.wait().unwrap();
    let failed: Vec<_> = tried.iter().filter(|(_, errno)| **errno != 0).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    tried.len()
}

/// The control: the same attempts on the same targets succeed without a jail.
#[test]
fn everything_succeeds_outside() {
    let bench = Bench::new(Caller::Root);
    let host = Host::new(&bench, Then::Exit);
    assert!(all_succeeds_outside(&bench, &host) > 28);
}

/// A template as the cache has it: its owner may write it, and nobody else may even read it.
fn template(bench: &Bench) -> Template {
    let owner = match bench.caller {
        Caller::Root => 0,
        Caller::Nobody => NOBODY,
    };
    let make = |name: &str, length: usize| {
        let path = bench.path(name);
        std::fs::write(&path, vec![7; length]).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(owner), Some(owner)).unwrap();
        path.display().to_string()
    };
    Template { memory: make("memory", 64 << 20), devices: make("devices", 4096) }
}

fn no_fork_can_write_its_template(caller: Caller) {
    let bench = Bench::new(caller).with_standin();
    let mut host = Host::new(&bench, Then::Exit);
    let template = template(&bench);
    host.targets.template = Some(template.clone());
    let mut started = bench.start(Some(&host.targets), "console");
    assert!(started.pid() > 1);
    let tried = without_descriptors(report(&mut started.out), 9);
    assert!(tried.len() > 15, "the stand-in stopped early: {tried:#?}");
    let broken: Vec<_> = tried.iter().filter(|(what, errno)| (**errno == 0) != what.starts_with("may ")).collect();
    assert!(broken.is_empty(), "as {caller:?}: {broken:#?}\nof {tried:#?}");
    assert_eq!(tried["open the name again"], 38, "ENOSYS: nobody answers any more");
    assert!(std::fs::read(&template.memory).unwrap() == vec![7; 64 << 20], "the memory has changed");
    assert!(std::fs::read(&template.devices).unwrap() == vec![7; 4096], "the devices have changed");
    assert_eq!(line(&mut started.out)["outcome"], "exit status 0");
}

#[test]
fn no_fork_of_root_can_write_its_template() {
    no_fork_can_write_its_template(Caller::Root);
}

#[test]
fn no_fork_of_an_ordinary_user_can_write_its_template() {
    no_fork_can_write_its_template(Caller::Nobody);
}

/// The control: whoever may open it, and is in no jail, can do all of that.
#[test]
fn a_template_can_be_written_outside() {
    let bench = Bench::new(Caller::Root);
    let mut host = Host::new(&bench, Then::Exit);
    host.targets.template = Some(template(&bench));
    assert!(all_succeeds_outside(&bench, &host) > 15);
}

#[test]
fn a_crash_leaves_no_core() {
    let bench = Bench::new(Caller::Root).with_standin();
    let host = Host::new(&bench, Then::Abort);
    let mut started = bench.start(Some(&host.targets), "console");
    let pid = started.pid();
    let filter = std::fs::read_to_string(format!("/proc/{pid}/coredump_filter")).unwrap_or_default();
    assert!(report(&mut started.out).len() > 40);
    // The first process of a pid namespace ignores its own SIGABRT; the C library then makes it fault.
    let outcome = line(&mut started.out)["outcome"].to_string();
    assert!(outcome.contains("signal 6") || outcome.contains("signal 11"), "{outcome}");
    // Even a handler that the kernel pipes cores to, whatever their limit, would get no memory.
    assert!(filter.trim().is_empty() || filter.trim() == "00000000", "{filter}");
}
