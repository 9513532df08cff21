//! Signals by the names that images have for them: `SIGQUIT`, `QUIT`, `3`, `SIGRTMIN+3`.

use std::fmt;
use std::str::FromStr;

/// First and last of those without a meaning of their own, as programs see them; the C library keeps two before them.
const REALTIME: (u8, u8) = (34, 64);

const NAMES: [(&str, u8); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// A signal of Linux: 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(u8);

/// A text that names none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a signal: a name such as SIGTERM or SIGRTMIN+3, or a number from 1 to 64")]
pub struct SignalError(String);

impl Signal {
    /// Its number.
    pub fn number(self) -> i32 {
        self.0.into()
    }
}

impl FromStr for Signal {
    type Err = SignalError;

    fn from_str(text: &str) -> Result<Self, SignalError> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let small = |digits: &str| digits.parse::<u8>().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
        let (first, last) = REALTIME;
        let realtime = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
            (Some(""), _) => Some(first),
            (_, Some("")) => Some(last),
            (Some(rest), _) => rest.strip_prefix('+').and_then(small).and_then(|n| first.checked_add(n)),
            (_, Some(rest)) => rest.strip_prefix('-').and_then(small).and_then(|n| last.checked_sub(n)),
            (None, None) => None,
        };
        let number = match realtime {
            Some(number) => Some(number).filter(|number| (first..=last).contains(number)),
            None => NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number),
        };
        let number = number.or_else(|| small(text).filter(|number| (1..=64).contains(number)));
        number.map(Self).ok_or_else(|| SignalError(text.chars().take(40).collect()))
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read() {
        let number = |text: &str| text.parse::<Signal>().map(Signal::number).ok();
        for (text, expected) in
            [("SIGTERM", 15), ("term", 15), ("15", 15), ("SIGRTMIN+3", 37), ("RTMIN", 34), ("SIGRTMAX-1", 63), ("rtmax", 64), ("64", 64)]
        {
            assert_eq!(number(text), Some(expected), "{text}");
        }
        for bad in ["", "SIG", "0", "65", "+9", "SIGFOO", "RTMIN+31", "RTMAX-31", "RTMIN+", "RTMIN+256", "SIG15", "-1"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }
}
