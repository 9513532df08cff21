//! Whether a machine can go on here with the memory it had there.
//!
//! Kernel and agent are in that memory, so others than this installation's do no harm: an agent that came to rest
//! for a snapshot knows how to wake as a copy. What surrounds the memory must be the same.

use std::path::Path;

use serde::Serialize;
use smolvm_host::image::Digest;
use smolvm_host::image::snapshot::Snapshot;
use smolvm_host::image::template::{DiskState, Facts};
use smolvm_host::store::Run;
use smolvm_model::engine::AcceleratorRequest;
use smolvm_model::error_code::ErrorCode;

use crate::error::Error;
use crate::installation::Smolvm;

/// Something that was other when the snapshot was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What.
    pub what: &'static str,
    /// As it was.
    pub then: String,
    /// As it is.
    pub now: String,
}

impl Smolvm {
    /// Everything that is in the way.
    pub(super) fn differences(&self, snapshot: &Snapshot) -> Result<Vec<Difference>, Error> {
        match self.facts(&snapshot.origin.spec, Some(accelerator_of(snapshot)), DiskState::Used) {
            Ok(now) => Ok(differences_from(snapshot, &now)),
            Err(e) => no_such_machine(snapshot, e),
        }
    }
}

/// What is other in a machine with these facts.
pub(super) fn differences_from(snapshot: &Snapshot, now: &Facts) -> Vec<Difference> {
    let then = (&snapshot.origin.facts, snapshot.origin.processor.as_deref());
    between(then, (now, processor_for(&now.accelerator).as_deref()))
}

/// What is other where there cannot be such a machine at all.
pub(super) fn no_such_machine(snapshot: &Snapshot, why: Error) -> Result<Vec<Difference>, Error> {
    if why.code != ErrorCode::Unsupported {
        return Err(why);
    }
    Ok(vec![Difference { what: "accelerator", then: snapshot.origin.facts.accelerator.clone(), now: why.one_line() }])
}

/// What it ran under, and has to run under again.
pub(super) fn accelerator_of(snapshot: &Snapshot) -> AcceleratorRequest {
    snapshot.origin.facts.accelerator.parse().unwrap_or(snapshot.origin.spec.accelerator)
}

fn between(then: (&Facts, Option<&str>), now: (&Facts, Option<&str>)) -> Vec<Difference> {
    let ((before, had), (after, has)) = (then, now);
    let pairs = [
        ("hypervisor", &before.hypervisor, &after.hypervisor),
        ("accelerator", &before.accelerator, &after.accelerator),
        ("machine", &before.machine, &after.machine),
        ("network device", &before.network, &after.network),
    ];
    let mut found: Vec<Difference> = pairs
        .into_iter()
        .filter(|(_, then, now)| then != now)
        .map(|(what, then, now)| Difference { what, then: then.clone(), now: now.clone() })
        .collect();
    if before.accelerator == after.accelerator && had != has {
        let text = |of: Option<&str>| of.unwrap_or("translated").to_owned();
        found.push(Difference { what: "processor", then: text(had), now: text(has) });
    }
    found
}

/// The host's processor, if the guest of that run sees it.
pub(super) fn processor(run: Option<&Run>) -> Option<String> {
    run.and_then(|run| processor_for(&run.accelerator))
}

/// Under KVM a guest has the host's processor, and has chosen its code by what that can do.
fn processor_for(accelerator: &str) -> Option<String> {
    (accelerator == "kvm").then(|| processor_in(&std::fs::read_to_string(Path::new("/proc/cpuinfo")).unwrap_or_default()))
}

/// The model and a digest of what it can do.
fn processor_in(cpuinfo: &str) -> String {
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
    };
    format!("{} ({})", field("model name"), Digest::of(&[field("flags").as_bytes()]).short())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            image: "minimal".to_owned(),
            image_digest: "d".to_owned(),
            boot_digest: "b".to_owned(),
            machine: "m".to_owned(),
            accelerator: "kvm".to_owned(),
            cpus: 1,
            memory_mib: 128,
            disk_bytes: 1,
            disk: DiskState::Used,
            rehearsed: Vec::new(),
            network: "none".to_owned(),
            hypervisor: "7.2".to_owned(),
            boot_id: "i".to_owned(),
        }
    }

    #[test]
    fn what_surrounds_the_memory_counts_and_what_is_in_it_does_not() {
        let one = facts();
        let same = Facts { boot_id: "another".to_owned(), boot_digest: "newer".to_owned(), ..facts() };
        assert_eq!(between((&one, Some("p")), (&same, Some("p"))), []);
        let words = |now: &Facts, processor| between((&one, Some("p")), (now, processor)).iter().map(|d| d.what).collect::<Vec<_>>();
        assert_eq!(words(&Facts { hypervisor: "8.2".to_owned(), ..facts() }, Some("p")), ["hypervisor"]);
        assert_eq!(words(&facts(), Some("q")), ["processor"]);
        assert_eq!(words(&Facts { accelerator: "tcg".to_owned(), ..facts() }, None), ["accelerator"]);
    }

    #[test]
    fn a_processor_is_its_model_and_what_it_can_do() {
        let info = |flags| format!("processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: {flags}\n");
        let one = processor_in(&info("fpu sse2"));
        assert!(one.starts_with("Some CPU ("));
        assert_ne!(one, processor_in(&info("fpu sse2 avx")));
        assert_eq!(processor_in(""), processor_in(""));
    }
}
