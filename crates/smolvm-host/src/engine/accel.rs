//! Measures what `/dev/kvm` is worth, and how fast the time stamp counter runs; once per boot of the host.
//!
//! ```text
//!   /dev/kvm ──► guest of one page: mov ecx,N; dec ecx; jnz; hlt ──► ns per guest instruction ─┐
//!   RDTSC against CLOCK_MONOTONIC_RAW ──────────────────────────────────► kHz ───────────────────┼─► host.json (boot id)
//! ```
//!
//! Bounded: a timer signal brings the processor back after [`PATIENCE_MS`], whatever the guest does, and nobody tries again.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use smolvm_model::engine::{KvmProbe, NATIVE_PICOS};

use super::kvm_ioctl::{Alarm, Exit, Failed, LoopGuest, counter};
use crate::fsx;

/// A first, short loop: 2.5 ms where it is emulated, and then nothing more is asked.
const SHORT: u32 = 2_000;
/// The loop that is believed: on native hardware it outweighs the trip into the guest and back.
const LONG: u32 = 200_000;
/// Above this many picoseconds per instruction the short loop decides: the trip itself adds at most a few ns.
const HOPELESS: u64 = 50_000;
/// A native loop is over in a fraction of a millisecond of the processor's time, of which a busy host gives it little at once.
const PATIENCE_MS: u32 = 2_000;
/// A loop that is not native is tried again: on a busy host somebody else may have had the processor meanwhile, and what is
/// measured here holds until the next boot.
const TRIES: usize = 5;
/// How long the counter is compared with the clock: an error of 100 ns at each end is 5 parts in a million.
const COUNTER_SPAN: Duration = Duration::from_millis(20);
/// The cache file: larger is not ours.
const CACHE_CAP: u64 = 4096;

/// What this boot of this host was measured to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSpeed {
    /// The boot it holds for.
    pub boot_id: String,
    /// What trying KVM gave.
    pub kvm: KvmProbe,
    /// The time stamp counter's frequency, if the counter is fit to be a clock.
    pub tsc_khz: Option<u32>,
}

/// Takes the measurement of this boot from `cache_dir`, or makes it and leaves it there.
///
/// A cache that cannot be read or written costs the measurement again (25 ms) and nothing else.
pub fn host_speed(cache_dir: &Path, boot_id: &str) -> HostSpeed {
    let path = cache_dir.join("host.json");
    if let Some(cached) = read_cache(&path).filter(|c| c.boot_id == boot_id && is_current(&c.kvm)) {
        return cached;
    }
    let speed = HostSpeed { boot_id: boot_id.to_owned(), kvm: probe_kvm(Path::new("/dev/kvm")), tsc_khz: measure_counter() };
    if let Ok(json) = serde_json::to_vec_pretty(&speed) {
        let _ = fsx::cache_file(&path, &json);
    }
    speed
}

/// What the permissions say may change within a boot; what was measured does not.
fn is_current(cached: &KvmProbe) -> bool {
    let now = open(Path::new("/dev/kvm")).err();
    match cached {
        KvmProbe::Absent | KvmProbe::Denied => now.as_ref() == Some(cached),
        KvmProbe::Broken { .. } | KvmProbe::Stalled { .. } | KvmProbe::Measured { .. } => now.is_none(),
    }
}

pub(super) fn read_cache(path: &Path) -> Option<HostSpeed> {
    use std::io::Read;
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(CACHE_CAP).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn open(device: &Path) -> Result<File, KvmProbe> {
    OpenOptions::new().read(true).write(true).open(device).map_err(|e| match (e.kind(), e.raw_os_error()) {
        (ErrorKind::PermissionDenied, _) => KvmProbe::Denied,
        (ErrorKind::NotFound, _) | (_, Some(libc::ENXIO | libc::ENODEV)) => KvmProbe::Absent,
        (_, errno) => KvmProbe::Broken { step: "open".to_owned(), errno: errno.unwrap_or(0) },
    })
}

/// Runs the loop in a guest and times it.
pub fn probe_kvm(device: &Path) -> KvmProbe {
    let measured = open(device).map(|kvm| time_loop(&kvm));
    match measured {
        Err(probe) | Ok(Ok(probe)) => probe,
        Ok(Err(Failed { step, errno })) => KvmProbe::Broken { step: step.to_owned(), errno },
    }
}

fn time_loop(kvm: &File) -> Result<KvmProbe, Failed> {
    fastest(|| match picos_per_instruction(kvm, SHORT)? {
        Some(rough) if rough <= HOPELESS => picos_per_instruction(kvm, LONG),
        hopeless_or_none => Ok(hopeless_or_none),
    })
}

/// The least of several tries, none more than it takes to see one at native speed; `None` of a try is the end of patience.
fn fastest<E>(mut attempt: impl FnMut() -> Result<Option<u64>, E>) -> Result<KvmProbe, E> {
    let mut least = None;
    for _ in 0..TRIES {
        let Some(picos) = attempt()? else { break };
        least = Some(least.map_or(picos, |least: u64| least.min(picos)));
        if picos <= NATIVE_PICOS {
            break;
        }
    }
    Ok(least.map_or(KvmProbe::Stalled { after_ms: u64::from(PATIENCE_MS) }, |picos| KvmProbe::Measured { picos }))
}

/// Times one loop; `None` when the alarm came first.
fn picos_per_instruction(kvm: &File, iterations: u32) -> Result<Option<u64>, Failed> {
    let guest = LoopGuest::new(kvm, iterations)?;
    // Only now: a signal while the machine is made would end that, too (KVM_CREATE_VM then says EINTR).
    let _alarm = Alarm::after(PATIENCE_MS)?;
    let start = Instant::now();
    let exit = guest.run()?;
    let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    match exit {
        // `dec` and `jnz` each time round.
        Exit::Halted => Ok(Some(nanos.saturating_mul(1000) / (2 * u64::from(iterations)))),
        Exit::Interrupted => Ok(None),
        Exit::Strange(_) => Err(Failed { step: "KVM_RUN", errno: libc::ENOTSUP }),
    }
}

/// Measures the time stamp counter's frequency; `None` where the kernel does not itself use the
/// counter as its clock, because then it had a reason.
pub fn measure_counter() -> Option<u32> {
    let source = std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource").ok()?;
    let known = std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/available_clocksource").unwrap_or_default();
    // kvm-clock is derived from a counter that its host found stable.
    if !(source.trim() == "tsc" || source.trim() == "kvm-clock" || known.split_whitespace().any(|s| s == "tsc")) {
        return None;
    }
    let (from, counted_from) = moment();
    std::thread::sleep(COUNTER_SPAN);
    let (to, counted_to) = moment();
    let nanos = u64::try_from(to.checked_sub(from)?.as_nanos()).ok().filter(|n| *n > 0)?;
    let ticks = counted_to.checked_sub(counted_from)?;
    u32::try_from(u128::from(ticks) * 1_000_000 / u128::from(nanos)).ok().filter(|khz| (100_000..=20_000_000).contains(khz))
}

/// Clock and counter at the same moment: the pair with the least time between its two counter reads.
fn moment() -> (Duration, u64) {
    (0..8)
        .map(|_| {
            let before = counter();
            let clock = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicRaw);
            let after = counter();
            let clock = Duration::new(clock.tv_sec.unsigned_abs(), u32::try_from(clock.tv_nsec).unwrap_or(0));
            (after.saturating_sub(before), clock, before + after.saturating_sub(before) / 2)
        })
        .min_by_key(|(width, _, _)| *width)
        .map_or((Duration::ZERO, 0), |(_, clock, counted)| (clock, counted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_ends_and_says_something_definite() {
        let start = Instant::now();
        let probe = probe_kvm(Path::new("/dev/kvm"));
        assert!(start.elapsed() < Duration::from_secs(10), "{probe:?} took {:?}", start.elapsed());
        assert_eq!(probe_kvm(Path::new("/dev/no-such-device")), KvmProbe::Absent);
        // Another character device opens and understands none of it.
        assert!(matches!(probe_kvm(Path::new("/dev/null")), KvmProbe::Broken { .. }));
    }

    #[test]
    fn a_processor_that_somebody_else_had_meanwhile_is_not_called_slow() {
        let tries = |results: &[Option<u64>]| {
            let mut left = results.iter();
            let probe = fastest(|| left.next().copied().ok_or(()));
            (probe, left.len())
        };
        let measured = |picos| Ok(KvmProbe::Measured { picos });
        assert_eq!(tries(&[Some(300), Some(1)]), (measured(300), 1));
        assert_eq!(tries(&[Some(2_500_000), Some(90_000), Some(400), Some(1)]), (measured(400), 1));
        assert_eq!(tries(&[Some(760_000), Some(750_000), Some(755_000), Some(751_000), Some(790_000), Some(1)]), (measured(750_000), 1));
        assert_eq!(tries(&[Some(760_000), None]), (measured(760_000), 0));
        assert_eq!(tries(&[None, Some(1)]), (Ok(KvmProbe::Stalled { after_ms: u64::from(PATIENCE_MS) }), 1));
        assert_eq!(tries(&[Some(760_000)]), (Err(()), 0));
    }

    #[test]
    fn two_measurements_of_the_counter_agree() {
        if let (Some(a), Some(b)) = (measure_counter(), measure_counter()) {
            assert!(a.abs_diff(b) < a / 1000, "{a} kHz and {b} kHz");
        }
    }

    #[test]
    fn the_cache_holds_for_one_boot() {
        let dir = tempfile::tempdir().unwrap();
        let first = host_speed(dir.path(), "boot-a");
        let mut doctored = first.clone();
        doctored.tsc_khz = Some(123_456);
        std::fs::write(dir.path().join("host.json"), serde_json::to_vec(&doctored).unwrap()).unwrap();
        assert_eq!(host_speed(dir.path(), "boot-a").tsc_khz, Some(123_456));
        assert_ne!(host_speed(dir.path(), "boot-b").tsc_khz, Some(123_456));
        std::fs::write(dir.path().join("host.json"), "garbage").unwrap();
        assert_eq!(host_speed(dir.path(), "boot-a").boot_id, "boot-a");
    }
}
