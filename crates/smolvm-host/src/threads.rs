//! The same work by several threads, each of which takes what is next from a common store.

use std::io::{Error, Result};
use std::thread::{Builder, available_parallelism, scope};

/// Runs `work` in as many threads as there are processors, `most` of them at most, this one among them; gives what each came
/// to. Where no thread can be had, this one does all.
pub(crate) fn at_once<T: Send>(most: usize, work: impl Fn() -> Result<T> + Sync) -> Result<Vec<T>> {
    let further = available_parallelism().map_or(1, usize::from).min(most).saturating_sub(1);
    scope(|scope| {
        let helpers: Vec<_> = (0..further).map_while(|_| Builder::new().spawn_scoped(scope, &work).ok()).collect();
        let own = work();
        let theirs: Vec<Result<T>> =
            helpers.into_iter().map(|helper| helper.join().unwrap_or_else(|_| Err(Error::other("a thread ended")))).collect();
        std::iter::once(own).chain(theirs).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn everything_is_taken_once_and_what_one_could_not_do_is_an_error() {
        let left = Mutex::new(0..1000_u64);
        let next = || left.lock().unwrap().next();
        let sums = at_once(4, || Ok(std::iter::from_fn(next).sum::<u64>())).unwrap();
        assert_eq!(sums.iter().sum::<u64>(), 499_500);
        let calls = Mutex::new(0..4);
        let one_fails = at_once(4, || match calls.lock().unwrap().next() {
            Some(0) => Err(Error::other("none")),
            _ => Ok(()),
        });
        assert!(one_fails.is_err());
    }
}
