//! Requests with their waiting and trying again; what a failure is, said without an address.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use smolvm_model::reference::Registry;
use ureq::http::Response;
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body};

use super::client::Access;
use super::error::{Cause, RegistryError};

/// Tries of one request, and of one blob without any progress.
pub(super) const TRIES: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Longest wait, also if a registry asks for more.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
const CONNECT: Duration = Duration::from_secs(15);
/// Nothing at all for so long is a connection that is lost.
const SILENCE: Duration = Duration::from_secs(30);

/// Speaks to one registry, and to where that leads: TLS with the authorities that are trusted, and the proxy of the environment.
pub(super) fn agent(registry: &Registry, access: &Access, plain_http: bool) -> Result<Agent, RegistryError> {
    let roots = match access.trust.roots(registry) {
        Ok(roots) => roots,
        // Only what it leads to could need them, and that fails then.
        Err(_) if plain_http => Vec::new(),
        Err(e) => return Err(e),
    };
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .root_certs(RootCerts::from(roots))
        .build();
    let proxy = access.proxies.of(registry, !plain_http)?;
    Ok(common().proxy(proxy).https_only(!plain_http).tls_config(tls).build().new_agent())
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
        // What goes wrong with certificates comes as a connection's error, and does not pass by itself.
        ureq::Error::Io(e) => match e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => Cause::Tls(tls.clone()),
            None => Cause::Connection(e),
        },
        ureq::Error::HostNotFound => Cause::NoHost,
        ureq::Error::Timeout(_) => Cause::Timeout,
        ureq::Error::Rustls(e) => Cause::Tls(e),
        ureq::Error::ConnectionFailed => Cause::Connection(io::ErrorKind::ConnectionRefused.into()),
        ureq::Error::RedirectFailed | ureq::Error::TooManyRedirects | ureq::Error::RequireHttpsOnly(_) => Cause::Redirect,
        ureq::Error::InvalidProxyUrl | ureq::Error::ConnectProxyFailed(_) => Cause::Proxy,
        _ => Cause::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, later: Option<&str>) -> Response<Body> {
        let response = Response::builder().status(status);
        let response = later.into_iter().fold(response, |response, value| response.header("retry-after", value));
        response.body(Body::builder().data("")).unwrap()
    }

    #[test]
    fn a_registry_says_when_and_not_for_how_long() {
        assert_eq!(asked_wait(&answer(429, Some("3"))), Some(Duration::from_secs(3)));
        assert_eq!(asked_wait(&answer(429, Some("86400"))), Some(LONGEST_WAIT));
        for none in [None, Some("soon"), Some("-1"), Some("Wed, 21 Oct 2026 07:28:00 GMT")] {
            assert_eq!(asked_wait(&answer(429, none)), None, "{none:?}");
        }
        assert!((1..TRIES).all(|tries| backoff(tries) < backoff(tries + 1) && backoff(tries) <= LONGEST_WAIT));
    }

    #[test]
    fn what_does_not_pass_is_asked_once() {
        for (status, asked) in [(200, 1), (401, 1), (404, 1), (501, 1)] {
            let mut count = 0;
            let last = again(|| {
                count += 1;
                Ok(answer(status, None))
            });
            assert_eq!((last.unwrap().status().as_u16(), count), (status, asked));
        }
        let mut count = 0;
        let last = again(|| {
            count += 1;
            Ok(answer(503, Some("0")))
        });
        assert_eq!((last.unwrap().status().as_u16(), count), (503, TRIES));
        // A certificate comes as an error of the connection, and is none.
        let tls = || io::Error::new(io::ErrorKind::InvalidData, rustls::Error::HandshakeNotComplete);
        assert!(matches!(cause(ureq::Error::Io(tls())), Cause::Tls(_)));
        assert!(matches!(cause(ureq::Error::Io(io::ErrorKind::InvalidData.into())), Cause::Connection(_)));
    }
}
