//! What a registry asks of strangers: a name and a password, or a token from somewhere else.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::Agent;

use super::error::{Cause, RegistryError};
use super::login::{Login, Secret};
use super::transport::{again, cause};
use smolvm_model::reference::Registry;

const MAX_TOKEN: u64 = 1 << 20;
const CLIENT: &str = "smolvm";

/// What an answer with status 401 asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// Reads the header.
    pub(super) fn read(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        for (key, value) in parameters(rest)? {
            match key.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                "scope" => scope = Some(value),
                _ => {}
            }
        }
        Some(Self::Bearer { realm: realm?, service, scope })
    }
}

/// `key="value", key="value"`: a comma within quotes is part of the value.
fn parameters(mut text: &str) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    loop {
        text = text.trim_start_matches([' ', ',', '\t']);
        if text.is_empty() {
            return Some(found);
        }
        let (key, rest) = text.split_once('=')?;
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => rest.split_at(rest.find(',').unwrap_or(rest.len())),
        };
        found.push((key.trim().to_owned(), value.trim().to_owned()));
        text = rest;
    }
}

/// `Authorization` for a name and a password.
pub(super) fn basic(user: &str, password: &Secret) -> Secret {
    Secret::new(format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.reveal()))))
}

/// Gets a token for one repository from where the registry said.
pub(super) fn token(
    agent: &Agent,
    registry: &Registry,
    repository: &str,
    challenge: (&str, Option<&str>, Option<&str>),
    login: Option<&Login>,
) -> Result<Secret, RegistryError> {
    #[derive(Deserialize)]
    struct Token {
        token: Option<String>,
        access_token: Option<String>,
    }
    let (realm, service, scope) = challenge;
    let bad = || RegistryError::Challenge { registry: registry.clone() };
    if !may_be_asked(realm) {
        return Err(bad());
    }
    let scope = scope.map_or_else(|| format!("repository:{repository}:pull"), str::to_owned);
    let service = service.unwrap_or_default();
    let answer = again(|| {
        if let Some(Login::Token(refresh)) = login {
            let (grant, refresh) = ("refresh_token", refresh.reveal());
            let form = [("grant_type", grant), ("service", service), ("client_id", CLIENT), ("scope", &scope), ("refresh_token", refresh)];
            return agent.post(realm).send_form(form).map_err(cause);
        }
        let mut request = agent.get(realm).query("service", service).query("scope", &scope);
        if let Some(Login::Password { user, password }) = login {
            request = request.header("authorization", basic(user, password).reveal());
        }
        request.call().map_err(cause)
    });
    let mut response = answer.map_err(|cause| RegistryError::Unreachable { registry: registry.clone(), cause })?;
    match response.status().as_u16() {
        200 => {}
        401 | 403 => return Err(RegistryError::Denied { registry: registry.clone(), name: repository.to_owned(), known: login.is_some() }),
        status => return Err(RegistryError::Status { registry: registry.clone(), status }),
    }
    let protocol = |_| RegistryError::Unreachable { registry: registry.clone(), cause: Cause::Protocol };
    let bytes = response.body_mut().with_config().limit(MAX_TOKEN).read_to_vec().map_err(protocol)?;
    let Token { token, access_token } = serde_json::from_slice(&bytes).map_err(|_| bad())?;
    let token = token.or(access_token).filter(|token| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic())).ok_or_else(bad)?;
    Ok(Secret::new(format!("Bearer {token}")))
}

/// A login must not go where everybody can read it: whatever the registry is, the place that gives tokens has TLS or is this host.
fn may_be_asked(realm: &str) -> bool {
    let plain = || realm.strip_prefix("http://").map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    realm.starts_with("https://") || plain().is_some_and(|host| host.parse::<Registry>().is_ok_and(|host| host.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_goes_nowhere_in_plain_text_but_to_this_host() {
        for realm in ["https://auth.docker.io/token", "http://127.0.0.1:5001/token", "http://localhost:5001?x", "http://localhost/"] {
            assert!(may_be_asked(realm), "{realm}");
        }
        for realm in
            ["http://192.0.2.2:5798/token", "http://127.0.0.1@192.0.2.2/", "http://localhost.evil/t", "http:///t", "ftp://localhost/", "t"]
        {
            assert!(!may_be_asked(realm), "{realm}");
        }
    }

    #[test]
    fn challenges_are_read() {
        let read =
            Challenge::read(r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#);
        let (realm, service, scope) =
            ("https://auth.docker.io/token".to_owned(), Some("registry.docker.io".to_owned()), Some("repository:a/b:pull,push".to_owned()));
        assert_eq!(read, Some(Challenge::Bearer { realm, service, scope }));
        assert_eq!(Challenge::read(r#"basic realm="x""#), Some(Challenge::Basic));
        assert_eq!(Challenge::read("Bearer realm=r"), Some(Challenge::Bearer { realm: "r".to_owned(), service: None, scope: None }));
        for bad in ["", "Negotiate", "Bearer", "Bearer realm", r#"Bearer realm="x"#, "Bearer service=s"] {
            assert_eq!(Challenge::read(bad), None, "{bad}");
        }
    }
}
