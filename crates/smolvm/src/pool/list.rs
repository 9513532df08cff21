//! `pool list`: what waits, beside what is wanted.

use std::io::Read;

use serde::Serialize;

use super::PoolWanted;
use crate::error::Error;
use crate::installation::Smolvm;

/// One kind of sandbox that waits, or shall.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolView {
    /// The image's name.
    pub image: String,
    /// How many shall wait; none of a kind that nobody asks for any more.
    pub size: usize,
    /// How many do.
    pub waiting: usize,
    /// Their names.
    pub ids: Vec<String>,
}

impl Smolvm {
    /// What the pool holds. Changes nothing.
    pub fn pools(&self, pool: &[PoolWanted]) -> Result<Vec<PoolView>, Error> {
        let mut waiting = self.waiting()?;
        let mut views = Vec::new();
        for wanted in pool {
            let key = self.pool_spec(wanted).and_then(|spec| self.pool_key(&spec))?;
            let ids = waiting.extract_if(.., |(_, kind)| *kind == key).map(|(id, _)| id.to_string()).collect();
            views.push(PoolView::of(wanted.request.image.to_string(), wanted.size.get(), ids));
        }
        let store = self.look()?;
        for (id, _) in waiting {
            let image = match store.as_ref().map(|store| store.sandbox(&id)).transpose()?.flatten() {
                Some((record, _)) => record.spec.image.to_string(),
                None => continue,
            };
            views.push(PoolView::of(image, 0, vec![id.to_string()]));
        }
        Ok(views)
    }
}

/// A complaint is a line or two.
const COMPLAINT_CAP: u64 = 4 << 10;

impl Smolvm {
    /// Why the pool was not filled the last time somebody tried in the background, if it was not.
    pub fn pool_complaint(&self) -> Option<String> {
        let mut bytes = Vec::new();
        std::fs::File::open(self.paths().pool_lock()).ok()?.take(COMPLAINT_CAP).read_to_end(&mut bytes).ok()?;
        let text = Self::harmless(&bytes);
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }
}

impl PoolView {
    fn of(image: String, size: usize, ids: Vec<String>) -> Self {
        Self { image, size, waiting: ids.len(), ids }
    }
}
