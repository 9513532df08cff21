//! A process in the background that draws random numbers all the time, and what it drew in the copies of its guest.

use std::collections::BTreeSet;

use super::{Place, SOON};

/// Writes a number, the guest's name and its time, again and again. Without another process, so that the loop is as tight
/// as can be; `uuid` is what `/dev/urandom` gives, as text. It ends by itself before the memory does.
pub(crate) const DRAWING: &str = r#"awk 'BEGIN {
    drawn = "/proc/sys/kernel/random/uuid"; name = "/proc/sys/kernel/hostname"
    for (i = 0; i < 500000; i++) { getline d < drawn; close(drawn); getline n < name; close(name); print d, n, systime(); fflush() }
}' > /dev/shm/drawn 2> /dev/shm/why < /dev/null &"#;

/// How many there are.
pub(crate) const DRAWN: &str = "cat /dev/shm/why >&2; wc -l < /dev/shm/drawn";

/// What one guest has drawn.
struct Drawn {
    number: String,
    name: String,
    secs: u64,
}

/// Waits until so many lines are there.
#[track_caller]
pub(crate) fn until_drawn(place: &Place, id: &str, lines: usize) {
    testkit::until(&format!("numbers drawn in {id}"), SOON, || {
        (place.in_guest(id, DRAWN).trim().parse::<usize>().unwrap() > lines).then_some(())
    });
}

/// Of a source and copies that were told who they are after this moment: no number that was drawn after the copy is in
/// two of them, and all that a copy drew it drew under its own name and at its own time. Only the line that it was at
/// when it was copied may be half and half.
#[track_caller]
pub(crate) fn assert_nothing_shared(place: &Place, source: &str, copies: &[&str], told: u64) {
    let mut before = None;
    let mut seen = BTreeSet::new();
    for id in copies {
        let all = draws(place, id, source);
        let inherited = all.iter().take_while(|line| line.name == source).count();
        // From the same memory: one that went on for a moment as its source has more of them than its twin.
        let wanted = *before.get_or_insert(inherited);
        assert_eq!(inherited, wanted, "{id} drew {} numbers under the name of its source", inherited.abs_diff(wanted));
        for line in &all[inherited + 1..] {
            assert!(line.name == *id && line.secs >= told, "{id} drew at {} as {:?}, told at {told}", line.secs, line.name);
            assert!(seen.insert(line.number.clone()), "{id} shares {} with another", line.number);
        }
    }
    let inherited = before.unwrap();
    for line in &draws(place, source, "")[inherited + 1..] {
        assert!(!seen.contains(&line.number), "{source} shares {} with a copy", line.number);
    }
}

/// All that was drawn there, with some more than what was inherited.
#[track_caller]
fn draws(place: &Place, id: &str, source: &str) -> Vec<Drawn> {
    let read = || {
        // The last line may be half written.
        let text = place.in_guest(id, "sed '$d' /dev/shm/drawn");
        let lines = text.lines().map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let [number, name, secs] = words.as_slice() else { panic!("{id}: {line:?}") };
            Drawn { number: (*number).to_owned(), name: (*name).to_owned(), secs: secs.parse().unwrap() }
        });
        lines.collect::<Vec<_>>()
    };
    testkit::until(&format!("numbers drawn in {id} itself"), SOON, || {
        let all = read();
        (all.iter().filter(|line| line.name != source).count() > 20).then_some(all)
    })
}
