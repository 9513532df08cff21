//! Moments for people and scripts: RFC 3339 in UTC, made here so that one module knows the crate.

use jiff::Timestamp;

/// Milliseconds since 1970 as RFC 3339 with milliseconds.
pub fn rfc3339(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |t| format!("{t:.3}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn three_digits_and_z() {
        assert_eq!(super::rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(super::rfc3339(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
    }
}
