//! The memory's part of a copy.
//!
//! ```text
//!   whole      what is behind ─► own pages ─► (halted) what has changed of them
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
use smolvm_host::engine::guest_memory::{GuestMemory, Own};
use smolvm_host::image::snapshot::Draft;
use smolvm_model::effect::Effect;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;

use crate::error::{Error, io_code};
use crate::start::Patience;

/// What a hypervisor may have to itself for all of its guest's pages to be copied while that stands still: so many are
/// read and written in the time that it takes anyway to come to rest and to go on.
const FEW: u64 = 48 << 20;

/// How often somebody who waits looks whether it was told to give up.
const SLICE: Duration = Duration::from_millis(50);

/// In which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// All of it is there when the copy is made.
    Whole,
    /// What is behind the guest's own pages comes afterwards ([`Rest`]).
    OwnFirst,
}

/// Memory that is being copied.
pub(super) struct MemoryCopy {
    memory: GuestMemory,
    file: File,
    order: Order,
    /// Whether its own pages are there as they were a while ago.
    ahead: bool,
}

impl MemoryCopy {
    /// Copies what is copied while the guest runs. `own` is what its hypervisor has to itself.
    pub(super) fn begin(memory: GuestMemory, path: &Path, order: Order, own: u64, id: &SandboxId) -> Result<Self, Error> {
        let ahead = order == Order::Whole || own > FEW;
        let file = perform(Effect::Workdir, |_| -> Result<File, Error> {
            let file = Draft::make(path)?;
            let begun = match order {
                Order::Whole => memory.copy_backing(&file),
                Order::OwnFirst => file.set_len(memory.bytes()),
            };
            begun.and_then(|()| if ahead { memory.copy_own(&file).map(drop) } else { Ok(()) }).map_err(unreadable(id))?;
            Ok(file)
        })?;
        Ok(Self { memory, file, order, ahead })
    }

    /// Copies what must be while it stands still.
    pub(super) fn catch_up(&self) -> std::io::Result<Own> {
        if self.ahead { self.memory.copy_changed(&self.file) } else { self.memory.copy_own(&self.file) }
    }

    /// What is left to do.
    pub(super) fn rest(self, own: Own) -> Option<Rest> {
        (self.order == Order::OwnFirst).then_some(Rest { memory: self.memory, file: self.file, own })
    }
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
