//! By how much this process's view of the clock since boot is shifted.
//!
//! In a time namespace (a container that was moved here, a test that plays a host which slept) the kernel adds the
//! namespace's offset to every start time that it shows. What is recorded is the host's own time.

use std::path::Path;
use std::sync::OnceLock;

/// Where the kernel tells the offsets, one clock a line: name, seconds, nanoseconds.
const SOURCE: &str = "/proc/self/timens_offsets";
const NANOS: i64 = 1_000_000_000;

/// A start time as it is shown, in ticks, as the host itself has it.
pub(super) fn unshifted(shown: u64) -> u64 {
    static TICKS: OnceLock<i64> = OnceLock::new();
    let shift = *TICKS.get_or_init(|| ticks(Path::new(SOURCE), rustix::param::clock_ticks_per_second()));
    shown.saturating_add_signed(-shift)
}

/// The shift in ticks; none where the kernel has no time namespaces.
fn ticks(source: &Path, per_second: u64) -> i64 {
    let Ok(text) = std::fs::read_to_string(source) else { return 0 };
    let per_second = i64::try_from(per_second).unwrap_or(100).max(1);
    let of_boot = text.lines().find_map(|line| line.strip_prefix("boottime"));
    let mut numbers = of_boot.unwrap_or_default().split_ascii_whitespace().filter_map(|word| word.parse::<i64>().ok());
    let (seconds, nanos) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    seconds.saturating_mul(per_second).saturating_add(nanos / (NANOS / per_second).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shift_is_that_of_the_clock_since_boot() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, want) in [
            ("monotonic           7         0\nboottime            0         0\n", 0),
            ("monotonic           0         0\nboottime       864000 500000000\n", 86_400_050),
            ("monotonic           0         0\nboottime           -3         0\n", -300),
            ("", 0),
            ("boottime by far\n", 0),
        ] {
            std::fs::write(file.path(), text).unwrap();
            assert_eq!(ticks(file.path(), 100), want, "{text}");
        }
        assert_eq!(ticks(Path::new("/nonexistent"), 100), 0);
    }
}
