//! Logins that `docker login` left: a file, or a program that the file names.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use smolvm_model::reference::{DEFAULT_REGISTRY, Registry};

/// Longest file and longest answer that are read.
const MAX_CONFIG: usize = 1 << 20;
/// What Docker calls its own registry in this file.
const DOCKER_KEY: &str = "https://index.docker.io/v1/";
/// The user name that stands for a token.
const TOKEN_USER: &str = "<token>";

/// A text that is in no message.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Of this text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// By name and password.
    Password {
        /// Name.
        user: String,
        /// Password.
        password: Secret,
    },
    /// By a token that is changed for others.
    Token(Secret),
}

/// Where the login for a registry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: one asks without.
    Nowhere,
    /// In the file.
    Here(Login),
    /// In the keeping of `docker-credential-<program>`, under this name.
    Helper {
        /// The end of the program's name.
        program: String,
        /// What it is asked for.
        server: String,
    },
}

/// Why a login cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The file is none.
    #[error("the file with logins is no JSON that `docker login` writes")]
    File,
    /// An entry is none.
    #[error("the login for {registry} cannot be read")]
    Entry {
        /// For which registry.
        registry: Registry,
    },
    /// The name of a program is none.
    #[error("{program:?} is no name of a credential helper")]
    Program {
        /// What stands there.
        program: String,
    },
    /// The program does not answer as it should.
    #[error("the credential helper {program} gives no login")]
    Answer {
        /// Which.
        program: String,
    },
}

/// Docker's file, as far as logins go.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct DockerConfig {
    auths: BTreeMap<String, Entry>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl fmt::Debug for DockerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerConfig").field("registries", &self.auths.keys()).finish_non_exhaustive()
    }
}

impl DockerConfig {
    /// Reads the file.
    pub fn read(bytes: &[u8]) -> Result<Self, LoginError> {
        if bytes.len() > MAX_CONFIG {
            return Err(LoginError::File);
        }
        // What the parser says may quote what it read.
        serde_json::from_slice(bytes).map_err(|_| LoginError::File)
    }

    /// Where the login for a registry is: a helper of its own, then the helper of all, then the file.
    pub fn login(&self, registry: &Registry) -> Result<Source, LoginError> {
        let server = if registry.as_str() == DEFAULT_REGISTRY { DOCKER_KEY } else { registry.as_str() };
        if let Some(program) =
            self.cred_helpers.get(server).or_else(|| self.cred_helpers.get(registry.as_str())).or(self.creds_store.as_ref())
        {
            let good =
                !program.is_empty() && program.len() <= 64 && program.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            if !good {
                return Err(LoginError::Program { program: program.chars().take(64).collect() });
            }
            return Ok(Source::Helper { program: program.clone(), server: server.to_owned() });
        }
        let named = |key: &str| {
            let host = key.trim_start_matches("https://").trim_start_matches("http://");
            key == server || host.split('/').next().is_some_and(|host| host.eq_ignore_ascii_case(registry.as_str()))
        };
        let Some((_, entry)) = self.auths.iter().find(|(key, _)| named(key)) else { return Ok(Source::Nowhere) };
        let bad = || LoginError::Entry { registry: registry.clone() };
        if let Some(token) = entry.identitytoken.as_ref().filter(|token| !token.is_empty()) {
            return Ok(Source::Here(Login::Token(Secret::new(token.clone()))));
        }
        if let Some(auth) = entry.auth.as_ref().filter(|auth| !auth.is_empty()) {
            let text = STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(bad)?;
            let (user, password) = text.split_once(':').ok_or_else(bad)?;
            let password = password.trim_end_matches('\0').to_owned();
            return Ok(Source::Here(Login::Password { user: user.to_owned(), password: Secret::new(password) }));
        }
        match (&entry.username, &entry.password) {
            (Some(user), Some(password)) => {
                Ok(Source::Here(Login::Password { user: user.clone(), password: Secret::new(password.clone()) }))
            }
            _ => Ok(Source::Nowhere),
        }
    }
}

/// What a credential helper printed; nothing, where it says that it has nothing.
pub fn helper_answer(program: &str, succeeded: bool, output: &[u8]) -> Result<Option<Login>, LoginError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let bad = || LoginError::Answer { program: program.to_owned() };
    if !succeeded {
        // Docker's helpers say so on their standard output.
        let says_none = String::from_utf8_lossy(output).contains("credentials not found");
        return if says_none { Ok(None) } else { Err(bad()) };
    }
    let Answer { username, secret } = serde_json::from_slice(output).map_err(|_| bad())?;
    let secret = Secret::new(secret);
    Ok(Some(if username == TOKEN_USER { Login::Token(secret) } else { Login::Password { user: username, password: secret } }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(config: &str, registry: &str) -> Result<Source, LoginError> {
        DockerConfig::read(config.as_bytes()).unwrap().login(&registry.parse().unwrap())
    }

    fn password(user: &str, password: &str) -> Source {
        Source::Here(Login::Password { user: user.to_owned(), password: Secret::new(password.to_owned()) })
    }

    #[test]
    fn logins_are_found_as_docker_finds_them() {
        let auth = STANDARD.encode("me:se:cret");
        let file = format!(
            r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{auth}"}},"http://localhost:5000/v2/":{{"auth":"{auth}"}},"t.io":{{"identitytoken":"t"}}}}}}"#
        );
        assert_eq!(find(&file, "docker.io").unwrap(), password("me", "se:cret"));
        assert_eq!(find(&file, "localhost:5000").unwrap(), password("me", "se:cret"));
        assert_eq!(find(&file, "t.io").unwrap(), Source::Here(Login::Token(Secret::new("t".to_owned()))));
        assert_eq!(find(&file, "other.io").unwrap(), Source::Nowhere);
        assert_eq!(find("{}", "docker.io").unwrap(), Source::Nowhere);
        let helpers = r#"{"credsStore":"store","credHelpers":{"a.io":"own"},"auths":{"a.io":{}}}"#;
        assert_eq!(find(helpers, "a.io").unwrap(), Source::Helper { program: "own".to_owned(), server: "a.io".to_owned() });
        assert_eq!(find(helpers, "docker.io").unwrap(), Source::Helper { program: "store".to_owned(), server: DOCKER_KEY.to_owned() });
        assert!(find(r#"{"credsStore":"../../bin/sh"}"#, "a.io").is_err());
    }

    #[test]
    fn no_message_has_a_secret() {
        for bad in [r#"{"auths":{"a.io":{"auth":"hunter2-not-base64!"}}}"#, r#"{"auths":{"a.io":{"auth":"aHVudGVyMg=="}}}"#] {
            let error = find(bad, "a.io").unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
        assert!(!format!("{:?}", DockerConfig::read(br#"{"auths":"hunter2"}"#)).contains("hunter2"));
        assert!(!format!("{:?}", password("me", "hunter2")).contains("hunter2"));
    }

    #[test]
    fn helpers_answer() {
        assert!(matches!(
            helper_answer("x", true, br#"{"ServerURL":"s","Username":"u","Secret":"p"}"#).unwrap(),
            Some(Login::Password { .. })
        ));
        assert!(matches!(helper_answer("x", true, br#"{"Username":"<token>","Secret":"p"}"#).unwrap(), Some(Login::Token(_))));
        assert_eq!(helper_answer("x", false, b"credentials not found in native keychain\n").unwrap(), None);
        assert!(helper_answer("x", false, b"").is_err() && helper_answer("x", true, b"x").is_err());
    }
}
