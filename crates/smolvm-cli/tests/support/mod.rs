//! What the tests with sandboxes share.
//!
//! ```text
//!   Place       a home of its own, images in it, a private network or none; the real binary
//!   answer      which code and exit status a command may end with
//!   Cleaned     what `cleanup --json` said, its shape checked field by field
//!   drawn       a process that draws numbers all the time, and what its copies drew
//!   mirror      a Debian of a few small packages, which `setup` takes for the host's
//!   Pty         the binary on a terminal of its own: read, type, end
//!   rows        the ledger, read and written behind the product's back
//!   Impostor    a process with a mark at the hypervisor's place that is no hypervisor
//! ```
//!
//! A test makes a `Place`, takes its `oracle()`, works, and ends with `assert_clean()`. Sandboxes
//! that only have to be *stale* are seeded (milliseconds), not booted (seconds).

#![allow(
    dead_code,
    unused_imports,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "each test binary uses a part of this; it starts programs and reads /proc itself"
)]

pub(crate) mod answer;
mod cleaned;
mod drawn;
mod impostor;
pub(crate) mod matrix;
mod mirror;
mod pty;
pub(crate) mod registry;
pub(crate) mod rows;
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use smolvm::seed::StandIns;
use smolvm::{Paths, Settings, Smolvm};
use testkit::process::Process;
use testkit::{Cmd, LeakOracle, Netns, NetnsHost, Ran, Scope, SealedEnv, prerequisite};

pub(crate) use cleaned::Cleaned;
pub(crate) use drawn::{DRAWING, assert_nothing_shared, until_drawn};
pub(crate) use impostor::Impostor;
pub(crate) use pty::Pty;
pub(crate) use tree::tree;

/// A boot takes a second or two alone, and eight on a loaded machine.
pub(crate) const BOOT: Duration = Duration::from_secs(90);
/// What happens by itself once something else has ended.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// An installation of its own.
pub(crate) struct Place {
    // Dropped in this order: the processes first, then the network they were in.
    env: SealedEnv,
    net: Option<NetnsHost>,
    home: PathBuf,
}

impl Place {
    /// In a private network: sandboxes have TAPs.
    pub(crate) fn with_network() -> Self {
        let env = SealedEnv::with_images();
        let home = env.home().to_owned();
        Self { env, net: Some(NetnsHost::new()), home }
    }

    /// Without one, and quicker: sandboxes are made with `--net none`.
    pub(crate) fn without_network() -> Self {
        prerequisite::root();
        let env = SealedEnv::with_images();
        let home = env.home().to_owned();
        Self { env, net: None, home }
    }

    /// With images that are the place's own, so that they may be made, named and removed.
    #[must_use]
    pub(crate) fn owning_images(self) -> Self {
        self.own_cache(&["kernels", "disks"], &["images", "initramfs"]);
        self
    }

    /// In a private network, with an apt that knows a small mirror in a directory and nothing else.
    pub(crate) fn with_mirror() -> Self {
        let place = Self::with_network();
        mirror::lay_over(place.host());
        place
    }

    /// A second installation on the host of this one.
    pub(crate) fn second_home(&self) -> PathBuf {
        let home = self.env.scratch().join("second");
        std::fs::create_dir(&home).unwrap();
        std::os::unix::fs::symlink(prerequisite::test_home().join("cache"), home.join("cache")).unwrap();
        home
    }

    /// Gives the place a cache of its own in place of the prepared one: these parts of it by links, those as copies of what stays there. Other
    /// tests make and remove templates meanwhile.
    pub(crate) fn own_cache(&self, links: &[&str], copies: &[&str]) {
        let (prepared, own) = (prerequisite::test_home().join("cache"), self.path("cache"));
        std::fs::remove_file(&own).unwrap();
        std::fs::create_dir(&own).unwrap();
        for part in links {
            std::os::unix::fs::symlink(prepared.join(part), own.join(part)).unwrap();
        }
        for part in copies {
            let from = prepared.join(part);
            if !from.is_dir() {
                self.copy(&from, &own).assert_ok();
                continue;
            }
            let to = own.join(part);
            std::fs::create_dir(&to).unwrap();
            std::fs::set_permissions(&to, std::fs::metadata(&from).unwrap().permissions()).unwrap();
            for entry in std::fs::read_dir(&from).unwrap() {
                let entry = entry.unwrap();
                let ran = self.copy(&entry.path(), &to);
                if entry.path().exists() {
                    ran.assert_ok();
                } else {
                    self.env.cmd("rm").args(&["-rf", to.join(entry.file_name()).to_str().unwrap()]).run().assert_ok();
                }
            }
        }
    }

    fn copy(&self, from: &Path, into: &Path) -> Ran {
        self.env.cmd("cp").args(&["-a", from.to_str().unwrap(), into.to_str().unwrap()]).run()
    }

    /// Whether the cache is the place's own.
    pub(crate) fn has_own_cache(&self) -> bool {
        !self.path("cache").is_symlink()
    }

    /// What `SMOLVM_HOME` is.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// A path beneath the home.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.home.join(relative)
    }

    /// A directory for the test's own files.
    pub(crate) fn scratch(&self) -> &Path {
        self.env.scratch()
    }

    /// The private host, if there is one.
    pub(crate) fn net(&self) -> Option<&Netns> {
        self.net.as_ref().map(NetnsHost::host)
    }

    /// The private host; panics in a place without a network.
    pub(crate) fn host(&self) -> &Netns {
        self.net.as_ref().expect("a place with a network").host()
    }

    /// The server behind the private host; panics in a place without a network.
    pub(crate) fn server(&self) -> &Netns {
        self.net.as_ref().expect("a place with a network").server()
    }

    /// Runs `work` inside the private network, if there is one.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.net {
            Some(net) => net.host().enter(work),
            None => work(),
        }
    }

    /// Any program in this place.
    pub(crate) fn cmd(&self, program: &str) -> Cmd<'_> {
        let cmd = self.env.cmd(program).timeout(Duration::from_mins(3));
        match &self.net {
            Some(net) => cmd.in_netns(net.host()),
            None => cmd,
        }
    }

    /// `smolvm` in this place.
    pub(crate) fn smolvm(&self, args: &[&str]) -> Cmd<'_> {
        self.cmd(prerequisite::smolvm_bin().to_str().expect("a path in UTF-8")).args(args)
    }

    /// Runs `smolvm ARGS --json`, checks the envelope, and gives it back whatever the status.
    pub(crate) fn envelope(&self, args: &[&str]) -> Value {
        envelope(&self.smolvm(args).arg("--json").run())
    }

    /// The same for what must succeed; gives `data`.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> Value {
        let envelope = self.envelope(args);
        assert_eq!(envelope["ok"], true, "smolvm {args:?}: {envelope:#}");
        envelope["data"].clone()
    }

    /// Runs `smolvm`, which must succeed in the time that a boot may take; gives what it printed.
    #[track_caller]
    pub(crate) fn said(&self, args: &[&str]) -> String {
        let ran = self.smolvm(args).timeout(BOOT).run();
        ran.assert_ok();
        ran.stdout
    }

    /// Runs a script in a guest, which must succeed; gives what it printed.
    #[track_caller]
    pub(crate) fn in_guest(&self, id: &str, script: &str) -> String {
        self.said(&["exec", id, "--", "sh", "-c", script])
    }

    /// Creates a sandbox of `minimal`; without a network unless the place has one.
    #[track_caller]
    pub(crate) fn create(&self, name: &str, more: &[&str]) {
        let net = if self.net.is_some() { "tap" } else { "none" };
        self.ok(&[&["create", "--image", "minimal", "--name", name, "--net", net], more].concat());
    }

    /// Creates and starts sandboxes, two at a time; returns hypervisor and monitor of each.
    #[track_caller]
    pub(crate) fn boot(&self, names: &[&str]) -> BTreeMap<String, Pair> {
        for name in names {
            self.create(name, &[]);
        }
        self.boot_made(names)
    }

    /// Starts sandboxes that are there, two at a time. They are forks: none that boots instead goes unseen.
    #[track_caller]
    pub(crate) fn boot_made(&self, names: &[&str]) -> BTreeMap<String, Pair> {
        for two in names.chunks(2) {
            let running: Vec<_> = two.iter().map(|name| self.smolvm(&["start", name, "--json"]).timeout(BOOT).spawn()).collect();
            for start in running {
                start.wait().assert_ok();
            }
        }
        let listed = self.list();
        for name in names {
            assert_eq!(listed[*name]["started_from"], "template", "{:#}", listed[*name]);
        }
        names.iter().map(|name| ((*name).to_owned(), self.pair(name))).collect()
    }

    /// Hypervisor and monitor of a running sandbox.
    #[track_caller]
    pub(crate) fn pair(&self, name: &str) -> Pair {
        let sandbox = self.ok(&["inspect", name])["sandbox"].clone();
        let pid = |key: &str| i32::try_from(sandbox["process"][key].as_i64().unwrap_or_else(|| panic!("no {key}: {sandbox:#}"))).unwrap();
        let read = |pid| Process::read(pid).unwrap_or_else(|| panic!("process {pid} of {name} does not live"));
        Pair { hypervisor: read(pid("pid")), monitor: read(pid("monitor_pid")) }
    }

    /// Makes stale sandboxes through the product's own acquire path, with stand-ins for the processes.
    #[track_caller]
    pub(crate) fn seed(&self, names: &[&str]) {
        self.seed_in(&self.home, names);
    }

    /// The same in another home.
    #[track_caller]
    pub(crate) fn seed_in(&self, home: &Path, names: &[&str]) {
        self.inside(|| {
            let vm = Smolvm::open(Settings::new(Paths::beneath(home))).expect("an installation");
            for name in names {
                vm.seed(&name.parse().expect("an id"), stand_ins).unwrap_or_else(|e| panic!("seeding {name}: {e:?}"));
            }
        });
    }

    /// All sandboxes by id.
    #[track_caller]
    pub(crate) fn list(&self) -> BTreeMap<String, Value> {
        let data = self.ok(&["list"]);
        let sandboxes = data["sandboxes"].as_array().expect("an array").clone();
        sandboxes.into_iter().map(|sandbox| (sandbox["id"].as_str().expect("an id").to_owned(), sandbox)).collect()
    }

    /// The ids of all sandboxes.
    #[track_caller]
    pub(crate) fn ids(&self) -> Vec<String> {
        self.list().into_keys().collect()
    }

    /// Runs `cleanup ARGS --json` and checks the shape of what it says.
    #[track_caller]
    pub(crate) fn cleanup(&self, args: &[&str]) -> Cleaned {
        Cleaned::of(&self.smolvm(&[&["cleanup"], args].concat()).arg("--json").run())
    }

    /// Whether every command in the guest still works.
    #[track_caller]
    pub(crate) fn assert_answers(&self, name: &str) {
        let ran = self.smolvm(&["exec", name, "--", "echo", "here"]).run();
        assert_eq!(ran.stdout, "here\n", "{ran}");
    }

    /// This installation's id.
    pub(crate) fn install(&self) -> String {
        install_of(&self.home)
    }

    /// The mark of one sandbox.
    pub(crate) fn mark(&self, name: &str) -> String {
        format!("smolvm:{}:{name}", self.install())
    }

    /// This installation's nftables table.
    pub(crate) fn table(&self) -> String {
        format!("smolvm_{}", self.install())
    }

    /// The host as it is now, for the end of the test.
    pub(crate) fn oracle(&self) -> LeakOracle<'_> {
        // What an installation keeps without a sandbox: which addresses and uids it draws from, and a ledger that was damaged.
        let scope = Scope::of(&self.env).install(&self.install()).tolerate("row:meta").tolerate("state/state.db.damaged-*").settle(SOON);
        LeakOracle::snapshot(match &self.net {
            Some(net) => scope.in_netns(net.host()),
            None => scope.without_network(),
        })
    }

    /// The TAPs whose alias begins with `mark`.
    pub(crate) fn taps(&self, mark: &str) -> Vec<String> {
        let links: Value = serde_json::from_str(&self.host().ip("-j link").unwrap()).unwrap();
        let marked = |link: &&Value| link["ifalias"].as_str().is_some_and(|alias| alias.starts_with(mark));
        links.as_array().unwrap().iter().filter(marked).map(|link| link["ifname"].as_str().unwrap().to_owned()).collect()
    }

    /// Everything nftables has, as text.
    pub(crate) fn nft(&self) -> String {
        self.host().run("nft", &["list", "ruleset"]).unwrap()
    }
}

/// The id of the installation whose home this is.
pub(crate) fn install_of(home: &Path) -> String {
    Smolvm::open(Settings::new(Paths::beneath(home))).expect("an installation").install_id().to_string()
}

/// The two processes of a running sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) hypervisor: Process,
    pub(crate) monitor: Process,
}

/// Checks what is promised of every envelope, and gives it back.
#[track_caller]
pub(crate) fn envelope(ran: &Ran) -> Value {
    let value = ran.json();
    let object = value.as_object().unwrap_or_else(|| panic!("no object\n{ran}"));
    let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["command", "data", "error", "exit_code", "ok"], "{ran}");
    assert_eq!(ran.stdout.lines().count(), 1, "one object on one line\n{ran}");
    assert_eq!(value["exit_code"].as_i64(), ran.code().map(i64::from), "{ran}");
    assert_eq!(value["ok"], value["exit_code"] == 0, "{ran}");
    assert_eq!(value["error"].is_null(), value["ok"] == true, "{ran}");
    if value["ok"] == false {
        assert!(value["error"]["code"].is_string() && value["error"]["message"].is_string(), "{ran}");
    }
    value
}

/// Fails unless this very process has ended, or does so soon.
#[track_caller]
pub(crate) fn assert_ends(process: &Process) {
    testkit::until(&format!("the end of {}", process.describe()), SOON, || (!process.lives()).then_some(()));
}

/// Two harmless processes whose words have mark and token at the hypervisor's places.
fn stand_ins(mark: &str, token: &str) -> std::io::Result<StandIns> {
    let one = || {
        let mut command = Command::new("/bin/sh");
        command.args(["-s", mark, "-", token]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn()
    };
    Ok(StandIns { hypervisor: one()?, monitor: one()? })
}
