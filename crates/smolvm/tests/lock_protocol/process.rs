//! A process of the model: which program it runs, where it is in it, and what it knows.

pub(crate) type Inode = u8;

/// What a process does next. The order within a program is [`Process::next`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Step {
    /// `lock_existing`, `still_meant`, `sweep_locks`: is there a row?
    LookAtRow,
    /// `cleanup_plan`: `is_held` opens the file, if there is one.
    PeekOpen,
    /// `is_held`: a shared lock, tried and let go at once.
    PeekTry,
    /// `lock::take`: open, made if missing.
    Open,
    /// `lock::take`: `try_lock`; the file of somebody else means waiting, or giving up.
    TryLock,
    /// `lock::take`: `leads_here`.
    LeadsHere,
    /// `Smolvm::insert`: row and entries, if the name is free.
    Insert,
    /// `make_state_dir`.
    MakeDir,
    /// `create_recorded`: `set_state(…, 0, Created)`.
    RecordMade,
    /// `lock_existing`, `still_meant`, `sweep_locks`: is there a row, now that the lock is held?
    LookAgain,
    /// `remove_locked`: `force_state(…, Deleting)`.
    RecordDeleting,
    /// `remove_locked`: the processes end.
    EndRun,
    /// `remove_locked`: the directory goes.
    RemoveDir,
    /// `remove_locked`: entries and row, in one transaction.
    DropRow,
    /// `Lock::remove`: the name goes.
    Unlink,
    /// `start::begin`: `set_state(…, generation, Starting)`.
    RecordStarting,
    /// `bring_up`: monitor and hypervisor.
    Launch,
    /// The lock is let go.
    Close,
    Done,
}

/// The four programs, and the monitor that a start leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Program {
    Create,
    Start,
    Delete,
    /// `cleanup`: looks, judges, takes the lock, judges again, removes; without a row it sweeps the lock file.
    Cleanup,
}

/// A precaution that is left out, to see that it is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// `take` believes any lock.
    AnyFileWillDo,
    /// `lock_existing` and `still_meant` do not look at the row again.
    NoSecondLook,
    /// The lock is let go before its name is unlinked.
    CloseFirst,
    /// The name is unlinked before the row goes.
    UnlinkFirst,
    /// `sweep_locks` unlinks without the lock.
    SweepUnlocked,
    /// The directory is made before the row stands.
    ActFirst,
    /// A row can be inserted twice: the name is not unique.
    NotUnique,
    /// The monitor's `set_state` does not compare generations.
    NoGeneration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) program: Program,
    pub(crate) step: Step,
    pub(crate) fd: Option<Inode>,
    /// Whether that file's lock is its own.
    pub(crate) holds: bool,
    /// Between the moment the lock was taken and the one it is let go, or its name is unlinked.
    pub(crate) inside: bool,
    /// What was read of the row: its maker and its generation.
    pub(crate) read: Option<(usize, u8)>,
    pub(crate) alive: bool,
    /// Whether it is past the point from which it deletes.
    pub(crate) deletes: bool,
}

impl Process {
    pub(crate) fn new(program: Program) -> Self {
        let step = if program == Program::Create { Step::Open } else { Step::LookAtRow };
        Self { program, step, fd: None, holds: false, inside: false, read: None, alive: true, deletes: false }
    }

    /// What it knew goes with it.
    pub(crate) fn end(&mut self) {
        (self.step, self.read, self.deletes) = (Step::Done, None, false);
    }

    pub(crate) fn is_over(&self) -> bool {
        !self.alive || self.step == Step::Done
    }

    /// The step after one that went well.
    pub(crate) fn next(&self, flaw: Flaw) -> Step {
        let skip_look = flaw == Flaw::NoSecondLook && self.read.is_some();
        match (self.step, self.program) {
            (Step::LookAtRow, Program::Cleanup) => Step::PeekOpen,
            (Step::LookAtRow | Step::PeekTry, _) => Step::Open,
            (Step::PeekOpen, _) => Step::PeekTry,
            (Step::Open, _) => Step::TryLock,
            (Step::TryLock, _) => Step::LeadsHere,
            (Step::LeadsHere, Program::Create) if flaw == Flaw::ActFirst => Step::MakeDir,
            (Step::LeadsHere, Program::Create) => Step::Insert,
            (Step::LeadsHere, Program::Start) if skip_look => Step::RecordStarting,
            (Step::LeadsHere, _) if skip_look => Step::RecordDeleting,
            (Step::LeadsHere, _) => Step::LookAgain,
            (Step::Insert, _) if flaw == Flaw::ActFirst => Step::RecordMade,
            (Step::Insert, _) => Step::MakeDir,
            (Step::MakeDir, _) if flaw == Flaw::ActFirst => Step::Insert,
            (Step::MakeDir, _) => Step::RecordMade,
            (Step::LookAgain, Program::Start) => Step::RecordStarting,
            (Step::LookAgain, _) => Step::RecordDeleting,
            (Step::RecordDeleting, _) => Step::EndRun,
            (Step::EndRun, _) => Step::RemoveDir,
            (Step::RemoveDir, _) if flaw == Flaw::UnlinkFirst => Step::Unlink,
            (Step::Unlink, _) if flaw == Flaw::UnlinkFirst && self.deletes => Step::DropRow,
            (Step::DropRow, _) if flaw == Flaw::UnlinkFirst => Step::Close,
            (Step::RemoveDir, _) => Step::DropRow,
            (Step::DropRow, _) if flaw == Flaw::CloseFirst => Step::Close,
            (Step::Close, _) if flaw == Flaw::CloseFirst && self.deletes => Step::Unlink,
            (Step::Unlink, _) if flaw == Flaw::CloseFirst && self.deletes => Step::Done,
            (Step::DropRow, _) => Step::Unlink,
            (Step::Unlink, _) => Step::Close,
            (Step::RecordStarting, _) => Step::Launch,
            (Step::RecordMade | Step::Launch, _) => Step::Close,
            (Step::Close | Step::Done, _) => Step::Done,
        }
    }
}
