//! Waiting for something to become true, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

/// Asks `ready` until it answers with a value; panics with `what` when `limit` has passed.
///
/// The pauses grow from 1 to 50 ms: quick things are noticed quickly, slow ones cost nothing.
pub fn until<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(begin.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_deadlines() {
        let mut left = 3;
        let answer = until("three looks", Duration::from_secs(5), || {
            left -= 1;
            (left == 0).then_some(7)
        });
        assert_eq!(answer, 7);
    }

    #[test]
    #[should_panic(expected = "not within 10ms: never")]
    fn a_deadline_names_what_was_waited_for() {
        until::<()>("never", Duration::from_millis(10), || None);
    }
}
