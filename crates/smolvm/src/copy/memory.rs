//! The memory's part of a copy.
//!
//! ```text
//!   whole      (halted) own pages, into our own memory; meanwhile what is behind ─► those written over it
//!   … to last  (halted) what is large of them to the disk, what is small as above; then what is left of what is behind, the same way
//!   own first                    (halted) own pages, into our own memory ─► those written, and what is behind
//!   … of many  own pages are written ahead, and what has changed of them when it is halted
//! ```
//!
//! What is behind the guest's own pages never changes, and takes the longest. Nothing reads it before the copy's devices
//! are loaded; so what a `fork` leaves to do is done while the hypervisors of its copies start. Each waits for it
//! ([`Whole`]). Where the file system of the copy shares blocks, all is there before they start: mostly it costs nothing then.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use smolvm_host::effect::perform;
use smolvm_host::engine::guest_memory::{AtRest, BackingCopy, Counted, Fate, GuestMemory, Lane, Own, Pages, RoomInMaking};
use smolvm_host::image::snapshot::Draft;
use smolvm_model::effect::Effect;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;

use crate::capacity;
use crate::error::{Error, io_code};

/// What a guest may come to have more, while somebody gets ready to read what it has.
const GROWTH: u64 = 4 << 20;

/// In which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// All of it is there when the copy is made, mostly on the disk.
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

/// Memory of which that is being copied which need not stand still.
pub(super) struct Begun {
    target: Target,
    way: Ahead,
}

/// Memory that is being copied.
pub(super) struct MemoryCopy {
    target: Target,
    way: Way,
}

/// From where to where.
struct Target {
    memory: GuestMemory,
    file: File,
    order: Order,
}

/// What the guest's going on leaves: to do, and known.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// Of a copy whose own pages come first.
    pub(super) rest: Option<Rest>,
    /// Of one that is to last.
    pub(super) counted: Option<Counted>,
}

/// What of its own pages is there before it stands still.
enum Ahead {
    /// Nothing, but room for them is being made. What is behind them is on its way to where they belong.
    Room(RoomInMaking, Option<BackingCopy>),
    /// All of them are in the file, as they were while it ran.
    Copied(Own),
}

/// Where its own pages are.
enum Way {
    /// In the file, as they were while it ran.
    Ahead(Own),
    /// In our own memory, or there is room for them. What is behind them is on its way to where they belong.
    AtRest(Box<AtRest>, Option<BackingCopy>),
    /// In the file, as they were when it stood still.
    Copied(Own),
}

impl Begun {
    /// Copies what is copied while the guest runs. `pages` are those that it uses.
    pub(super) fn begin(memory: GuestMemory, path: &Path, order: Order, pages: &Pages, id: &SandboxId) -> Result<Self, Error> {
        let (file, way) = perform(Effect::Workdir, |_| -> Result<(File, Ahead), Error> {
            let file = Draft::make(path)?;
            let way = ahead(&memory, &file, path, order, pages).map_err(unreadable(id))?;
            Ok((file, way))
        })?;
        Ok(Self { target: Target { memory, file, order }, way })
    }

    /// Whether nothing went wrong so far: nobody need stand still for a copy that cannot be made.
    pub(super) fn check(&mut self) -> std::io::Result<()> {
        match &mut self.way {
            Ahead::Room(_, Some(backing)) => backing.check(),
            Ahead::Room(_, None) | Ahead::Copied(_) => Ok(()),
        }
    }

    /// The guest is about to come to rest: what is needed then is there.
    pub(super) fn get_ready(self) -> std::io::Result<MemoryCopy> {
        let way = match self.way {
            Ahead::Room(room, backing) => Way::AtRest(Box::new(room.finish()?), backing),
            Ahead::Copied(own) => Way::Ahead(own),
        };
        Ok(MemoryCopy { target: self.target, way })
    }
}

/// How much our own memory can hold for a moment, with as much again free for others.
fn most_at_rest() -> u64 {
    (capacity::available_memory() / 4).min(AtRest::MOST)
}

/// What need not be done while it stands still. Its own pages are left for then if they are few enough.
fn ahead(memory: &GuestMemory, file: &File, path: &Path, order: Order, pages: &Pages) -> std::io::Result<Ahead> {
    let bytes = pages.own.bytes();
    if bytes <= most_at_rest() {
        // It runs on, and comes to have more.
        let room = |bytes| bytes + bytes / 32 + GROWTH;
        let backing = match order {
            Order::Whole(fate) => Some(BackingCopy::begin(memory, file, fate, pages)?),
            Order::OwnFirst => file.set_len(memory.bytes()).map(|()| None)?,
        };
        let lane = backing.as_ref().map(|backing| backing.lane(file, path)).transpose()?.flatten();
        let beside = bytes - lane.as_ref().map_or(0, Lane::bytes);
        return Ok(Ahead::Room(AtRest::begin(room(beside), lane)?, backing));
    }
    match order {
        Order::Whole(fate) => memory.copy_backing(file, fate)?,
        Order::OwnFirst => file.set_len(memory.bytes())?,
    }
    memory.copy_own(file).map(Ahead::Copied)
}

impl MemoryCopy {
    /// Reads or copies what must be while it stands still; gives the bytes of all that it has to itself.
    pub(super) fn catch_up(&mut self) -> std::io::Result<u64> {
        let Target { memory, file, .. } = &self.target;
        let own = match &mut self.way {
            Way::AtRest(at_rest, backing) => {
                if let Some(bytes) = at_rest.read(memory, most_at_rest(), backing.as_mut())? {
                    return Ok(bytes);
                }
                // So much in so short a time: it waits for a disk after all.
                if let Some(backing) = backing.take() {
                    backing.finish(&memory.own()?, &Own::default())?;
                }
                memory.copy_own(file)?
            }
            Way::Ahead(before) => memory.copy_changed(before, file)?,
            Way::Copied(_) => memory.copy_own(file)?,
        };
        let bytes = own.bytes();
        self.way = Way::Copied(own);
        Ok(bytes)
    }

    /// Writes what was only read, when the guest goes on; or leaves it to who does the rest.
    pub(super) fn finish(self) -> std::io::Result<Left> {
        let Self { target: Target { memory, file, order }, way } = self;
        match (order, way) {
            (Order::OwnFirst, way) => Ok(Left { rest: Some(Rest { memory, file, way }), counted: None }),
            (Order::Whole(Fate::Lasting), Way::AtRest(at_rest, backing)) => {
                Ok(Left { rest: None, counted: Some(at_rest.write_lasting(&file, backing)?) })
            }
            (Order::Whole(Fate::Passing), Way::AtRest(at_rest, backing)) => {
                backing.map_or(Ok(()), |backing| backing.finish(&at_rest.own(), &Own::default()))?;
                at_rest.write(&file).map(|()| Left::default())
            }
            (Order::Whole(_), Way::Ahead(_) | Way::Copied(_)) => Ok(Left::default()),
        }
    }
}

/// What is to be copied yet: what is behind the guest's own pages, and those, where they were only read.
pub(crate) struct Rest {
    memory: GuestMemory,
    file: File,
    way: Way,
}

impl Rest {
    /// Copies it, unless it is told to give up. What was read takes no memory from when it is written.
    pub(crate) fn fill(self, whole: &Whole, id: &SandboxId) -> Result<(), Error> {
        let Self { memory, file, way } = self;
        let own = match way {
            Way::AtRest(at_rest, _) => {
                perform(Effect::Workdir, |_| at_rest.write(&file).map_err(unreadable(id)))?;
                at_rest.own()
            }
            Way::Ahead(own) | Way::Copied(own) => own,
        };
        perform(Effect::Workdir, |_| memory.copy_backing_around(&own, &file, &whole.given_up).map_err(unreadable(id)))
    }
}

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rest").field("memory", &self.memory).finish_non_exhaustive()
    }
}

pub(super) fn unreadable(id: &SandboxId) -> impl FnOnce(std::io::Error) -> Error {
    let message = format!("the memory of \"{id}\" cannot be copied");
    move |e| Error::new(io_code(&e), message).because(e)
}

/// Whether the memory is whole: one says so, and all who start a machine with it wait for that.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    told: Mutex<Option<Result<(), Never>>>,
    word: Condvar,
    given_up: AtomicBool,
}

/// Why it never will be: each who waits is told.
#[derive(Debug, Clone)]
struct Never {
    code: ErrorCode,
    message: String,
    recovery: Option<String>,
}

impl Whole {
    /// That is how it came out.
    pub(crate) fn tell(&self, outcome: Result<(), Error>) {
        let told = outcome.map_err(|e| Never { code: e.code, message: e.one_line(), recovery: e.recovery });
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
        self.word.notify_all();
    }

    /// Nobody waits for it any more.
    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// How it came out, if it does within a moment.
    pub(crate) fn wait(&self, moment: Duration) -> Option<Result<(), Error>> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (told, _) = self.word.wait_timeout_while(told, moment, |told| told.is_none()).unwrap_or_else(PoisonError::into_inner);
        told.clone().map(|told| told.map_err(|Never { code, message, recovery }| Error { recovery, ..Error::new(code, message) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_wait_for_one_word_and_each_learns_why_there_is_none() {
        let long = Duration::from_mins(1);
        let whole = Whole::default();
        std::thread::scope(|scope| {
            let waiting = [(); 3].map(|()| scope.spawn(|| whole.wait(long)));
            whole.tell(Ok(()));
            assert!(waiting.into_iter().all(|waits| matches!(waits.join().unwrap(), Some(Ok(())))));
        });
        let never = Whole::default();
        assert!(never.wait(Duration::ZERO).is_none());
        never.tell(Err(Error::new(ErrorCode::ResourceExhausted, "no room").hint("smolvm prune")));
        for _ in 0..2 {
            let why = never.wait(long).unwrap().unwrap_err();
            assert_eq!(
                (why.code, why.message.as_str(), why.recovery.as_deref()),
                (ErrorCode::ResourceExhausted, "no room", Some("smolvm prune"))
            );
        }
    }
}
