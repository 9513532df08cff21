//! Every verb, every change it makes of host and ledger, and what can go wrong there.
//!
//! ```text
//!   Scenario ── reference run ──► passages: the points in the order in which the verb passes them
//!                                    │
//!            for each of them:   prepare ─► the verb, armed there ─► list, next, cleanup --all --force ─► oracle
//! ```
//!
//! The points are not listed here: they are what the product passes ([`smolvm_model::effect`]), in the
//! product's own order. A new effect is in the matrix by existing.

pub(crate) mod places;
mod situations;
mod verbs;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use smolvm_model::effect::{Breach, Effect, Missing, Point, breaches};
use testkit::Ran;

use super::{BOOT, Cleaned, Place};

pub(crate) use verbs::*;

/// A verb in the situation in which it has something to do.
pub(crate) struct Scenario {
    /// For people.
    pub(crate) name: &'static str,
    /// A place, without anything in it.
    pub(crate) place: fn() -> Place,
    /// What is there before the verb.
    pub(crate) prepare: fn(&Place),
    /// The verb.
    pub(crate) verb: &'static [&'static str],
    /// What somebody does next who does not know that something went wrong.
    pub(crate) next: &'static [&'static str],
    /// What it does without a record, because no record can know of it.
    pub(crate) unrecorded: &'static [Effect],
    /// What it says when it comes to the same end in another way.
    pub(crate) instead: Option<&'static str>,
}

/// One of several passages of a point in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passage {
    pub(crate) point: Point,
    /// From 1, over all processes of the verb.
    pub(crate) nth: usize,
    /// Where in the code.
    pub(crate) at: &'static str,
}

impl Passage {
    /// The order that makes `what` happen here.
    pub(crate) fn order(&self, what: &str) -> String {
        format!("{what}@{}#{}", self.point, self.nth)
    }
}

impl Scenario {
    /// Where the verb's points are written.
    pub(crate) fn trace(place: &Place) -> PathBuf {
        place.scratch().join("trace")
    }

    /// Runs the verb, with this to go wrong, or nothing.
    pub(crate) fn run(&self, place: &Place, order: Option<&str>) -> Ran {
        let cmd = place.smolvm(self.verb).env("SMOLVM_TEST_TRACE", Self::trace(place)).timeout(PATIENCE);
        match order {
            Some(order) => cmd.env("SMOLVM_TEST_FAULT", order).run(),
            None => cmd.run(),
        }
    }

    /// The points passed since the last look, with the process of each.
    pub(crate) fn passed(&self, place: &Place) -> Vec<(i32, Point)> {
        self.lines(place).into_iter().map(|(pid, point, _)| (pid, point)).collect()
    }

    /// The same, with where in the code that was.
    fn lines(&self, place: &Place) -> Vec<(i32, Point, &'static str)> {
        let text = std::fs::read_to_string(Self::trace(place)).unwrap_or_default().leak();
        std::fs::remove_file(Self::trace(place)).ok();
        let line = |line: &'static str| {
            let mut words = line.split(' ');
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?))
        };
        text.lines().map(|l| line(l).unwrap_or_else(|| panic!("{}: no line of a trace: {l:?}", self.name))).collect()
    }

    /// Runs the verb with nothing going wrong, and gives every passage in order.
    pub(crate) fn reference(&self, place: &Place) -> Vec<Passage> {
        (self.prepare)(place);
        let ran = self.run(place, None);
        let points = self.lines(place);
        assert!(!points.is_empty(), "{}: nothing was passed; is this a build with debug assertions?\n{ran}", self.name);
        // A verb that fails half-way passes half of its points, and nobody would miss the others.
        assert_eq!(ran.code() == Some(0), self.name != CREATE_REFUSED.name, "{}: {ran}", self.name);
        let mut count: BTreeMap<Point, usize> = BTreeMap::new();
        let numbered = points.into_iter().map(|(_, point, at)| {
            let nth = count.entry(point).or_default();
            *nth += 1;
            Passage { point, nth: *nth, at }
        });
        numbered.collect()
    }

    /// Where this run of the verb did something unannounced, or did not write it down though it should.
    pub(crate) fn breaches(&self, passages: &[Passage]) -> Vec<Breach> {
        let mut found = breaches(&passages.iter().map(|p| p.point).collect::<Vec<_>>());
        found.retain(|breach| breach.missing != Missing::Record || !self.unrecorded.contains(&breach.effect));
        found
    }

    /// What somebody does who does not know that something went wrong: goes on, looks, and in the end removes everything.
    ///
    /// None of it may hang, tell of an internal error, or leave anything.
    pub(crate) fn recover(&self, place: &Place, after: &str) -> Cleaned {
        self.go_on(place, after);
        let listed = place.smolvm(&["list", "--json"]).run();
        assert_eq!(listed.code(), Some(0), "{}, after {after}: {listed}", self.name);
        self.forget_snapshots(place, after);
        // A user's own file, which no cleanup takes.
        std::fs::remove_file(place.path("config.toml")).ok();
        // A monitor whose command was killed is still at work, or ends by itself; until then its sandbox may be busy.
        testkit::until(&format!("{}, after {after}: a cleanup that finds nobody at work", self.name), BOOT, || {
            let cleaned = place.cleanup(&["--all", "--force"]);
            let busy = cleaned.failed().iter().all(|(_, code)| matches!(*code, "busy" | "changed"));
            assert!(busy, "{}, after {after}: {}", self.name, cleaned.shown());
            cleaned.failed().is_empty().then_some(cleaned)
        })
    }

    /// What was saved is somebody's work, which no cleanup takes.
    fn forget_snapshots(&self, place: &Place, after: &str) {
        let listed = place.smolvm(&["snapshot", "list", "--quiet"]).run();
        assert_eq!(listed.code(), Some(0), "{}, after {after}: {listed}", self.name);
        for name in listed.stdout.lines() {
            let deleted = place.smolvm(&["snapshot", "delete", name]).run();
            assert_eq!(deleted.code(), Some(0), "{}, after {after}: {deleted}", self.name);
        }
    }

    /// The next command must come to an end that is documented, and none that blames smolvm itself.
    fn go_on(&self, place: &Place, after: &str) {
        if self.next.is_empty() {
            return;
        }
        let next = place.smolvm(self.next).arg("--json").timeout(BOOT).run();
        let envelope = super::envelope(&next);
        let code = envelope["error"]["code"].as_str().unwrap_or("ok");
        assert!(!matches!(code, "internal" | "state_corrupt"), "{}, after {after}: {next}", self.name);
        // Whatever stopped the one before it: a setup finishes the job, and so does whoever makes an image.
        let finishes = matches!(self.next, ["setup", ..] | ["image", "pull" | "load" | "import" | "debootstrap", ..]);
        assert!(!finishes || code == "ok", "{}, after {after}: {next}", self.name);
        // And what the killed one had begun is gone, without a cleanup; a pull that has nothing to do but to point a name leaves it to that.
        if finishes && place.has_own_cache() && self.next[1] != "pull" {
            let begun: Vec<_> = std::fs::read_dir(place.path("cache/tmp")).into_iter().flatten().flatten().map(|e| e.path()).collect();
            assert!(begun.is_empty(), "{}, after {after}: {begun:?} is left\n{next}", self.name);
        }
        if let ["setup", "--image", ..] = self.next {
            // By its content, of which every byte is read.
            let checked = place.smolvm(&["setup", "--check", "--json"]).run();
            assert_eq!(checked.code(), Some(0), "{}, after {after}: {checked}", self.name);
        }
    }

    /// Everything is gone, and not only what the oracle knows: also what was built, and what a tool had lying about.
    pub(crate) fn forget_cache(&self, place: &Place, after: &str) {
        let removed = place.smolvm(&["setup", "--remove"]).run();
        assert_eq!(removed.code(), Some(0), "{}, after {after}: {removed}", self.name);
        assert!(!place.path("cache").exists(), "{}, after {after}: something is left in the cache", self.name);
        let beside: Vec<_> = std::fs::read_dir(place.scratch()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let tools = beside.iter().filter(|name| name.to_string_lossy().starts_with("mmdebstrap"));
        assert_eq!(tools.count(), 0, "{}, after {after}: {beside:?}", self.name);
    }
}

/// How long a verb may take: the longest builds an image, twice as fast as this on a machine that does nothing else.
pub(crate) const PATIENCE: Duration = Duration::from_mins(5);
