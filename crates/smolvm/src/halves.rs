//! Work on very many sandboxes, done by two threads.

use smolvm_host::threads::beside;

/// From so many on, a second thread pays.
const HALVED_FROM: usize = 1000;

/// What `work` makes of all of them: of the whole where they are few, or of each half at the same time; in their order.
pub(crate) fn halves<T: Sync, R: Send>(items: &[T], work: impl Fn(&[T]) -> R + Sync) -> Vec<R> {
    if items.len() < HALVED_FROM {
        return vec![work(items)];
    }
    let (first, second) = items.split_at(items.len() / 2);
    let (second, first) = beside(|| work(second), || work(first));
    vec![first, second]
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
