//! Work on very many sandboxes, done by two threads.

/// From so many on, a second thread pays.
const HALVED_FROM: usize = 1000;

/// What `work` makes of all of them: of the whole where they are few, or of each half at the same time; in their order.
pub(crate) fn halves<T: Sync, R: Send>(items: &[T], work: impl Fn(&[T]) -> R + Sync) -> Vec<R> {
    if items.len() < HALVED_FROM {
        return vec![work(items)];
    }
    let (first, second) = items.split_at(items.len() / 2);
    std::thread::scope(|scope| {
        let other = std::thread::Builder::new().spawn_scoped(scope, || work(second));
        let first = work(first);
        let second = match other {
            Ok(other) => other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            // No thread can be had: the one there is does both.
            Err(_) => work(second),
        };
        vec![first, second]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_and_the_order_stays() {
        for (count, parts) in [(0, 1), (1, 1), (HALVED_FROM - 1, 1), (HALVED_FROM, 2), (HALVED_FROM + 1, 2)] {
            let items: Vec<usize> = (0..count).collect();
            let done = halves(&items, <[usize]>::to_vec);
            assert_eq!(done.len(), parts, "{count}");
            assert_eq!(done.concat(), items);
        }
    }
}
