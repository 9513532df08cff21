//! The leak oracle: the host before, the host after, and what is different.
//!
//! ```text
//!   Scope ──► snapshot ── test ── snapshot ──► Diff
//!               │                    └ repeated until clean or the deadline: processes end asynchronously
//!               └ processes · links · addresses · routes · policy rules · namespaces · nft · sysctls
//!                 mounts · sockets · locks · files · rows
//! ```
//!
//! It reads `/proc`, `ip -j`, `nft -j` and the files itself and knows nothing of the product but the
//! mark's first word, the reserved uids and the names of the directories that stay.
//!
//! Invariant: a source that cannot be read is an error, never an empty answer.

mod files;
mod kernel;
mod network;
mod processes;
#[cfg(feature = "rows")]
mod rows;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::Netns;
use crate::sealed::SealedEnv;

/// How long what ends asynchronously may take.
const SETTLE: Duration = Duration::from_secs(5);

/// Where a snapshot looks.
#[derive(Debug)]
pub struct Scope<'a> {
    directories: Vec<PathBuf>,
    marks: Vec<String>,
    netns: Option<&'a Netns>,
    reach: Reach,
    network: Network,
    tolerated: Vec<String>,
    settle: Duration,
}

/// Whose processes, mounts and sockets are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// What can be tied to the directories, the marks or the private network: other tests may run beside.
    Tied,
    /// Everything that looks like smolvm's anywhere: nothing else of smolvm may run beside.
    Host,
}

/// Whether the network is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    /// All of the namespace, whoever made what.
    Whole,
    /// Not at all: somebody else changes it meanwhile.
    Ignored,
}

impl<'a> Scope<'a> {
    /// Everything that can be tied to the home of `env`, and the whole network we are in.
    pub fn of(env: &SealedEnv) -> Self {
        Self::home(env.home())
    }

    /// The same for a home that is not a sealed environment's.
    pub fn home(home: &Path) -> Self {
        Self {
            directories: vec![home.to_owned()],
            marks: Vec::new(),
            netns: None,
            reach: Reach::Tied,
            network: Network::Whole,
            tolerated: Vec::new(),
            settle: SETTLE,
        }
    }

    /// The whole machine: for a demo, or a test that runs alone.
    pub fn host(home: &Path) -> Self {
        Self { reach: Reach::Host, ..Self::home(home) }
    }

    /// Looks at the network, the mounts and the processes inside `netns` instead of ours.
    #[must_use]
    pub fn in_netns(mut self, netns: &'a Netns) -> Self {
        self.netns = Some(netns);
        self
    }

    /// Also ties what carries the marks of this installation.
    #[must_use]
    pub fn install(mut self, id: &str) -> Self {
        self.marks.push(format!("smolvm:{id}:"));
        self
    }

    /// Also looks at the files beneath `directory`.
    #[must_use]
    pub fn directory(mut self, directory: &Path) -> Self {
        self.directories.push(directory.to_owned());
        self
    }

    /// Leaves the network out, for tests without a private one that must bear others beside them.
    #[must_use]
    pub fn without_network(mut self) -> Self {
        self.network = Network::Ignored;
        self
    }

    /// Lets a file stay: a path relative to its directory, or with `*` at the end all that begins like it.
    /// Of rows: `row:TABLE`.
    #[must_use]
    pub fn tolerate(mut self, pattern: &str) -> Self {
        self.tolerated.push(pattern.to_owned());
        self
    }

    /// How long to wait for what ends asynchronously; five seconds unless said.
    #[must_use]
    pub fn settle(mut self, limit: Duration) -> Self {
        self.settle = limit;
        self
    }
}

/// One kind of thing on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aspect {
    /// Living processes.
    Processes,
    /// Network devices.
    Links,
    /// Addresses on them.
    Addresses,
    /// Routes of all tables.
    Routes,
    /// Policy rules.
    PolicyRules,
    /// Named network namespaces.
    NamedNetns,
    /// Everything nftables has.
    Nft,
    /// Forwarding and friends.
    Sysctls,
    /// Mounts.
    Mounts,
    /// Unix sockets with a path.
    Sockets,
    /// File locks that are held.
    Locks,
    /// Files beneath the directories.
    Files,
    /// Rows of databases beneath the directories.
    Rows,
}

impl Aspect {
    /// What went away counts too where somebody else's things are looked at; our own things may always go.
    fn counts_losses(self) -> bool {
        match self {
            Self::Links
            | Self::Addresses
            | Self::Routes
            | Self::PolicyRules
            | Self::NamedNetns
            | Self::Nft
            | Self::Sysctls
            | Self::Mounts => true,
            Self::Processes | Self::Sockets | Self::Locks | Self::Files | Self::Rows => false,
        }
    }
}

/// Things of one kind and how often each occurs.
type Bag = BTreeMap<String, usize>;

/// The host at one moment, to be held against a later one.
#[derive(Debug)]
pub struct LeakOracle<'a> {
    scope: Scope<'a>,
    before: BTreeMap<Aspect, Bag>,
}

impl<'a> LeakOracle<'a> {
    /// Looks at the host; panics with the reason when it cannot.
    pub fn snapshot(scope: Scope<'a>) -> Self {
        Self::try_snapshot(scope).unwrap_or_else(|error| panic!("the leak oracle cannot see: {error:#}"))
    }

    /// Looks at the host.
    pub fn try_snapshot(scope: Scope<'a>) -> Result<Self> {
        let before = look(&scope)?;
        Ok(Self { scope, before })
    }

    /// What is different now; waits for what ends asynchronously before it calls it a leak.
    pub fn diff(&self) -> Result<Diff> {
        let deadline = Instant::now() + self.scope.settle;
        loop {
            let diff = self.diff_now()?;
            if diff.is_clean() || Instant::now() >= deadline {
                return Ok(diff);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What is different at this very moment.
    pub fn diff_now(&self) -> Result<Diff> {
        Ok(Diff::between(&self.before, &look(&self.scope)?))
    }

    /// Fails with everything that is different.
    #[track_caller]
    pub fn assert_clean(&self) {
        let diff = self.diff().unwrap_or_else(|error| panic!("the leak oracle cannot see: {error:#}"));
        assert!(diff.is_clean(), "the host is not what it was before:\n{diff}");
    }
}

fn look(scope: &Scope<'_>) -> Result<BTreeMap<Aspect, Bag>> {
    let mut seen = BTreeMap::new();
    seen.insert(Aspect::Processes, processes::look(scope));
    // /proc/thread-self, /proc/sys/net and the tools all answer for the thread that asks.
    let inside = || -> Result<Vec<(Aspect, Bag)>> {
        let mut seen = vec![(Aspect::Mounts, kernel::mounts(scope)?), (Aspect::Sockets, kernel::sockets(scope)?)];
        if scope.network == Network::Whole {
            seen.extend(network::look()?);
            seen.push((Aspect::Sysctls, kernel::sysctls()?));
        }
        Ok(seen)
    };
    seen.extend(scope.netns.map_or_else(inside, |netns| netns.enter(inside))?);
    seen.insert(Aspect::Files, files::look(scope)?);
    seen.insert(Aspect::Locks, kernel::locks(scope)?);
    #[cfg(feature = "rows")]
    seen.insert(Aspect::Rows, rows::look(scope)?);
    Ok(seen)
}

/// Whether `path`, relative to its directory, may stay.
fn tolerated(patterns: impl IntoIterator<Item = impl AsRef<str>>, path: &str) -> bool {
    patterns.into_iter().any(|pattern| match pattern.as_ref().strip_suffix('*') {
        Some(start) => path.starts_with(start),
        None => path == pattern.as_ref(),
    })
}

fn add(bag: &mut Bag, item: String) {
    *bag.entry(item).or_default() += 1;
}

/// What two looks at the host disagree about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    lines: Vec<(Aspect, Change, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Gained,
    Lost,
}

impl Diff {
    fn between(before: &BTreeMap<Aspect, Bag>, after: &BTreeMap<Aspect, Bag>) -> Self {
        let mut lines = Vec::new();
        let empty = Bag::new();
        for (aspect, now) in after {
            let then = before.get(aspect).unwrap_or(&empty);
            let mut note = |from: &Bag, to: &Bag, change| {
                for (item, count) in to {
                    let extra = count.saturating_sub(from.get(item).copied().unwrap_or(0));
                    lines.extend((0..extra).map(|_| (*aspect, change, item.clone())));
                }
            };
            note(then, now, Change::Gained);
            if aspect.counts_losses() {
                note(now, then, Change::Lost);
            }
        }
        Self { lines }
    }

    /// Whether nothing is different.
    pub fn is_clean(&self) -> bool {
        self.lines.is_empty()
    }

    /// What is there now of `aspect` and was not before.
    pub fn gained(&self, aspect: Aspect) -> Vec<&str> {
        self.lines.iter().filter(|(a, change, _)| *a == aspect && *change == Change::Gained).map(|(_, _, item)| item.as_str()).collect()
    }

    /// What was there of `aspect` and is not now.
    pub fn lost(&self, aspect: Aspect) -> Vec<&str> {
        self.lines.iter().filter(|(a, change, _)| *a == aspect && *change == Change::Lost).map(|(_, _, item)| item.as_str()).collect()
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (aspect, change, item) in &self.lines {
            let sign = match change {
                Change::Gained => '+',
                Change::Lost => '-',
            };
            writeln!(f, "{sign} {aspect:?}: {item}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
