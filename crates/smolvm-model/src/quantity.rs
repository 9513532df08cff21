//! Amounts: memory, disk, processors, time; each within bounds that a host can mean.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Why a text is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not digits with a known unit.
    #[error("{text:?} is not {expected}")]
    Malformed {
        /// What was given, shortened.
        text: String,
        /// How it should look.
        expected: &'static str,
    },
    /// A number nobody can mean.
    #[error("{text} is out of range: {bounds}")]
    OutOfRange {
        /// What was given, shortened.
        text: String,
        /// The least and the most.
        bounds: &'static str,
    },
}

/// Guest memory in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Memory(u32);

/// Size of a sandbox's data disk in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiskSize(u64);

/// Virtual processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpus(u8);

/// A span of time that a user typed: `30s`, `5m`, `1h30m`, `2d`; at least one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

const MIB: u64 = 1 << 20;

impl Memory {
    /// A kernel, the agent and a shell: below 64 MiB the cloud kernel does not reach its init.
    const MIN_MIB: u64 = 64;
    const MAX_MIB: u64 = 1 << 20;
    const BOUNDS: &'static str = "64M to 1T of memory";

    /// Takes a number of MiB.
    pub fn from_mib(mib: u64) -> Result<Self, QuantityError> {
        match u32::try_from(mib) {
            Ok(n) if (Self::MIN_MIB..=Self::MAX_MIB).contains(&mib) => Ok(Self(n)),
            Ok(_) | Err(_) => Err(QuantityError::OutOfRange { text: format!("{mib}M"), bounds: Self::BOUNDS }),
        }
    }

    /// The amount in MiB.
    pub fn mib(self) -> u32 {
        self.0
    }

    /// The amount in bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.0) * MIB
    }
}

impl FromStr for Memory {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let bytes = parse_size(text, Self::BOUNDS)?;
        Self::from_mib(bytes / MIB)
    }
}

impl DiskSize {
    const MIN: u64 = 64 * MIB;
    const MAX: u64 = 16 << 40;
    const BOUNDS: &'static str = "64M to 16T of disk";

    /// Takes a number of bytes; it is rounded down to whole MiB.
    pub fn from_bytes(bytes: u64) -> Result<Self, QuantityError> {
        if (Self::MIN..=Self::MAX).contains(&bytes) {
            Ok(Self(bytes / MIB * MIB))
        } else {
            Err(QuantityError::OutOfRange { text: format!("{}M", bytes / MIB), bounds: Self::BOUNDS })
        }
    }

    /// The size in bytes, whole MiB.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl Default for DiskSize {
    /// 8 GiB, sparse: what product.md promises.
    fn default() -> Self {
        Self(8 << 30)
    }
}

impl FromStr for DiskSize {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Self::from_bytes(parse_size(text, Self::BOUNDS)?)
    }
}

impl Cpus {
    const BOUNDS: &'static str = "1 to 64 processors";

    /// Takes a count.
    pub fn new(count: u32) -> Result<Self, QuantityError> {
        match u8::try_from(count) {
            Ok(n) if (1..=64).contains(&n) => Ok(Self(n)),
            Ok(_) | Err(_) => Err(QuantityError::OutOfRange { text: count.to_string(), bounds: Self::BOUNDS }),
        }
    }

    /// The count.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl Default for Cpus {
    fn default() -> Self {
        Self(1)
    }
}

impl FromStr for Cpus {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let malformed = || QuantityError::Malformed { text: shorten(text), expected: "a number of processors" };
        // Rust reads a sign; an amount has none.
        let digits = Some(text).filter(|text| !text.starts_with('+')).ok_or_else(malformed)?;
        Self::new(digits.parse().map_err(|_| malformed())?)
    }
}

impl Span {
    const BOUNDS: &'static str = "1s to 365d";

    /// The span.
    pub fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Span {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let malformed = || QuantityError::Malformed { text: shorten(text), expected: "a duration like 30s, 5m or 1h30m" };
        let out_of_range = || QuantityError::OutOfRange { text: shorten(text), bounds: Self::BOUNDS };
        let (mut rest, mut seconds, mut last_unit) = (text, 0_u64, u64::MAX);
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number: u64 = rest.get(..digits).filter(|d| !d.is_empty()).ok_or_else(malformed)?.parse().map_err(|_| out_of_range())?;
            let unit = match rest.as_bytes().get(digits) {
                Some(b's') => 1,
                Some(b'm') => 60,
                Some(b'h') => 3600,
                Some(b'd') => 86_400,
                Some(_) | None => return Err(malformed()),
            };
            // `5m1h` and `1s1s` are more likely slips than meant.
            if unit >= last_unit {
                return Err(malformed());
            }
            last_unit = unit;
            seconds = number.checked_mul(unit).and_then(|n| n.checked_add(seconds)).ok_or_else(out_of_range)?;
            rest = &rest[digits + 1..];
        }
        match seconds {
            0 if text.is_empty() => Err(malformed()),
            1..=31_536_000 => Ok(Self(Duration::from_secs(seconds))),
            _ => Err(out_of_range()),
        }
    }
}

/// Formats bytes the way sizes are typed, in the largest unit that keeps one decimal honest.
pub fn display_bytes(bytes: u64) -> impl fmt::Display {
    let units = ["B", "K", "M", "G", "T"];
    let unit = units.iter().enumerate().rev().find(|(i, _)| bytes >> (10 * i) > 0).map_or(0, |(i, _)| i);
    let tenths = (u128::from(bytes) * 10) >> (10 * unit);
    if unit == 0 || tenths % 10 == 0 {
        format!("{}{}", tenths / 10, units[unit])
    } else {
        format!("{}.{}{}", tenths / 10, tenths % 10, units[unit])
    }
}

/// Reads `512` (MiB), `512M`, `2G`, `1T`, binary units, letters in either case.
fn parse_size(text: &str, bounds: &'static str) -> Result<u64, QuantityError> {
    let malformed = || QuantityError::Malformed { text: shorten(text), expected: "a size like 512, 512M or 2G" };
    let split = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, unit) = text.split_at(split);
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" | "M" | "MI" | "MIB" | "MB" => 20,
        "G" | "GI" | "GIB" | "GB" => 30,
        "T" | "TI" | "TIB" | "TB" => 40,
        _ => return Err(malformed()),
    };
    if digits.is_empty() {
        return Err(malformed());
    }
    let out_of_range = || QuantityError::OutOfRange { text: shorten(text), bounds };
    let number: u64 = digits.parse().map_err(|_| out_of_range())?;
    number.checked_mul(1 << shift).ok_or_else(out_of_range)
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, mib) in [("512", 512), ("512M", 512), ("2G", 2048), ("2g", 2048), ("64", 64)] {
            assert_eq!(text.parse::<Memory>().unwrap().mib(), mib, "{text}");
        }
        for bad in
            ["", "M", "-1", "0", "1", "63M", "2T", "99999999999999999999", "1.5G", "5K", "1e9", " 512", "512 M", "18446744073709551615T"]
        {
            assert!(bad.parse::<Memory>().is_err(), "{bad:?}");
        }
        assert_eq!("8G".parse::<DiskSize>().unwrap(), DiskSize::default());
        for bad in ["1M", "17T", "0"] {
            assert!(bad.parse::<DiskSize>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn spans() {
        for (text, seconds) in [("30s", 30), ("5m", 300), ("1h30m", 5400), ("1d", 86_400), ("90s", 90)] {
            assert_eq!(text.parse::<Span>().unwrap().duration().as_secs(), seconds, "{text}");
        }
        for bad in ["", "5", "s", "0s", "5m1h", "1s1s", "-1s", "1.5h", "400d", "99999999999999999999s", "5ms", "1h é"] {
            assert!(bad.parse::<Span>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn processors() {
        assert_eq!("4".parse::<Cpus>().unwrap().get(), 4);
        for bad in ["", "0", "65", "999", "-1", "+1", "x"] {
            assert!(bad.parse::<Cpus>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn bytes_for_people() {
        for (bytes, text) in [(0, "0B"), (512, "512B"), (1536, "1.5K"), (8 << 30, "8G"), (123 << 20, "123M")] {
            assert_eq!(display_bytes(bytes).to_string(), text);
        }
    }
}
