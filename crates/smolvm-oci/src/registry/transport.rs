//! Requests with their waiting and trying again; what a failure is, said without an address.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::Response;
use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::{Agent, Body, Proxy};

use super::error::{Cause, RegistryError};

/// Tries of one request, and of one blob without any progress.
pub(super) const TRIES: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Longest wait, also if a registry asks for more.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
const CONNECT: Duration = Duration::from_secs(15);
/// Nothing at all for so long is a connection that is lost.
const SILENCE: Duration = Duration::from_secs(30);

/// Of this machine: no TLS, no proxy.
pub(super) fn plain() -> Agent {
    common().proxy(None).https_only(false).build().new_agent()
}

/// Of the network: TLS with the host's certificates, and the proxy of the environment.
pub(super) fn secure(certificates: &Path) -> Result<Agent, RegistryError> {
    let unreadable = |source| RegistryError::NoCertificates { path: certificates.to_owned(), source };
    let text = std::fs::read(certificates).map_err(unreadable)?;
    let roots: Vec<_> = parse_pem(&text)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if roots.is_empty() {
        return Err(unreadable(io::ErrorKind::InvalidData.into()));
    }
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .root_certs(RootCerts::from(roots))
        .build();
    Ok(common().proxy(Proxy::try_from_env()).https_only(true).tls_config(tls).build().new_agent())
}

fn common() -> ureq::config::ConfigBuilder<ureq::typestate::AgentScope> {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(5)
        .user_agent(concat!("smolvm/", env!("CARGO_PKG_VERSION")))
        .accept_encoding("identity")
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE))
}

/// An answer, or why there is none.
pub(super) type Answer = Result<Response<Body>, Cause>;

/// Asks until there is an answer that stays: connections that fail, 429 and the server's own failures are tried again.
pub(super) fn again(mut ask: impl FnMut() -> Answer) -> Answer {
    let mut tries = 0;
    loop {
        let answer = ask();
        tries += 1;
        let wait = match &answer {
            Ok(response) if is_passing(response.status().as_u16()) => asked_wait(response).unwrap_or_else(|| backoff(tries)),
            Err(Cause::Connection(_) | Cause::Timeout | Cause::NoHost) => backoff(tries),
            Ok(_) | Err(Cause::Tls(_) | Cause::Protocol | Cause::Redirect | Cause::Proxy) => return answer,
        };
        if tries >= TRIES || refused(&answer) {
            return answer;
        }
        std::thread::sleep(wait);
    }
}

/// How long to wait before the next try.
pub(super) fn backoff(tries: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << tries.min(6)).min(LONGEST_WAIT)
}

fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// Nobody listens there: that does not change in seconds.
fn refused(answer: &Answer) -> bool {
    matches!(answer, Err(Cause::Connection(e)) if e.kind() == io::ErrorKind::ConnectionRefused)
}

fn asked_wait(response: &Response<Body>) -> Option<Duration> {
    let seconds = response.headers().get("retry-after")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

/// The reason without the address: one that a registry made up is a credential.
pub(super) fn cause(error: ureq::Error) -> Cause {
    match error {
        ureq::Error::Io(e) => Cause::Connection(e),
        ureq::Error::HostNotFound => Cause::NoHost,
        ureq::Error::Timeout(_) => Cause::Timeout,
        ureq::Error::Rustls(e) => Cause::Tls(e),
        ureq::Error::ConnectionFailed => Cause::Connection(io::ErrorKind::ConnectionRefused.into()),
        ureq::Error::RedirectFailed | ureq::Error::TooManyRedirects | ureq::Error::RequireHttpsOnly(_) => Cause::Redirect,
        ureq::Error::InvalidProxyUrl | ureq::Error::ConnectProxyFailed(_) => Cause::Proxy,
        _ => Cause::Protocol,
    }
}
