//! A registry, as far as pulling needs it: names to manifests, digests to blobs.
//!
//! ```text
//!   GET /v2/<name>/manifests/<tag or digest> ──► 401 + where to ask ──► token ──► again
//!   GET /v2/<name>/blobs/<digest> ──► here or elsewhere ──► hashed while it is written
//!        └── broken? from where it broke ── 429, 5xx? later
//! ```
//!
//! Invariants: HTTPS, unless the registry can only be this machine; what leads elsewhere takes no credential along, and whoever is met there
//! is told none; no credential is in an
//! error, and no address that a registry made up, for such addresses are credentials; nothing counts before its digest was compared.
//! Blocking: parallel pulls are a thread each, and ours is a client that does one thing at a time.

mod auth;
mod blob;
mod client;
mod error;
mod login;
mod proxy;
mod transport;
mod trust;

pub use client::{Access, At, Client};
pub use error::{Cause, RegistryError};
pub use login::{Helper, Keeps, Login, LoginError, LoginFile, Secret, helper_answer};
pub use proxy::Proxies;
pub use trust::Trust;
