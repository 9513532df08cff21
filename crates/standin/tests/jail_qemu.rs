//! The real hypervisor in its jail, looked at from outside by reading `/proc`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::time::Duration;

use smolvm_host::jail::{JailError, JailIdentity, JailSpec, Limits, Opens, make};
use support::{Bench, Caller, JAIL_UID, line, status};

/// A kernel QEMU takes: enough of an ELF with a PVH note to be loaded; the guest runs into a halt.
fn with_halting_kernel(bench: Bench) -> Bench {
    fs::write(&bench.kernel, halting_kernel()).unwrap();
    bench
}

/// An ELF64 file: one loadable segment at 1 MiB with `cli; hlt; jmp -3` and a PVH entry note.
fn halting_kernel() -> Vec<u8> {
    let mut file = vec![0_u8; 0x1000 + 16];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2_u16.to_le_bytes());
    put(18, &62_u16.to_le_bytes());
    put(20, &1_u32.to_le_bytes());
    put(24, &0x10_0000_u64.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(52, &64_u16.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &2_u16.to_le_bytes());
    let mut header = |at: usize, kind: u32, offset: u64, address: u64, size: u64, align: u64| {
        put(at, &kind.to_le_bytes());
        put(at + 4, &5_u32.to_le_bytes());
        for (n, value) in [offset, address, address, size, size, align].into_iter().enumerate() {
            put(at + 8 + n * 8, &value.to_le_bytes());
        }
    };
    header(64, 1, 0x1000, 0x10_0000, 16, 0x1000);
    // Note "Xen", type 18 (XEN_ELFNOTE_PHYS32_ENTRY): the entry point.
    header(120, 4, 0x200, 0, 20, 4);
    put(0x200, &4_u32.to_le_bytes());
    put(0x204, &4_u32.to_le_bytes());
    put(0x208, &18_u32.to_le_bytes());
    put(0x20c, b"Xen\0");
    put(0x210, &0x10_0000_u32.to_le_bytes());
    put(0x1000, &[0xfa, 0xf4, 0xeb, 0xfd]);
    file
}

fn namespaces(pid: &str) -> Vec<(String, String)> {
    let mut all: Vec<_> = fs::read_dir(format!("/proc/{pid}/ns"))
        .unwrap()
        .flatten()
        .map(|e| (e.file_name().into_string().unwrap(), fs::read_link(e.path()).unwrap().display().to_string()))
        .collect();
    all.sort();
    all
}

fn qemu_is_jailed(caller: Caller) {
    let bench = with_halting_kernel(Bench::new(caller));
    let mut started = bench.start(None, "stay");
    let pid = started.pid();
    assert_eq!(line(&mut started.out)["status"], "running", "asked through QMP");

    let uid = caller.jail_uid();
    let four = format!("{uid}\t{uid}\t{uid}\t{uid}");
    let want = [
        ("Uid", four.as_str()),
        ("Gid", four.as_str()),
        ("CapInh", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        // It translates, and would ask for them for its code.
        ("THP_enabled", "0"),
    ];
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let text = fs::read_to_string(task.path().join("status")).unwrap();
        for (field, value) in want {
            assert!(text.contains(&format!("\n{field}:\t{value}\n")), "{field} of {}:\n{text}", task.path().display());
        }
    }
    assert!(status(pid, "NSpid").unwrap().ends_with("\t1"), "it is not pid 1 of its own namespace");
    let (ours, theirs) = (namespaces("self"), namespaces(&pid.to_string()));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let shared = ["time", "time_for_children"].contains(&ours.0.as_str()) || (ours.0 == "user" && caller == Caller::Root);
        assert_eq!(ours == theirs, shared, "{ours:?} {theirs:?}");
    }
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    for mount in mounts.lines() {
        let fields: Vec<_> = mount.split(' ').collect();
        assert!(fields[5].split(',').any(|o| o == "ro"), "writable: {mount}");
        assert!(fields[5].split(',').any(|o| o == "nosuid"), "{mount}");
        assert!(fields[4].starts_with("/dev/") || fields[5].split(',').any(|o| o == "nodev"), "{mount}");
    }
    assert!(!mounts.contains("/etc/passwd") && !mounts.contains("- proc"), "{mounts}");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let hard = |name: &str| limits.lines().find_map(|l| l.strip_prefix(name)?.split_ascii_whitespace().nth(1)).unwrap().to_owned();
    assert_eq!((hard("Max core file size").as_str(), hard("Max file size")), ("0", bench.data_size.to_string()));
    assert_eq!(fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");
    let argv = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let argv: Vec<_> = argv.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
    assert_eq!(argv[1..5], ["-name", "smolvm:0123456789:jail-test", "-uuid", bench.token.as_str()]);

    let enforced = &started.report["enforced"];
    for (field, value) in [("uid", u64::from(uid)), ("core_limit", 0), ("file_size_limit", bench.data_size)] {
        assert_eq!(enforced[field], value, "{field}");
    }
    for field in ["capabilities_empty", "no_new_privs", "seccomp", "read_only"] {
        assert_eq!(enforced[field], true, "{field}");
    }
    // The last check: when its monitor is gone, so is it.
    started.kill();
    assert!(bench.gone_within(Duration::from_secs(2)), "it outlived its monitor");
}

#[test]
fn qemu_is_jailed_for_root() {
    qemu_is_jailed(Caller::Root);
}

#[test]
fn qemu_is_jailed_for_an_ordinary_user() {
    qemu_is_jailed(Caller::Nobody);
}

/// Killed at any moment of a launch, the monitor leaves no hypervisor behind.
#[test]
fn no_moment_of_a_launch_survives_its_monitor() {
    for caller in [Caller::Root, Caller::Nobody] {
        let bench = with_halting_kernel(Bench::new(caller));
        // Fills the cache, so that what follows is the launch itself.
        bench.start(None, "stay").kill();
        assert!(bench.gone_within(Duration::from_secs(2)));
        for round in 0..24 {
            let (mut launcher, _out) = bench.spawn(None, "stay");
            // Not a wait for something: the moment of the kill is what varies.
            std::thread::sleep(Duration::from_millis(round * 3));
            launcher.kill().unwrap();
            launcher.wait().unwrap();
            assert!(bench.gone_within(Duration::from_secs(2)), "as {caller:?}, killed after {} ms: {:?}", round * 3, bench.processes());
        }
    }
}

#[test]
fn a_hypervisor_that_dies_at_its_start_says_why_and_leaves_nothing() {
    let bench = Bench::new(Caller::Root);
    fs::write(&bench.kernel, "this is no kernel").unwrap();
    let started = bench.start(None, "stay");
    let error = started.report["error"].as_str().unwrap_or_else(|| panic!("{}", started.report));
    assert!(error.contains("the hypervisor ended at its start (exit status 1)"), "{error}");
    assert!(bench.gone_within(Duration::from_secs(2)));
}

#[test]
fn files_the_jail_could_not_read_are_named() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new(Caller::Root);
    fs::set_permissions(&bench.initramfs, fs::Permissions::from_mode(0o600)).unwrap();
    let error = bench.start(None, "stay").report["error"].to_string();
    assert!(error.contains("initramfs cannot be read by the jailed hypervisor"), "{error}");
    fs::remove_file(&bench.kernel).unwrap();
    let error = bench.start(None, "stay").report["error"].to_string();
    assert!(error.contains("kernel: No such file"), "{error}");
    assert!(bench.processes().is_empty());
}

#[test]
fn a_jail_is_refused_where_it_could_not_hold() {
    let spec = |identity| JailSpec {
        program: "/bin/true".into(),
        files: Vec::new(),
        devices: Vec::new(),
        identity,
        groups: Vec::new(),
        limits: Limits { open_files: 256, threads: None },
        huge_pages: true,
        opens: Opens::Kernel,
    };
    // This test runs in a process of several threads.
    assert!(matches!(make(&spec(JailIdentity::Uid(JAIL_UID))), Err(JailError::Threads { .. })));
}

/// As in a container: root, but without the capability that namespaces take.
#[test]
fn root_without_the_right_to_namespaces_is_told_so() {
    let bench = with_halting_kernel(Bench::new(Caller::Root));
    let error = bench.start_under(&["--bounding-set", "-sys_admin", "--"]).report["error"].to_string();
    assert!(error.contains("the kernel refuses namespaces to this user: root lacks CAP_SYS_ADMIN here"), "{error}");
    // A monitor that may not end its hypervisor could not take it along either.
    let error = bench.start_under(&["--bounding-set", "-kill", "--"]).report["error"].to_string();
    assert!(error.contains("cannot be tied to this process"), "{error}");
    assert!(bench.gone_within(Duration::from_secs(2)));
}
