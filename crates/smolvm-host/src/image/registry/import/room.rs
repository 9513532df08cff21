//! Whether the disk still has room: asked while a layer grows, where nobody says beforehand how much comes.

use std::path::Path;

use crate::image::error::ImageError;
use crate::image::store::require_space;

pub(super) const MIB: u64 = 1 << 20;
/// What stays free for everybody else.
const SPARE_MIB: u64 = 16;

/// How far a layer may grow before it is asked again. That costs nothing beside writing as much, so it is asked often: who asks for much at
/// once is refused where little would have come.
#[derive(Debug)]
pub(super) struct Room<'a> {
    cache: &'a Path,
    asked: u64,
}

impl<'a> Room<'a> {
    /// For a layer of which nothing is written.
    pub(super) fn of(cache: &'a Path) -> Self {
        Self { cache, asked: MIB }
    }

    /// Asks, once so many bytes are written, for those that are known to come; where none are, for a little more.
    pub(super) fn ask(&mut self, written: u64, coming: u64) -> Result<(), ImageError> {
        let end = written.saturating_add(coming);
        if end <= self.asked {
            return Ok(());
        }
        let coming = coming.max(MIB);
        require_space(self.cache, coming / MIB + SPARE_MIB)?;
        self.asked = written.saturating_add(coming);
        Ok(())
    }
}
