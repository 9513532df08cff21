//! Which accelerator runs the guest: decided by what was measured, never by a device's presence.
//!
//! `/dev/kvm` can open, answer and still *emulate* every guest instruction (a paravirtual or nested
//! host). A kernel then never boots. So a short guest loop is timed, and only a loop that ran at the
//! speed of real hardware counts as KVM.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Picoseconds per guest instruction up to which KVM counts as native: 5 ns.
///
/// Real hardware takes 0.2-0.7 ns for the two-instruction loop, at any clock from 1 GHz up below 2 ns,
/// and twice that when the probe shares its core. Emulation was measured at 624 ns and cannot come
/// below some tens: each instruction costs a trip through software. Five stands clear of both.
pub const NATIVE_PICOS: u64 = 5_000;

/// What executes guest code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// What the user asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AcceleratorRequest {
    /// Whatever the measurement says.
    #[default]
    Auto,
    /// KVM, even where it was measured slow.
    Kvm,
    /// The translator, even where KVM is native.
    Tcg,
}

/// What trying KVM gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum KvmProbe {
    /// There is no `/dev/kvm`.
    Absent,
    /// The device is there, and this user may not open it.
    Denied,
    /// The device opens, but a step of making a guest failed.
    Broken {
        /// The step, as the name of the ioctl.
        step: String,
        /// The kernel's reason.
        errno: i32,
    },
    /// The guest loop did not end in the time it was given.
    Stalled {
        /// How long it was given, in milliseconds.
        after_ms: u64,
    },
    /// The guest loop ran to its end.
    Measured {
        /// Picoseconds per guest instruction.
        picos: u64,
    },
}

/// The accelerator that is used, and why, in words for `doctor` and `inspect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// What runs guest code.
    pub accelerator: Accelerator,
    /// One lower-case sentence fragment.
    pub reason: String,
}

/// What was asked for cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcceleratorError {
    /// KVM was asked for by name and there is none that works.
    #[error("kvm was asked for, but {found}")]
    KvmUnavailable {
        /// What was found instead.
        found: KvmProbe,
    },
}

/// The text names no accelerator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an accelerator is one of auto, kvm, tcg")]
pub struct AcceleratorRequestError;

/// Chooses.
pub fn decide(request: AcceleratorRequest, probe: &KvmProbe) -> Result<Choice, AcceleratorError> {
    let (accelerator, reason) = match (request, probe) {
        (AcceleratorRequest::Tcg, _) => (Accelerator::Tcg, "tcg was asked for".to_owned()),
        (AcceleratorRequest::Auto, KvmProbe::Measured { picos }) if *picos <= NATIVE_PICOS => (Accelerator::Kvm, probe.to_string()),
        (AcceleratorRequest::Auto, _) => (Accelerator::Tcg, probe.to_string()),
        (AcceleratorRequest::Kvm, KvmProbe::Measured { .. }) => (Accelerator::Kvm, format!("kvm was asked for; {probe}")),
        (AcceleratorRequest::Kvm, KvmProbe::Absent | KvmProbe::Denied | KvmProbe::Broken { .. } | KvmProbe::Stalled { .. }) => {
            return Err(AcceleratorError::KvmUnavailable { found: probe.clone() });
        }
    };
    Ok(Choice { accelerator, reason })
}

impl Accelerator {
    /// The word QEMU and the JSON output use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for AcceleratorRequest {
    type Err = AcceleratorRequestError;

    fn from_str(text: &str) -> Result<Self, AcceleratorRequestError> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            _ => Err(AcceleratorRequestError),
        }
    }
}

impl AcceleratorRequest {
    /// The word the command line and the store use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

impl fmt::Display for AcceleratorRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl KvmProbe {
    /// The measured nanoseconds per guest instruction with one decimal, if there was a measurement.
    pub fn nanos_text(&self) -> Option<String> {
        match self {
            Self::Measured { picos } => Some(format!("{}.{}", picos / 1000, picos % 1000 / 100)),
            Self::Absent | Self::Denied | Self::Broken { .. } | Self::Stalled { .. } => None,
        }
    }
}

impl fmt::Display for KvmProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("there is no /dev/kvm"),
            Self::Denied => f.write_str("/dev/kvm may not be opened by this user"),
            Self::Broken { step, errno } => write!(f, "/dev/kvm does not work ({step} failed with errno {errno})"),
            Self::Stalled { after_ms } => write!(f, "a guest loop under /dev/kvm did not end within {after_ms} ms"),
            Self::Measured { picos } => {
                let verdict = if *picos <= NATIVE_PICOS { "native speed" } else { "emulated, native is below 5 ns" };
                write!(f, "kvm runs a guest instruction in {} ns: {verdict}", self.nanos_text().unwrap_or_default())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_native_speed_is_kvm() {
        let table = [
            (KvmProbe::Measured { picos: 300 }, Accelerator::Kvm),
            (KvmProbe::Measured { picos: NATIVE_PICOS }, Accelerator::Kvm),
            (KvmProbe::Measured { picos: NATIVE_PICOS + 1 }, Accelerator::Tcg),
            (KvmProbe::Measured { picos: 624_000 }, Accelerator::Tcg),
            (KvmProbe::Absent, Accelerator::Tcg),
            (KvmProbe::Denied, Accelerator::Tcg),
            (KvmProbe::Broken { step: "KVM_RUN".to_owned(), errno: 5 }, Accelerator::Tcg),
            (KvmProbe::Stalled { after_ms: 100 }, Accelerator::Tcg),
        ];
        for (probe, want) in table {
            assert_eq!(decide(AcceleratorRequest::Auto, &probe).unwrap().accelerator, want, "{probe}");
        }
    }

    #[test]
    fn a_request_by_name_overrides_but_cannot_make_a_device() {
        let slow = KvmProbe::Measured { picos: 624_000 };
        assert_eq!(decide(AcceleratorRequest::Kvm, &slow).unwrap().accelerator, Accelerator::Kvm);
        assert_eq!(decide(AcceleratorRequest::Tcg, &KvmProbe::Measured { picos: 300 }).unwrap().accelerator, Accelerator::Tcg);
        let error = decide(AcceleratorRequest::Kvm, &KvmProbe::Absent).unwrap_err();
        assert_eq!(error.to_string(), "kvm was asked for, but there is no /dev/kvm");
    }

    #[test]
    fn the_reason_carries_the_measurement() {
        let choice = decide(AcceleratorRequest::Auto, &KvmProbe::Measured { picos: 624_040 }).unwrap();
        assert_eq!(choice.reason, "kvm runs a guest instruction in 624.0 ns: emulated, native is below 5 ns");
    }

    #[test]
    fn words_round_trip() {
        for request in [AcceleratorRequest::Auto, AcceleratorRequest::Kvm, AcceleratorRequest::Tcg] {
            assert_eq!(request.to_string().parse(), Ok(request));
        }
        assert!("KVM".parse::<AcceleratorRequest>().is_err());
    }
}
