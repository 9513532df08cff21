//! The world and all processes at one moment, what one step makes of it, and what must hold.

use crate::process::{Flaw, Inode, Process, Program, Step};

/// More steps than any program has, waiting for a lock once included.
pub(crate) const LONGEST: usize = 40;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum State {
    Creating,
    Created,
    Starting,
    Running,
    Deleting,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) state: State,
    pub(crate) generation: u8,
    /// Which process inserted it: two sandboxes of one name are two.
    pub(crate) maker: usize,
}

/// Everything outside of the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct World {
    /// Where the name of the lock file leads.
    pub(crate) name: Option<Inode>,
    pub(crate) row: Option<Row>,
    /// Whose state directory it is.
    pub(crate) dir: Option<usize>,
    /// The sandbox whose hypervisor runs, and the generation its monitor goes by.
    pub(crate) run: Option<(usize, u8)>,
    /// A monitor that has not recorded yet that the guest is ready.
    pub(crate) unready: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Moment {
    pub(crate) world: World,
    pub(crate) processes: Vec<Process>,
}

/// What is broken, if something is.
pub(crate) type Checked = Result<(), String>;

pub(crate) fn broken(what: &str) -> Checked {
    Err(what.to_owned())
}

/// Who made the sandbox that is there before.
pub(crate) const EARLIER: usize = usize::MAX;

/// What there may be before: nothing, or a sandbox in any state that a command leaves, killed or not. Its
/// lock file lies there, for only a deletion takes it away.
pub(crate) fn beginnings() -> Vec<World> {
    let of = |state, dir, run| World {
        name: Some(0),
        row: Some(Row { state, generation: 1, maker: EARLIER }),
        dir: Some(EARLIER).filter(|_| dir),
        run: Some((EARLIER, 1)).filter(|_| run),
        unready: run && state == State::Starting,
    };
    vec![
        World::default(),
        World { name: Some(0), ..World::default() },
        of(State::Creating, false, false),
        of(State::Creating, true, false),
        of(State::Created, true, false),
        of(State::Starting, true, false),
        of(State::Starting, true, true),
        of(State::Running, true, true),
        of(State::Deleting, true, true),
        of(State::Deleting, false, false),
    ]
}

impl Moment {
    pub(crate) fn new(world: World, programs: &[Program]) -> Self {
        Self { world, processes: programs.iter().map(|program| Process::new(*program)).collect() }
    }

    /// A number that no name, lock or descriptor knows.
    pub(crate) fn fresh(&self) -> Inode {
        let known = |inode: &Inode| self.world.name == Some(*inode) || self.processes.iter().any(|p| p.fd == Some(*inode));
        (0..=Inode::MAX).find(|inode| !known(inode)).unwrap_or_default()
    }

    /// Who holds the lock of that file.
    pub(crate) fn holder(&self, inode: Option<Inode>) -> Option<usize> {
        self.processes.iter().position(|process| process.holds && process.fd == inode)
    }

    pub(crate) fn close(&mut self, who: usize) {
        let process = &mut self.processes[who];
        (process.fd, process.holds, process.inside) = (None, false, false);
    }

    /// SIGKILL: the kernel closes what was open. Nothing else happens.
    pub(crate) fn kill(&self, who: usize) -> Self {
        let mut after = self.clone();
        after.close(who);
        after.processes[who].alive = false;
        after.processes[who].end();
        after
    }

    /// The monitor's only step, `record_ready`: it holds no lock, and goes by the generation it was given.
    pub(crate) fn ready(&self, flaw: Flaw) -> Option<Result<Self, String>> {
        let (maker, generation) = self.world.run.filter(|_| self.world.unready)?;
        let mut after = self.clone();
        after.world.unready = false;
        if let Some(row) = after.world.row.as_mut().filter(|row| flaw == Flaw::NoGeneration || row.generation == generation) {
            if row.maker != maker || row.state != State::Starting {
                return Some(Err(format!("the monitor overruled {row:?}")));
            }
            (row.state, row.generation) = (State::Running, row.generation + 1);
        }
        Some(Ok(after))
    }

    /// One step of one process: where it leads to. Some steps go two ways.
    pub(crate) fn step(&self, who: usize, flaw: Flaw) -> Result<Vec<Self>, String> {
        let mut after = self.clone();
        let process = &self.processes[who];
        let on = process.next(flaw);
        let mut give_up = None;
        let world = &mut after.world;
        let mut go = on;
        match process.step {
            Step::LookAtRow => match (&world.row, process.program) {
                (Some(row), _) => after.processes[who].read = Some((row.maker, row.generation)),
                // Without a row `cleanup` sweeps the lock file, if there is one.
                (None, Program::Cleanup) if world.name.is_some() => {
                    go = if flaw == Flaw::SweepUnlocked { Step::Unlink } else { Step::Open };
                }
                (None, _) => go = Step::Done,
            },
            Step::PeekOpen => {
                // Only these are judged by the lock; whatever else there is, `--all` takes.
                let by_lock = matches!(world.row, Some(Row { state: State::Creating | State::Deleting, .. }));
                after.processes[who].fd = world.name.filter(|_| by_lock);
                go = if after.processes[who].fd.is_some() { on } else { Step::Open };
            }
            Step::PeekTry => {
                // Tried and let go: a moment in which another's try may fail, which then tries again or is busy.
                after.close(who);
                go = if self.holder(process.fd).is_some() { Step::Done } else { on };
            }
            Step::Open => {
                let inode = world.name.unwrap_or_else(|| self.fresh());
                world.name = Some(inode);
                after.processes[who].fd = Some(inode);
            }
            Step::TryLock => {
                if self.holder(process.fd).is_some() {
                    // Tried again from the start, until the wait is over: then it ends as busy.
                    let mut busy = self.clone();
                    busy.close(who);
                    busy.processes[who].end();
                    give_up = Some(busy);
                    after.processes[who].fd = None;
                    go = Step::Open;
                } else {
                    after.processes[who].holds = true;
                }
            }
            Step::LeadsHere => {
                if world.name == process.fd || flaw == Flaw::AnyFileWillDo {
                    after.processes[who].inside = true;
                } else {
                    after.close(who);
                    go = Step::Open;
                }
            }
            Step::Insert => {
                if world.row.is_some() && flaw != Flaw::NotUnique {
                    go = Step::Close;
                } else {
                    world.row = Some(Row { state: State::Creating, generation: 0, maker: who });
                }
            }
            Step::MakeDir => {
                if world.dir.is_some() {
                    return Err("a directory is made where one is".to_owned());
                }
                world.dir = Some(who);
            }
            Step::RecordMade => match &mut world.row {
                Some(row) if row.maker == who && row.generation == 0 => (row.state, row.generation) = (State::Created, 1),
                other => return Err(format!("what was being made is {other:?} now")),
            },
            Step::LookAgain => match (&world.row, process.program) {
                // `Lock::remove`: nobody else is inside, so the name goes.
                (None, _) => go = Step::Unlink,
                (Some(row), Program::Start) => {
                    after.processes[who].read = Some((row.maker, row.generation));
                    // Half made, half deleted, running, or started and not proven dead.
                    go = if row.state == State::Created { on } else { Step::Close };
                }
                (Some(_), Program::Cleanup) if process.read.is_none() => go = Step::Close,
                // Another sandbox by now, or changed since the look.
                (Some(row), Program::Cleanup) if row.state != State::Deleting && process.read != Some((row.maker, row.generation)) => {
                    go = Step::Close;
                }
                (Some(row), _) => after.processes[who].read = Some((row.maker, row.generation)),
            },
            Step::RecordDeleting => match &mut world.row {
                Some(row) => {
                    (row.state, row.generation) = (State::Deleting, row.generation + 1);
                    after.processes[who].deletes = true;
                }
                // A forced state of no row changes nothing, and its entries were read before.
                None => return Err("something is deleted that is in no record".to_owned()),
            },
            Step::EndRun | Step::RemoveDir => {
                let of = process.read.map(|read| read.0);
                let met = if process.step == Step::EndRun { world.run.take().map(|run| run.0) } else { world.dir.take() };
                world.unready &= world.run.is_some();
                if met.is_some() && met != of {
                    return Err(format!("the deletion of {of:?} took what is {met:?}'s"));
                }
            }
            Step::DropRow => {
                if world.row.is_some_and(|row| Some(row.maker) != process.read.map(|read| read.0)) {
                    return Err("the row of another sandbox was dropped".to_owned());
                }
                world.row = None;
            }
            Step::Unlink => {
                world.name = None;
                after.processes[who].inside = false;
            }
            Step::RecordStarting => match &mut world.row {
                Some(row) if Some((row.maker, row.generation)) == process.read => {
                    (row.state, row.generation) = (State::Starting, row.generation + 1);
                }
                other => return Err(format!("a start found {other:?} changed under its lock")),
            },
            Step::Launch => {
                let (maker, generation) = process.read.ok_or("a start of nothing")?;
                if world.run.is_some() || world.dir != Some(maker) {
                    return Err("a hypervisor was started beside another, or without a disk".to_owned());
                }
                world.run = Some((maker, generation + 1));
                world.unready = true;
            }
            Step::Close => after.close(who),
            Step::Done => return Err("a step that is none".to_owned()),
        }
        after.processes[who].step = go;
        if go == Step::Done {
            after.processes[who].end();
        }
        let mut ways = vec![after];
        ways.extend(give_up);
        Ok(ways)
    }

    /// What holds at every moment.
    pub(crate) fn check(&self) -> Checked {
        let World { row, dir, run, .. } = &self.world;
        if self.processes.iter().filter(|process| process.inside).count() > 1 {
            return broken("two hold the lock of one sandbox");
        }
        // Intent before effect: what is on the host is in the ledger, under the row of its own sandbox.
        let recorded = |maker: usize| row.is_some_and(|row| row.maker == maker);
        if dir.is_some_and(|maker| !recorded(maker)) || run.is_some_and(|(maker, _)| !recorded(maker)) {
            return broken("something is on the host and in no record");
        }
        if run.is_some() && dir.is_none() {
            return broken("a hypervisor runs without its disk");
        }
        Ok(())
    }

    /// One more cleaner, alone: it finishes whatever the others began.
    pub(crate) fn can_be_cleaned(&self, flaw: Flaw) -> Checked {
        let mut now = self.clone();
        now.processes.push(Process::new(Program::Cleanup));
        let who = now.processes.len() - 1;
        let mut steps = 0;
        while !now.processes[who].is_over() {
            // Alone there is one way each.
            now = now.step(who, flaw)?.swap_remove(0);
            now.check()?;
            steps += 1;
            if steps > LONGEST {
                return broken("a cleaner that is alone does not end");
            }
        }
        let World { name, row, dir, run, .. } = &now.world;
        if name.is_some() || row.is_some() || dir.is_some() || run.is_some() {
            return Err(format!("a cleaner that is alone left {:?}", now.world));
        }
        Ok(())
    }
}
