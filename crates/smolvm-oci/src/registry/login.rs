//! Logins that `podman login` and `docker login` left: a file, or a program that the file names.
//!
//! Both write the same JSON. Podman's keys may name a repository, or what several have in common (`quay.io/team`): the longest that fits
//! counts. Docker's may be addresses, of which the host counts.

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

/// A program that keeps logins, `docker-credential-<program>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Helper {
    /// The end of its name.
    pub program: String,
    /// What it is asked for.
    pub server: String,
    /// What it keeps.
    pub of: Keeps,
}

/// Whose logins a helper keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// Those of a registry that the file names: `credHelpers`.
    One,
    /// Those of every registry: `credsStore`.
    All,
}

/// Why a login cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The file is none.
    #[error("it is no JSON that `podman login` or `docker login` writes")]
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

/// A file of logins, as far as they go.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct LoginFile {
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

impl fmt::Debug for LoginFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginFile").field("registries", &self.auths.keys()).finish_non_exhaustive()
    }
}

impl LoginFile {
    /// Reads the file.
    pub fn read(bytes: &[u8]) -> Result<Self, LoginError> {
        if bytes.len() > MAX_CONFIG {
            return Err(LoginError::File);
        }
        // What the parser says may quote what it read.
        serde_json::from_slice(bytes).map_err(|_| LoginError::File)
    }

    /// The helper that keeps the login for a registry, which is asked before the file. An empty name is none.
    pub fn helper(&self, registry: &Registry) -> Result<Option<Helper>, LoginError> {
        let one = self.cred_helpers.iter().find(|(key, _)| Place::of(key).fits(registry, "").is_some());
        let server = if registry.as_str() == DEFAULT_REGISTRY { DOCKER_KEY } else { registry.as_str() };
        let (program, server, of) = match (one, &self.creds_store) {
            (Some((key, program)), _) => (program, key.as_str(), Keeps::One),
            (None, Some(program)) => (program, server, Keeps::All),
            (None, None) => return Ok(None),
        };
        if program.is_empty() {
            return Ok(None);
        }
        if program.len() > 64 || !program.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err(LoginError::Program { program: program.chars().take(64).collect() });
        }
        Ok(Some(Helper { program: program.clone(), server: server.to_owned(), of }))
    }

    /// The login for a repository that stands in the file.
    pub fn login(&self, registry: &Registry, repository: &str) -> Result<Option<Login>, LoginError> {
        let told = self.auths.iter().filter(|(_, entry)| entry.says_something());
        let fitting = told.filter_map(|(key, entry)| Some((Place::of(key).fits(registry, repository)?, entry)));
        // Of several that say the same the first counts.
        let best = fitting.fold(None, |best: Option<(usize, &Entry)>, next| match best {
            Some(best) if best.0 >= next.0 => Some(best),
            Some(_) | None => Some(next),
        });
        best.map(|(_, entry)| entry.login(registry)).transpose()
    }
}

/// What a key of the file stands for.
struct Place<'a> {
    host: String,
    path: &'a str,
}

impl<'a> Place<'a> {
    fn of(key: &'a str) -> Self {
        let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
        let (host, path) = bare.unwrap_or(key).split_once('/').unwrap_or((bare.unwrap_or(key), ""));
        let path = path.trim_end_matches('/');
        // An address is a host's; so is one that lost its beginning.
        let path = if bare.is_some() || matches!(path, "v1" | "v2") { "" } else { path };
        let host = host.to_ascii_lowercase();
        let host = if matches!(host.as_str(), "index.docker.io" | "registry-1.docker.io") { DEFAULT_REGISTRY.to_owned() } else { host };
        Self { host, path }
    }

    /// How much of a repository's name it has, if it stands for it.
    fn fits(&self, registry: &Registry, repository: &str) -> Option<usize> {
        let beneath = match repository.strip_prefix(self.path) {
            Some(rest) => self.path.is_empty() || rest.is_empty() || rest.starts_with('/'),
            None => false,
        };
        (self.host == registry.as_str() && beneath).then_some(self.path.len())
    }
}

impl Entry {
    fn says_something(&self) -> bool {
        let has = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        has(&self.auth) || has(&self.identitytoken) || (has(&self.username) && has(&self.password))
    }

    fn login(&self, registry: &Registry) -> Result<Login, LoginError> {
        let bad = || LoginError::Entry { registry: registry.clone() };
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.is_empty()) {
            return Ok(Login::Token(Secret::new(token.clone())));
        }
        if let Some(auth) = self.auth.as_ref().filter(|auth| !auth.is_empty()) {
            let text = STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(bad)?;
            let (user, password) = text.split_once(':').ok_or_else(bad)?;
            let password = password.trim_end_matches('\0').to_owned();
            return Ok(Login::Password { user: user.to_owned(), password: Secret::new(password) });
        }
        let (user, password) = self.username.clone().zip(self.password.clone()).ok_or_else(bad)?;
        Ok(Login::Password { user, password: Secret::new(password) })
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

    fn find(config: &str, registry: &str) -> Result<Option<Login>, LoginError> {
        find_in(config, registry, "a/b")
    }

    fn find_in(config: &str, registry: &str, repository: &str) -> Result<Option<Login>, LoginError> {
        LoginFile::read(config.as_bytes()).unwrap().login(&registry.parse().unwrap(), repository)
    }

    fn keeper(config: &str, registry: &str) -> Result<Option<Helper>, LoginError> {
        LoginFile::read(config.as_bytes()).unwrap().helper(&registry.parse().unwrap())
    }

    fn password(user: &str, password: &str) -> Login {
        Login::Password { user: user.to_owned(), password: Secret::new(password.to_owned()) }
    }

    #[test]
    fn logins_are_found_as_docker_finds_them() {
        let auth = STANDARD.encode("me:se:cret");
        let file = format!(
            r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{auth}"}},"http://localhost:5000/v2/":{{"auth":"{auth}"}},"t.io":{{"identitytoken":"t"}}}}}}"#
        );
        assert_eq!(find(&file, "docker.io").unwrap(), Some(password("me", "se:cret")));
        assert_eq!(find(&file, "localhost:5000").unwrap(), Some(password("me", "se:cret")));
        assert_eq!(find(&file, "t.io").unwrap(), Some(Login::Token(Secret::new("t".to_owned()))));
        assert_eq!(find(&file, "other.io").unwrap(), None);
        assert_eq!(find("{}", "docker.io").unwrap(), None);
        let helpers = r#"{"credsStore":"store","credHelpers":{"a.io":"own"},"auths":{"a.io":{}}}"#;
        let helper = |program: &str, server: &str, of| Some(Helper { program: program.to_owned(), server: server.to_owned(), of });
        assert_eq!(keeper(helpers, "a.io").unwrap(), helper("own", "a.io", Keeps::One));
        assert_eq!(keeper(helpers, "docker.io").unwrap(), helper("store", DOCKER_KEY, Keeps::All));
        let podmans = r#"{"credHelpers":{"docker.io":"own"}}"#;
        assert_eq!(keeper(podmans, "docker.io").unwrap(), helper("own", "docker.io", Keeps::One));
        assert!(keeper(r#"{"credsStore":"../../bin/sh"}"#, "a.io").is_err());
        // An empty name is how people take one away.
        assert_eq!(keeper(r#"{"credsStore":"","credHelpers":{"a.io":""}}"#, "a.io").unwrap(), None);
        assert_eq!(keeper(r#"{"credsStore":"store","credHelpers":{"a.io":""}}"#, "a.io").unwrap(), None);
    }

    #[test]
    fn the_longest_key_that_fits_counts() {
        let entry = |key: &str, user: &str| format!(r#""{key}":{{"auth":"{}"}}"#, STANDARD.encode(format!("{user}:x")));
        let keys = [("q.io", "all"), ("q.io/team", "team"), ("q.io/team/app", "app"), ("docker.io/team", "hub"), ("l.io:5000/v2/", "old")];
        let entries: Vec<String> = keys.iter().map(|(key, user)| entry(key, user)).collect();
        // One that says nothing does not stand before one that does.
        let file = format!(r#"{{"auths":{{"q.io/team/empty":{{}},{}}}}}"#, entries.join(","));
        for (registry, repository, user) in [
            ("q.io", "team/app", Some("app")),
            ("q.io", "team/app/deep", Some("app")),
            ("q.io", "team/apple", Some("team")),
            ("q.io", "team/empty", Some("team")),
            ("q.io", "teams/app", Some("all")),
            ("q.io", "app", Some("all")),
            ("docker.io", "team/app", Some("hub")),
            ("docker.io", "library/app", None),
            ("l.io:5000", "a", Some("old")),
            ("l.io", "a", None),
            ("q.io:5000", "team/app", None),
        ] {
            let wanted = user.map(|user| password(user, "x"));
            assert_eq!(find_in(&file, registry, repository).unwrap(), wanted, "{registry}/{repository}");
        }
    }

    #[test]
    fn no_message_has_a_secret() {
        for bad in [r#"{"auths":{"a.io":{"auth":"hunter2-not-base64!"}}}"#, r#"{"auths":{"a.io":{"auth":"aHVudGVyMg=="}}}"#] {
            let error = find(bad, "a.io").unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
        assert!(!format!("{:?}", LoginFile::read(br#"{"auths":"hunter2"}"#)).contains("hunter2"));
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
