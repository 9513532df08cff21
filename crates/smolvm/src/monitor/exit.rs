//! How a run ended, told from what QEMU said last and how its process ended.

use std::os::fd::OwnedFd;
use std::time::Duration;

use smolvm_host::store::{Exit, Store};
use smolvm_model::effect::Commit;
use smolvm_model::ledger::Kind;
use smolvm_model::state::State;
use smolvm_proto::{Frame, MonitorErrorCode, MonitorReply, encode};

use super::poll::Loop;
use crate::clock::now_ms;
use crate::error::Error;

/// How long a guest that powered itself off waits for a command that is at work on its sandbox.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// How an exit on record calls a guest that powered itself off.
pub(crate) const GUEST_POWEROFF: &str = "guest_poweroff";
/// What QEMU says of a guest that powered itself off.
const POWEROFF: &str = "guest-shutdown";

/// Who or what ended the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// A client asked for it.
    Stopped,
    /// The guest powered itself off in order.
    GuestPoweroff,
    /// The guest's kernel reset the machine: a panic or a reboot.
    GuestReset,
    /// The hypervisor ended by itself.
    HypervisorExit,
    /// A signal ended the hypervisor.
    HypervisorSignal,
}

impl Ending {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::GuestPoweroff => GUEST_POWEROFF,
            Self::GuestReset => "guest_reset",
            Self::HypervisorExit => "hypervisor_exit",
            Self::HypervisorSignal => "hypervisor_signal",
        }
    }
}

/// What is known when the process is gone.
#[derive(Debug, Clone, Default)]
pub(super) struct Evidence {
    /// A client asked for the stop.
    pub(super) stop_requested: bool,
    /// A client asked to end it at once.
    pub(super) killed: bool,
    /// The agent said that it had synced and was going down.
    pub(super) halted: bool,
    /// The reason in QEMU's SHUTDOWN event.
    pub(super) shutdown_reason: Option<String>,
}

/// How the hypervisor's process ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct End {
    /// Its exit status.
    pub(super) code: Option<i32>,
    /// The signal that ended it.
    pub(super) signal: Option<i32>,
}

/// Takes the status of the process behind the handle, which has ended.
pub(super) fn reap(pidfd: &OwnedFd) -> End {
    match smolvm_host::jail::reap(pidfd) {
        Ok(Some(status)) => End { code: status.exit_status(), signal: status.terminating_signal() },
        Ok(None) | Err(_) => End::default(),
    }
}

/// Judges the end of a run.
pub(super) fn judge(evidence: &Evidence, end: End) -> Ending {
    if evidence.stop_requested {
        return Ending::Stopped;
    }
    match (end.signal, end.code, evidence.shutdown_reason.as_deref()) {
        (Some(_), ..) => Ending::HypervisorSignal,
        (None, Some(code), _) if code != 0 => Ending::HypervisorExit,
        (None, _, Some(POWEROFF)) => Ending::GuestPoweroff,
        (None, _, Some("guest-reset" | "guest-panic")) => Ending::GuestReset,
        (None, _, _) => Ending::HypervisorExit,
    }
}

/// Whether the end was somebody's wish: the guest's agent said that it was done, the guest powered itself
/// off at the same moment, or a client wanted no order.
fn is_in_order(evidence: &Evidence) -> bool {
    evidence.halted || evidence.killed || evidence.shutdown_reason.as_deref() == Some(POWEROFF)
}

/// Answers who asked for the stop, and writes the end down.
pub(super) fn finish(serving: &mut Loop<'_>, end: End) -> Result<(), Error> {
    let ending = judge(&serving.evidence, end);
    let exit = Exit { kind: ending.as_str().to_owned(), code: end.code, signal: end.signal, at_ms: now_ms() };
    match ending {
        Ending::Stopped => {
            let late = || MonitorReply::Error {
                code: MonitorErrorCode::Timeout,
                message: "the guest did not end in time and was killed".to_owned(),
            };
            let in_order = is_in_order(&serving.evidence);
            let reply = if in_order { MonitorReply::Stopped } else { late() };
            let mut bytes = Vec::new();
            if let Ok(payload) = encode(&reply) {
                Frame::control(payload).encode_into(&mut bytes);
            }
            serving.tell_stoppers(&bytes);
            // Who asked holds the sandbox's lock and releases the rest.
            Ok(())
        }
        Ending::GuestPoweroff => release_after_poweroff(serving, &exit),
        Ending::GuestReset | Ending::HypervisorExit | Ending::HypervisorSignal => note(serving, &exit),
    }
}

/// The state stays as it is: a look finds the process gone and calls the sandbox stale.
fn note(serving: &Loop<'_>, exit: &Exit) -> Result<(), Error> {
    let Some(mut store) = serving.vm.store_if_any()? else { return Ok(()) };
    if row_of(&store, serving)?.is_some() {
        store.write(Commit::Exit, |w| w.set_exit(serving.id, Some(exit)))?;
    }
    Ok(())
}

/// The guest went down in order: nobody else will release what the run held.
fn release_after_poweroff(serving: &mut Loop<'_>, exit: &Exit) -> Result<(), Error> {
    // First, for a stop that is under way and finds nobody to talk to: it reads here why. Then nobody is
    // left waiting for an answer while this waits for the lock.
    note(serving, exit)?;
    serving.listener = None;
    serving.clients.clear();
    let Some(mut store) = serving.vm.store_if_any()? else { return Ok(()) };
    let Ok(_lock) = serving.vm.lock_for(serving.id, LOCK_PATIENCE) else {
        // Some command is at work on it and will find the process gone.
        return Ok(());
    };
    if row_of(&store, serving)?.is_some_and(|state| state != State::Stopping) {
        serving.vm.release_run(&mut store, serving.id, State::Stopped, None)?;
        store.write(Commit::Exit, |w| w.set_exit(serving.id, Some(exit)))?;
        crate::network::unreleased(&crate::network::release_shared(serving.vm, &mut store)?)?;
    }
    Ok(())
}

/// The state of the row, if it is still about this run.
fn row_of(store: &Store, serving: &Loop<'_>) -> Result<Option<State>, Error> {
    let Some((record, entries)) = store.sandbox(serving.id)? else { return Ok(None) };
    let same_run = entries.iter().any(|e| e.kind == Kind::Process && e.key == serving.config.token);
    Ok(Some(record.state).filter(|state| same_run && state.claims_process()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_powers_itself_off_during_a_stop_ends_in_order() {
        let evidence = Evidence { stop_requested: true, shutdown_reason: Some("guest-shutdown".to_owned()), ..Evidence::default() };
        assert!(is_in_order(&evidence));
        let told = Evidence { shutdown_reason: Some("host-qmp-quit".to_owned()), ..evidence };
        assert!(!is_in_order(&told), "a hypervisor that was told to end proves nothing about the guest");
        assert!(is_in_order(&Evidence { halted: true, ..told }));
    }

    #[test]
    fn endings() {
        let clean = End { code: Some(0), signal: None };
        let reason = |text: &str| Evidence { shutdown_reason: Some(text.to_owned()), ..Evidence::default() };
        let table = [
            (reason("guest-shutdown"), clean, Ending::GuestPoweroff),
            (reason("guest-reset"), clean, Ending::GuestReset),
            (reason("guest-panic"), clean, Ending::GuestReset),
            (reason("guest-shutdown"), End { code: None, signal: Some(9) }, Ending::HypervisorSignal),
            (reason("guest-shutdown"), End { code: Some(1), signal: None }, Ending::HypervisorExit),
            (Evidence::default(), clean, Ending::HypervisorExit),
            (Evidence { stop_requested: true, ..Evidence::default() }, End { code: None, signal: Some(9) }, Ending::Stopped),
        ];
        for (evidence, end, want) in table {
            assert_eq!(judge(&evidence, end), want, "{evidence:?} {end:?}");
        }
    }
}
