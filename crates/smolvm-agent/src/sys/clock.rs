//! The clocks the agent looks at.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Microseconds since the guest's kernel started.
pub(crate) fn uptime_us() -> u64 {
    micros(clock_gettime(ClockId::Boottime))
}

/// The guest's idea of the time of day: seconds and nanoseconds since 1970.
pub(crate) fn wall() -> (u64, u32) {
    let now = clock_gettime(ClockId::Realtime);
    (u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

fn micros(time: Timespec) -> u64 {
    let secs = u64::try_from(time.tv_sec).unwrap_or(0);
    secs * 1_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1000
}
