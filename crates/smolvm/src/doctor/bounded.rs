//! A look that cannot hang the doctor.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::report::CheckReport;
use crate::installation::Smolvm;

/// The slowest look asks the hypervisor three questions: 0.2 s here, some seconds on a machine that swaps.
const PATIENCE: Duration = Duration::from_secs(15);

/// Runs a look in a thread of its own. A thread that never ends (a dead network file system) is left
/// behind; it ends with the process.
pub(super) fn run(vm: &Smolvm, id: &'static str, look: fn(&Smolvm) -> Vec<CheckReport>) -> Vec<CheckReport> {
    run_for(vm, id, look, PATIENCE)
}

fn run_for(vm: &Smolvm, id: &'static str, look: fn(&Smolvm) -> Vec<CheckReport>, patience: Duration) -> Vec<CheckReport> {
    let (tell, told) = channel();
    let own = vm.clone();
    let started = thread::Builder::new().name(format!("doctor {id}")).spawn(move || {
        // Nobody listens any more once the deadline has passed.
        let _ = tell.send(look(&own));
    });
    if let Err(e) = started {
        return vec![CheckReport::fail(id, "the check could not be started", e.to_string()).mended_by("ulimit -u; free -h")];
    }
    match told.recv_timeout(patience) {
        Ok(reports) => reports,
        Err(RecvTimeoutError::Timeout) => vec![
            CheckReport::fail(
                id,
                format!("the check did not end within {} s", patience.as_secs()),
                "something that it read does not answer",
            )
            .mended_by("dmesg | tail; df"),
        ],
        Err(RecvTimeoutError::Disconnected) => vec![CheckReport::fail(id, "the check broke off", "a defect in smolvm")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::CheckStatus;
    use crate::{Paths, Settings};
    use std::path::Path;

    #[test]
    fn what_hangs_or_breaks_costs_its_own_check_only() {
        let vm = Smolvm::open(Settings::new(Paths::beneath(Path::new("/nonexistent")))).unwrap();
        let hung = run_for(
            &vm,
            "hung",
            |_| {
                thread::park();
                Vec::new()
            },
            Duration::from_millis(20),
        );
        assert_eq!((hung[0].id.as_str(), hung[0].status), ("hung", CheckStatus::Fail));
        let broken = run_for(&vm, "broken", |_| panic!("on purpose"), Duration::from_secs(5));
        assert_eq!((broken[0].id.as_str(), broken[0].status), ("broken", CheckStatus::Fail));
    }
}
