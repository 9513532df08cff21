//! Work that is done at the same time.

use std::io::{Error, Result};
use std::panic::resume_unwind;
use std::thread::{Builder, available_parallelism, scope};

/// Runs `other` in a thread while this one does what is to be done `here`; where no thread can be had, before that.
pub fn beside<A: Send, B>(other: impl Fn() -> A + Sync, here: impl FnOnce() -> B) -> (A, B) {
    scope(|scope| match Builder::new().spawn_scoped(scope, &other) {
        Ok(thread) => {
            let here = here();
            (thread.join().unwrap_or_else(|panic| resume_unwind(panic)), here)
        }
        Err(_) => (other(), here()),
    })
}

/// The same `work` by several threads, each of which takes what is next from a common store: by as many threads as there are processors, `most` of them at most, this one among them; gives what each came
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
    use std::sync::{Barrier, Mutex};

    #[test]
    fn two_things_are_done_at_the_same_time() {
        let both = Barrier::new(2);
        let (other, here) = beside(|| both.wait().is_leader(), || both.wait().is_leader());
        assert!(other != here);
    }

    #[test]
    fn what_each_came_to_counts_and_what_one_could_not_do_is_an_error() {
        let wanted = available_parallelism().unwrap().get().min(4);
        // None goes on before all are there, so none does the work of another.
        let all = Barrier::new(wanted);
        let each = at_once(4, || Ok(all.wait().is_leader())).unwrap();
        assert_eq!((each.len(), each.iter().filter(|leads| **leads).count()), (wanted, 1));
        for failing in 0..wanted {
            let turns = Mutex::new(0..);
            let one_fails = at_once(4, || {
                all.wait();
                if turns.lock().unwrap().next() == Some(failing) { Err(Error::other("none")) } else { Ok(()) }
            });
            assert!(one_fails.is_err(), "{failing}");
        }
    }
}
