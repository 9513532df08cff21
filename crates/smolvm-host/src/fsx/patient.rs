//! Work on files that a file system without an answer cannot hang.
//!
//! ```text
//!   items ──► worker ──► result            a worker that is not done with one item in time is left behind,
//!         └─► worker ──► …                 the item is `None`, and another worker goes on with the next
//! ```
//!
//! As long as others get done the file system answers, and one that takes long is waited for: time runs out when nothing
//! has been done for that long.
//!
//! No system call on files has a time limit: a server of a network file system that went away, or a program behind a
//! mount that was stopped, holds whoever asks it for ever. Where that can be killed, a worker left behind ends with
//! the process; a kernel that lets nobody interrupt the wait lets nobody end the process either.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What one item has come to.
enum Place<R> {
    Waiting,
    Begun(Instant),
    Done(R),
    Late,
}

struct Board<R> {
    places: Vec<Place<R>>,
    next: usize,
    open: usize,
    /// When something was last done.
    progress: Instant,
}

struct Work<T, R, F> {
    items: Vec<T>,
    act: F,
    board: Mutex<Board<R>>,
    settled: Condvar,
}

/// Does `act` to each of `items`, up to `workers` at a time; the results come in their order, and `None` is what
/// took longer than `patience` while nothing else was done either.
pub fn patiently<T, R, F>(items: Vec<T>, workers: usize, patience: Duration, act: F) -> Vec<Option<R>>
where
    T: Send + Sync + 'static,
    R: Send + 'static,
    F: Fn(&T) -> R + Send + Sync + 'static,
{
    let places: Vec<Place<R>> = items.iter().map(|_| Place::Waiting).collect();
    let board = Mutex::new(Board { next: 0, open: places.len(), places, progress: Instant::now() });
    let work = Arc::new(Work { items, act, board, settled: Condvar::new() });
    let started = (0..workers.clamp(1, work.items.len().max(1))).filter(|_| spawn(&work)).count();
    if started == 0 {
        // No thread to be had: then it is done here, however long that takes.
        run(&work);
    }
    wait(&work, patience);
    let places = std::mem::take(&mut lock(&work.board).places);
    let result = |place| match place {
        Place::Done(result) => Some(result),
        Place::Waiting | Place::Begun(_) | Place::Late => None,
    };
    places.into_iter().map(result).collect()
}

fn spawn<T, R, F>(work: &Arc<Work<T, R, F>>) -> bool
where
    T: Send + Sync + 'static,
    R: Send + 'static,
    F: Fn(&T) -> R + Send + Sync + 'static,
{
    let own = Arc::clone(work);
    std::thread::Builder::new().spawn(move || run(&own)).is_ok()
}

/// One worker: takes the next item until there is none, or until it is itself taken for lost.
fn run<T, R, F: Fn(&T) -> R>(work: &Work<T, R, F>) {
    while let Some(i) = begin(&work.board) {
        let result = (work.act)(&work.items[i]);
        let mut board = lock(&work.board);
        match board.places.get(i) {
            Some(Place::Begun(_)) => board.places[i] = Place::Done(result),
            // Another has taken its place.
            Some(Place::Waiting | Place::Done(_) | Place::Late) | None => return,
        }
        board.open -= 1;
        board.progress = Instant::now();
        if board.open == 0 {
            work.settled.notify_all();
        }
    }
}

fn begin<R>(board: &Mutex<Board<R>>) -> Option<usize> {
    let mut board = lock(board);
    let i = board.next;
    *board.places.get_mut(i)? = Place::Begun(Instant::now());
    board.next += 1;
    Some(i)
}

/// Until everything is done or late.
fn wait<T, R, F>(work: &Arc<Work<T, R, F>>, patience: Duration)
where
    T: Send + Sync + 'static,
    R: Send + 'static,
    F: Fn(&T) -> R + Send + Sync + 'static,
{
    let mut board = lock(&work.board);
    while board.open > 0 {
        let lost = give_up(&mut board, patience);
        if board.open == 0 {
            return;
        }
        for _ in 0..lost {
            // The rest of the workers go on; with none left, nothing more is begun, and that is late as well.
            if !spawn(work) && is_idle(&board) {
                return;
            }
        }
        let first = board.places.iter().filter_map(|place| if let Place::Begun(at) = place { Some(*at) } else { None }).min();
        let until = first.map_or(patience, |at| (at.max(board.progress) + patience).saturating_duration_since(Instant::now()));
        let (after, _) = work.settled.wait_timeout(board, until.max(Duration::from_millis(1))).unwrap_or_else(PoisonError::into_inner);
        board = after;
    }
}

/// Calls everything late that began too long ago; how many workers that makes lost.
fn give_up<R>(board: &mut Board<R>, patience: Duration) -> usize {
    if board.progress.elapsed() < patience {
        return 0;
    }
    let mut lost = 0;
    for place in &mut board.places {
        if matches!(place, Place::Begun(at) if at.elapsed() >= patience) {
            *place = Place::Late;
            lost += 1;
        }
    }
    board.open -= lost;
    lost
}

fn is_idle<R>(board: &Board<R>) -> bool {
    !board.places.iter().any(|place| matches!(place, Place::Begun(_)))
}

/// A worker that panicked holds no half-written board: it changes one place at a time.
fn lock<R>(board: &Mutex<Board<R>>) -> MutexGuard<'_, Board<R>> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn results_come_in_order_however_many_work() {
        for workers in [1, 3, 100] {
            let items: Vec<u32> = (0..50).collect();
            assert_eq!(patiently(items.clone(), workers, LONG, |i| *i), items.into_iter().map(Some).collect::<Vec<_>>());
        }
        assert!(patiently(Vec::<u32>::new(), 4, LONG, |i| *i).is_empty());
    }

    /// A disk that is slow is no disk that is away.
    #[test]
    fn what_takes_long_is_waited_for_while_others_get_done() {
        let (tell, told) = channel();
        let told = Mutex::new(told);
        let patience = Duration::from_secs(2);
        let act = move |i: &u32| match i {
            0 => lock_of(&told).recv().is_ok(),
            5 => tell.send(()).is_ok(),
            _ => {
                // Together longer than the patience, each much shorter.
                std::thread::sleep(patience / 3);
                true
            }
        };
        assert_eq!(patiently((0..6).collect(), 2, patience, act), [Some(true); 6]);
    }

    fn lock_of<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap()
    }

    #[test]
    fn what_hangs_is_given_up_and_the_rest_is_done() {
        // Nobody ever sends: whoever waits for it hangs.
        let (keep, never) = channel::<()>();
        let never = Mutex::new(never);
        let act = move |i: &u32| {
            if *i % 3 == 1 {
                let _ = never.lock().map(|never| never.recv());
            }
            *i
        };
        let done = patiently((0..7).collect(), 2, Duration::from_millis(50), act);
        assert_eq!(done, [Some(0), None, Some(2), Some(3), None, Some(5), Some(6)]);
        drop(keep);
    }
}
