//! The proxy between us and a registry, as the environment of every other program names it.

use smolvm_model::network::Ipv4Net;
use smolvm_model::reference::Registry;
use ureq::Proxy;

use super::error::{Cause, RegistryError};
use super::login::Secret;

/// This machine is never behind a proxy.
const OWN: [&str; 4] = ["localhost", "127.*", "::1", "[::1]"];

/// Which proxies there are. Their addresses may have passwords in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For registries with TLS: `HTTPS_PROXY`.
    pub https: Option<Secret>,
    /// For those without: `HTTP_PROXY`.
    pub http: Option<Secret>,
    /// Who is reached without one: `NO_PROXY`, commas between hosts; a host's own hosts are meant with it.
    pub none: Option<String>,
}

impl Proxies {
    /// The proxy for a registry. One that cannot be used is an error: going past it is not what was asked for.
    pub(super) fn of(&self, registry: &Registry, secure: bool) -> Result<Option<Proxy>, RegistryError> {
        let Some(address) = (if secure { &self.https } else { &self.http }) else { return Ok(None) };
        let bad = || RegistryError::Unreachable { registry: registry.clone(), cause: Cause::Proxy };
        let said = Proxy::new(address.reveal()).map_err(|_| bad())?;
        if !matches!(said.protocol(), ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https) {
            return Err(bad());
        }
        let mut proxy = Proxy::builder(said.protocol()).host(said.host()).port(said.port());
        if let Some(user) = said.username() {
            proxy = proxy.username(user);
        }
        if let Some(password) = said.password() {
            proxy = proxy.password(password);
        }
        for host in OWN {
            proxy = proxy.no_proxy(host);
        }
        for host in self.passed_over(registry) {
            proxy = proxy.no_proxy(&host);
        }
        proxy.build().map(Some).map_err(|_| bad())
    }

    /// The hosts of `NO_PROXY`, each with the hosts beneath it; a network stands for the registry, if that is an address in it.
    fn passed_over(&self, registry: &Registry) -> Vec<String> {
        let entries = self.none.iter().flat_map(|list| list.split([',', ' '])).map(str::trim).filter(|entry| !entry.is_empty());
        entries
            .flat_map(|entry| {
                if let Some(network) = network(entry) {
                    let is_in = registry.host().parse().is_ok_and(|address| network.contains(address));
                    return if is_in { vec![registry.host().to_owned()] } else { Vec::new() };
                }
                let name = entry.trim_start_matches("*.").trim_start_matches('.');
                if name == "*" { vec![name.to_owned()] } else { vec![name.to_owned(), format!(".{name}")] }
            })
            .collect()
    }
}

/// An IPv4 network as people write it: of any address that is in it.
fn network(text: &str) -> Option<Ipv4Net> {
    let (address, prefix) = text.split_once('/')?;
    Ipv4Net::around(address.parse().ok()?, prefix.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direct(none: &str, host: &str) -> bool {
        let proxies =
            Proxies { https: Some(Secret::new("http://proxy.example:3128".to_owned())), none: Some(none.to_owned()), ..Proxies::default() };
        let proxy = proxies.of(&host.parse().unwrap(), true).unwrap().unwrap();
        proxy.is_no_proxy(&format!("https://{host}/v2/").parse().unwrap())
    }

    #[test]
    fn who_is_reached_without_a_proxy() {
        for (none, host) in [
            ("near.example", "near.example:5000"),
            ("near.example", "a.near.example"),
            (".near.example", "a.near.example"),
            ("*.near.example", "a.near.example"),
            ("a.example, near.example", "near.example"),
            ("10.0.0.7", "10.0.0.7:5000"),
            ("near.example,10.0.0.0/8", "10.1.2.3:5000"),
            ("10.1.2.3/16", "10.1.0.7"),
            ("*", "docker.io"),
            ("", "localhost:5000"),
            ("", "127.0.0.1:5000"),
            ("", "[::1]:5000"),
        ] {
            assert!(direct(none, host), "{none:?} {host}");
        }
        for (none, host) in [
            ("", "docker.io"),
            ("near.example", "docker.io"),
            ("near.example", "notnear.example"),
            (",", "docker.io"),
            ("10.0.0.0/8", "11.0.0.1"),
            ("0.0.0.0/0", "docker.io"),
        ] {
            assert!(!direct(none, host), "{none:?} {host}");
        }
    }

    #[test]
    fn one_that_cannot_be_used_is_told_without_its_password() {
        for bad in ["socks5://me:hunter2@proxy.example", "ftp://me:hunter2@proxy.example", "http://"] {
            let proxies = Proxies { https: Some(Secret::new(bad.to_owned())), ..Proxies::default() };
            let error = proxies.of(&Registry::default(), true).unwrap_err();
            assert!(matches!(error, RegistryError::Unreachable { cause: Cause::Proxy, .. }), "{bad}: {error:?}");
            assert!(!format!("{proxies:?} {error:?} {error}").contains("hunter2"));
        }
        assert!(Proxies::default().of(&Registry::default(), true).unwrap().is_none());
    }
}
