//! The memory's part of a copy.
//!
//! ```text
//!   whole      what is behind ─► (halted) own pages, into our own memory ─► written
//!              what is behind ─► own pages, if they are many ─► (halted) what has changed of them
//!   own first                    own pages, if they are many ─► (halted) all of them, or what has changed ─► what is behind
//! ```
//!
//! What is behind the guest's own pages never changes, and takes the longest. Nothing reads it before the copy's devices
//! are loaded; so what a `fork` leaves to do is done while the hypervisors of its copies start. Each waits for it
//! ([`Whole`]). Where the file system shares blocks, it costs nothing and comes first.

use std::fs::File;
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use smolvm_host::effect::perform;
use smolvm_host::engine::guest_memory::{AtRest, Fate, GuestMemory, Own};
use smolvm_host::image::snapshot::Draft;
use smolvm_model::effect::Effect;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;

use crate::capacity;
use crate::error::{Error, io_code};
use crate::start::Patience;

/// What a guest may have to itself for all of its pages to be copied while that stands still: so many are
/// read and written in the time that it takes anyway to come to rest and to go on.
const FEW: u64 = 48 << 20;

/// How often somebody who waits looks whether it was told to give up.
const SLICE: Duration = Duration::from_millis(50);

/// In which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// All of it is there when the copy is made.
    Whole(Fate),
    /// What is behind the guest's own pages comes afterwards ([`Rest`]).
    OwnFirst,
}

impl Order {
    /// The same with all of it first.
    pub(super) fn whole(self) -> Self {
        match self {
            Self::Whole(fate) => Self::Whole(fate),
            Self::OwnFirst => Self::Whole(Fate::Passing),
        }
    }
}

/// Memory that is being copied.
pub(super) struct MemoryCopy {
    memory: GuestMemory,
    file: File,
    order: Order,
    way: Way,
    /// Its own pages when it stood still, where somebody has to know which those were.
    own: Option<Own>,
}

/// How its own pages are copied.
enum Way {
    /// Into the file, when it stands still.
    Halted,
    /// As they are while it runs, and what has changed of them when it stands still.
    Ahead,
    /// Into our own memory when it stands still, and from there when it goes on.
    AtRest(AtRest),
}

impl MemoryCopy {
    /// Copies what is copied while the guest runs. `own` is what it has to itself.
    pub(super) fn begin(memory: GuestMemory, path: &Path, order: Order, own: u64, id: &SandboxId) -> Result<Self, Error> {
        let (file, way) = perform(Effect::Workdir, |_| -> Result<(File, Way), Error> {
            let file = Draft::make(path)?;
            let way = match order {
                Order::Whole(fate) => beginning_whole(&memory, &file, fate, own),
                Order::OwnFirst => {
                    file.set_len(memory.bytes()).and_then(|()| if own > FEW { ahead(&memory, &file) } else { Ok(Way::Halted) })
                }
            };
            Ok((file, way.map_err(unreadable(id))?))
        })?;
        Ok(Self { memory, file, order, way, own: None })
    }

    /// Reads or copies what must be while it stands still; gives the bytes of all that it has to itself.
    pub(super) fn catch_up(&mut self) -> std::io::Result<u64> {
        if let Way::AtRest(at_rest) = &mut self.way {
            if let Some(bytes) = at_rest.read(&self.memory)? {
                return Ok(bytes);
            }
            self.way = Way::Halted;
        }
        let own = match &self.way {
            Way::Ahead => self.memory.copy_changed(&self.file)?,
            Way::Halted | Way::AtRest(_) => self.memory.copy_own(&self.file)?,
        };
        let bytes = own.bytes();
        self.own = Some(own);
        Ok(bytes)
    }

    /// Writes what was only read, when it goes on.
    pub(super) fn write_read(&self) -> std::io::Result<()> {
        match (&self.way, self.order) {
            (Way::AtRest(at_rest), Order::Whole(fate)) => at_rest.write(&self.file, fate),
            (Way::AtRest(at_rest), Order::OwnFirst) => at_rest.write(&self.file, Fate::Passing),
            (Way::Halted | Way::Ahead, _) => Ok(()),
        }
    }

    /// What is left to do.
    pub(super) fn rest(self) -> Option<Rest> {
        let own = self.own.filter(|_| self.order == Order::OwnFirst)?;
        Some(Rest { memory: self.memory, file: self.file, own })
    }
}

/// What is behind its own pages; and those, unless they are so few that our own memory can hold them for a moment, with as much again
/// free for others.
fn beginning_whole(memory: &GuestMemory, file: &File, fate: Fate, own: u64) -> std::io::Result<Way> {
    let backing = || memory.copy_backing(file, fate);
    if own <= (capacity::available_memory() / 4).min(AtRest::MOST) {
        return AtRest::room_beside(own + own / 8, backing).map(Way::AtRest);
    }
    backing().and_then(|()| ahead(memory, file))
}

fn ahead(memory: &GuestMemory, file: &File) -> std::io::Result<Way> {
    memory.copy_own(file).map(|_| Way::Ahead)
}

/// What is behind the guest's own pages, and has to be copied yet.
#[derive(Debug)]
pub(crate) struct Rest {
    memory: GuestMemory,
    file: File,
    own: Own,
}

impl Rest {
    /// Copies it.
    pub(crate) fn fill(&self, id: &SandboxId) -> Result<(), Error> {
        perform(Effect::Workdir, |_| self.memory.copy_backing_around(&self.own, &self.file).map_err(unreadable(id)))
    }
}

pub(super) fn unreadable(id: &SandboxId) -> impl FnOnce(std::io::Error) -> Error {
    let message = format!("the memory of \"{id}\" cannot be copied");
    move |e| Error::new(io_code(&e), message).because(e)
}

/// Whether the memory is whole: one says so, and all who start a machine with it wait for that.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    told: Mutex<Told>,
    word: Condvar,
}

#[derive(Debug, Default)]
enum Told {
    #[default]
    Nothing,
    Whole,
    /// It never will be; the first who asks learns why.
    Never(Option<Error>),
}

impl Whole {
    /// That is how it came out.
    pub(crate) fn tell(&self, outcome: Result<(), Error>) {
        let told = match outcome {
            Ok(()) => Told::Whole,
            Err(e) => Told::Never(Some(e)),
        };
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = told;
        self.word.notify_all();
    }

    /// Waits until it is whole.
    pub(crate) fn wait(&self, patience: Patience<'_>) -> Result<(), Error> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &mut *told {
                Told::Nothing => patience.check()?,
                Told::Whole => return Ok(()),
                Told::Never(why) => {
                    return Err(why.take().unwrap_or_else(|| Error::new(ErrorCode::Internal, "the memory could not be copied")));
                }
            }
            told = self.word.wait_timeout(told, SLICE).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_wait_for_one_word_and_one_learns_why_there_is_none() {
        let patience = || Patience::new(Duration::from_mins(1), None);
        let whole = Whole::default();
        std::thread::scope(|scope| {
            let waiting = [(); 3].map(|()| scope.spawn(|| whole.wait(patience())));
            whole.tell(Ok(()));
            assert!(waiting.into_iter().all(|waits| waits.join().unwrap().is_ok()));
        });
        let never = Whole::default();
        never.tell(Err(Error::new(ErrorCode::ResourceExhausted, "no room")));
        let seen = [(); 2].map(|()| never.wait(patience()).unwrap_err().code);
        assert_eq!(seen, [ErrorCode::ResourceExhausted, ErrorCode::Internal]);
        let late = Whole::default().wait(Patience::new(Duration::ZERO, None)).unwrap_err();
        assert_eq!(late.code, ErrorCode::Timeout);
    }
}
