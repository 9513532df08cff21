//! Who may have an image: a mirror, and the registry itself.
//!
//! ```text
//!   manifest, blob 0, blob 1, …  ──► mirror ──(lacks it, is silent, sends something else)──► registry
//! ```
//! Invariants: what a mirror does not give is asked of the registry, for the manifest and for each blob; what comes is held to its digest,
//! whoever gave it; who failed once is not asked again in this pull, as its tries may have taken a minute.

use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use smolvm_model::reference::{Reference, Registry};
use smolvm_model::registries::Registries;
use smolvm_oci::document::Descriptor;
use smolvm_oci::registry::{Access, At, Client, RegistryError};

use super::logins::{Found, Logins, login};
use crate::image::error::ImageError;

/// How to pull.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// Where logins are.
    pub logins: Logins,
    /// Where registries are.
    pub registries: Registries,
    /// How they are reached.
    pub access: Access,
}

/// Those who are asked, one after the other; threads may share it.
pub(super) struct Holders<'a> {
    reference: &'a Reference,
    options: &'a PullOptions,
    all: Vec<Holder>,
    /// The first that is still asked.
    first: AtomicUsize,
}

struct Holder {
    registry: Registry,
    /// There is none until it is asked.
    line: Mutex<Option<Arc<Line>>>,
}

/// How one of them is spoken to.
struct Line {
    client: Client,
    /// Why somebody who may know a login could not be asked; told once.
    unasked: Mutex<Option<ImageError>>,
}

impl<'a> Holders<'a> {
    pub(super) fn of(reference: &'a Reference, options: &'a PullOptions) -> Self {
        let places = options.registries.places(reference.registry()).into_iter();
        let all = places.map(|registry| Holder { registry, line: Mutex::new(None) }).collect();
        Self { reference, options, all, first: AtomicUsize::new(0) }
    }

    /// What the first of them gives that has it. When nobody does, the last one's word counts: that is the registry's own.
    pub(super) fn ask<T>(&self, mut ask: impl FnMut(&Registry, &Client) -> Result<T, ImageError>) -> Result<T, ImageError> {
        let from = self.first.load(Ordering::Relaxed);
        let mut last = ImageError::NotFound { name: self.reference.to_string(), available: Vec::new() };
        for (at, holder) in self.all.iter().enumerate().skip(from) {
            match self.line(holder).and_then(|line| ask(&holder.registry, &line.client).map_err(|e| line.explained(e))) {
                Err(e) if is_theirs(&e) => last = e,
                answer => return answer,
            }
            if at + 1 < self.all.len() {
                self.first.fetch_max(at + 1, Ordering::Relaxed);
            }
        }
        Err(last)
    }

    /// A blob into a file that may have its beginning already, whoever gave that.
    pub(super) fn blob(&self, blob: &Descriptor, file: &mut File, watch: &mut dyn FnMut(u64)) -> Result<(), ImageError> {
        self.ask(|_, client| Ok(client.blob(&blob.digest, blob.size, file, watch)?))
    }

    fn line(&self, holder: &Holder) -> Result<Arc<Line>, ImageError> {
        // One thread asks for the login, which may be a program's, and the others wait for it.
        let mut line = holder.line.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = &*line {
            return Ok(Arc::clone(line));
        }
        let PullOptions { logins, registries, access } = self.options;
        let registry = &holder.registry;
        // Who named an authority for a registry of this machine wants it to prove who it is.
        let plain_http = registries.is_plain(registry) && (registries.plain_http.contains(registry) || !access.trust.names(registry));
        let Found { login, unasked } = login(logins, registry, self.reference.repository())?;
        let client = Client::new(self.reference, At { registry: registry.clone(), plain_http }, access, login)?;
        let made = Arc::new(Line { client, unasked: Mutex::new(unasked) });
        *line = Some(Arc::clone(&made));
        Ok(made)
    }
}

impl Line {
    /// Who is turned away without a login is told why nobody could be asked for one.
    fn explained(&self, error: ImageError) -> ImageError {
        match error {
            ImageError::Registry(RegistryError::Denied { known: false, .. }) => {
                self.unasked.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or(error)
            }
            error => error,
        }
    }
}

/// Whether another one may do better: our own disk is the same for all of them.
fn is_theirs(error: &ImageError) -> bool {
    !matches!(error, ImageError::Fs(_) | ImageError::Registry(RegistryError::Write { .. }))
}
