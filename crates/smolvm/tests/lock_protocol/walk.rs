//! Every moment that can be reached.

use std::collections::HashSet;

use crate::moment::{Checked, LONGEST, Moment, beginnings};
use crate::process::{Flaw, Program};

/// What a walk found.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    pub(crate) moments: usize,
    /// How many ends there are, and in how many of them everybody lived.
    pub(crate) ends: usize,
    pub(crate) whole: usize,
}

/// Every moment that can be reached by steps, at most `kills` kills among them.
pub(crate) fn explore(programs: &[Program], kills: usize, flaw: Flaw) -> Result<Walk, String> {
    let mut walk = Walk::default();
    let mut known = HashSet::new();
    let mut open: Vec<Moment> = beginnings().into_iter().map(|world| Moment::new(world, programs)).collect();
    while let Some(now) = open.pop() {
        if known.contains(&now) {
            continue;
        }
        known.insert(now.clone());
        let told = |what: String| format!("{programs:?}: {what} in {now:#?}");
        now.check().map_err(told)?;
        walk.moments += 1;
        let living: Vec<usize> = (0..now.processes.len()).filter(|who| !now.processes[*who].is_over()).collect();
        if living.is_empty() {
            walk.ends += 1;
            walk.whole += usize::from(now.processes.iter().all(|process| process.alive));
            if now.processes.iter().any(|process| process.holds) {
                return Err(told("somebody who ended holds a lock".to_owned()));
            }
            now.can_be_cleaned(flaw).map_err(told)?;
        }
        let killed = now.processes.iter().filter(|process| !process.alive).count();
        for who in living {
            open.extend(now.step(who, flaw).map_err(told)?);
            if killed < kills {
                open.push(now.kill(who));
            }
        }
        if let Some(after) = now.ready(flaw) {
            open.push(after.map_err(told)?);
        }
    }
    Ok(walk)
}

/// Progress: from every moment somebody can go on alone to the end, whatever the others hold.
pub(crate) fn nobody_is_stuck(programs: &[Program]) -> Checked {
    let mut known = HashSet::new();
    let mut open: Vec<Moment> = beginnings().into_iter().map(|world| Moment::new(world, programs)).collect();
    while let Some(now) = open.pop() {
        if !known.insert(now.clone()) {
            continue;
        }
        for who in (0..now.processes.len()).filter(|who| !now.processes[*who].is_over()) {
            let mut alone = now.clone();
            for _ in 0..LONGEST {
                if alone.processes[who].is_over() {
                    break;
                }
                // Where it may give up, it has waited long enough.
                alone = alone.step(who, Flaw::None)?.pop().ok_or("a step that leads nowhere")?;
            }
            if !alone.processes[who].is_over() {
                return Err(format!("process {who} does not end by itself in {now:#?}"));
            }
            open.extend(now.step(who, Flaw::None)?);
        }
    }
    Ok(())
}
