//! A registry, as far as pulling needs it: names to manifests, digests to blobs.
//!
//! ```text
//!   GET /v2/<name>/manifests/<tag or digest> ──► 401 + where to ask ──► token ──► again
//!   GET /v2/<name>/blobs/<digest> ──► here or elsewhere ──► hashed while it is written
//!        └── broken? from where it broke ── 429, 5xx? later
//! ```
//!
//! Invariants: HTTPS, unless the registry can only be this machine; what leads elsewhere takes no credential along; no credential is in an
//! error, and no address that a registry made up, for such addresses are credentials; nothing counts before its digest was compared.
//! Blocking: parallel pulls are a thread each, and ours is a client that does one thing at a time.

mod auth;
mod blob;
mod client;
mod error;
mod login;
mod transport;

pub use client::{At, Client, Options};
pub use error::{Cause, RegistryError};
pub use login::{DockerConfig, Login, LoginError, Secret, Source, helper_answer};
