//! Why something could not be pulled.

use std::io;
use std::path::PathBuf;

use smolvm_model::reference::Registry;

use crate::Digest;

/// Why a request had no answer.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// No address for the host.
    #[error("its name has no address")]
    NoHost,
    /// The connection could not be made, or broke.
    #[error(transparent)]
    Connection(io::Error),
    /// Nothing came in time.
    #[error("it did not answer in time")]
    Timeout,
    /// It could not prove who it is.
    #[error("no secure connection: {0}")]
    Tls(rustls::Error),
    /// It does not speak HTTP as one should.
    #[error("its answer is no valid HTTP")]
    Protocol,
    /// It sends from one place to the next.
    #[error("it redirects in circles, or to a place without HTTPS")]
    Redirect,
    /// The proxy is no proxy.
    #[error("the proxy that is configured does not work")]
    Proxy,
}

impl Cause {
    /// Whether it shows an authority's own certificate as its own, which proves nothing about a registry.
    pub fn is_authority_itself(&self) -> bool {
        let Self::Tls(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))) = self else { return false };
        // The crate that finds it is not one that is named here.
        format!("{other:?}").contains("CaUsedAsEndEntity")
    }
}

/// What went wrong with a registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It cannot be reached, after several tries.
    #[error("the registry {registry} cannot be reached")]
    Unreachable {
        /// Which.
        registry: Registry,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// There is nothing of that name, or it is hidden from strangers.
    #[error("{registry} has no {name}")]
    NotFound {
        /// Which.
        registry: Registry,
        /// What was asked for.
        name: String,
    },
    /// It wants to know who asks, or does not let them.
    #[error("{registry} does not give {name} to {}", if *known { "this login" } else { "somebody without a login" })]
    Denied {
        /// Which.
        registry: Registry,
        /// What was asked for.
        name: String,
        /// Whether there was a login for it.
        known: bool,
    },
    /// Too many requests, also after waiting.
    #[error("{registry} takes no more requests for now")]
    TooManyRequests {
        /// Which.
        registry: Registry,
    },
    /// Another status.
    #[error("{registry} answers with status {status}")]
    Status {
        /// Which.
        registry: Registry,
        /// The status.
        status: u16,
    },
    /// It asks for a kind of login that is unknown, or sends to a place without HTTPS for it.
    #[error("{registry} asks for a login in a way that is not supported")]
    Challenge {
        /// Which.
        registry: Registry,
    },
    /// A manifest longer than any.
    #[error("{registry} sends a manifest of more than {limit} bytes")]
    TooLong {
        /// Which.
        registry: Registry,
        /// The limit.
        limit: u64,
    },
    /// What came is not what was asked for.
    #[error("{registry} sent {actual} for {expected}")]
    Digest {
        /// Which.
        registry: Registry,
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// A blob of another length than its manifest says.
    #[error("{registry} sent {actual} bytes for {digest}, which has {expected}")]
    Length {
        /// Which.
        registry: Registry,
        /// The blob.
        digest: Digest,
        /// As its manifest says.
        expected: u64,
        /// What came, or more.
        actual: u64,
    },
    /// There are no certificates to know registries by.
    #[error("there are no certificates in {}", path.display())]
    NoCertificates {
        /// Where they should be.
        path: PathBuf,
        /// Why they cannot be read.
        #[source]
        source: io::Error,
    },
    /// A blob cannot be written.
    #[error("what {registry} sends cannot be written")]
    Write {
        /// Which.
        registry: Registry,
        /// Why.
        #[source]
        source: io::Error,
    },
}
