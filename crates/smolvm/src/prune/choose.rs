//! Which of what could go does.

use smolvm_host::image::unused::{Part, Unused, Use};

use super::PruneRequest;

/// What goes, with why: what nothing will ask for, and what was not asked for in a long time. Of templates the last ones
/// that were forked stay in any case.
pub(super) fn choose(mut found: Vec<Unused>, request: PruneRequest, now_unix: u64) -> Vec<(Unused, String)> {
    found.sort_by(|a, b| (a.part, std::cmp::Reverse(since(a)), &a.name).cmp(&(b.part, std::cmp::Reverse(since(b)), &b.name)));
    let mut kept = 0;
    let mut chosen = Vec::new();
    for one in found {
        match one.used {
            Use::None => {
                let why = match one.part {
                    Part::Template => "of another boot or another smolvm",
                    Part::Image => "it has no name, and no sandbox or snapshot needs it",
                    Part::Kernel | Part::Initramfs => "another is current",
                    Part::Downloads | Part::Blob => "no longer needed",
                };
                chosen.push((one, why.to_owned()));
            }
            Use::Since(_) if one.part == Part::Template && kept < request.keep => kept += 1,
            Use::Since(then) => {
                let idle = now_unix.saturating_sub(then);
                if idle >= request.idle.as_secs() {
                    chosen.push((one, format!("not used for {}", span(idle))));
                }
            }
        }
    }
    chosen
}

fn since(one: &Unused) -> u64 {
    match one.used {
        Use::None => 0,
        Use::Since(then) => then,
    }
}

/// A span of time for people, in its largest unit.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::prune::Mode;

    #[test]
    fn what_is_of_no_use_goes_and_of_the_rest_what_is_old_but_for_the_last_templates() {
        let one = |part, name: &str, used| Unused { part, name: name.to_owned(), bytes: 1, used };
        let found = || {
            vec![
                one(Part::Template, "stale", Use::None),
                one(Part::Template, "old", Use::Since(100)),
                one(Part::Template, "older", Use::Since(50)),
                one(Part::Template, "new", Use::Since(990)),
                one(Part::Image, "nameless", Use::None),
                one(Part::Downloads, "apt", Use::Since(400)),
            ]
        };
        let names = |idle, keep| {
            let request = PruneRequest { idle: Duration::from_secs(idle), keep, mode: Mode::Say };
            choose(found(), request, 1000).into_iter().map(|(one, _)| one.name).collect::<Vec<_>>()
        };
        assert_eq!(names(500, 0), ["old", "older", "stale", "nameless", "apt"]);
        assert_eq!(names(500, 2), ["older", "stale", "nameless", "apt"]);
        assert_eq!(names(0, 0), ["new", "old", "older", "stale", "nameless", "apt"]);
        assert_eq!(names(10_000, 0), ["stale", "nameless"]);
        // A clock that went back makes nothing old.
        assert_eq!(
            choose(
                vec![one(Part::Downloads, "apt", Use::Since(2000))],
                PruneRequest { idle: Duration::from_secs(1), keep: 0, mode: Mode::Say },
                1000
            ),
            []
        );
    }
}
