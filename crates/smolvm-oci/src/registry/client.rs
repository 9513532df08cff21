//! One repository of one registry.

use std::sync::Mutex;

use smolvm_model::reference::{DEFAULT_REGISTRY, Reference, Registry};
use ureq::http::Response;
use ureq::{Agent, Body, ResponseExt};

use super::auth::{self, Challenge};
use super::error::{Cause, RegistryError};
use super::login::{Login, Secret};
use super::proxy::Proxies;
use super::transport::{self, again, cause};
use super::trust::Trust;
use crate::Digest;
use crate::document::{MAX_MANIFEST, media};

/// Where the registry of Docker's short names really is.
const DOCKER_HOST: &str = "registry-1.docker.io";

/// How registries are reached, whoever asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// By whose word a registry is who it says.
    pub trust: Trust,
    /// What lies between.
    pub proxies: Proxies,
}

/// Who is spoken to.
#[derive(Debug, Clone)]
pub struct At {
    /// The registry itself, or a mirror of it.
    pub registry: Registry,
    /// Without TLS.
    pub plain_http: bool,
}

impl At {
    /// The registry of a reference, without TLS only if it is on this machine.
    pub fn home(reference: &Reference) -> Self {
        Self { registry: reference.registry().clone(), plain_http: reference.registry().is_loopback() }
    }
}

/// A client; threads may share it.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    pub(super) registry: Registry,
    repository: String,
    /// The host as requests name it, with its port.
    host: String,
    base: String,
    login: Option<Login>,
    /// What was asked for last time, in the words of the header.
    authorization: Mutex<Option<Secret>>,
}

impl Client {
    /// For the repository of a reference.
    pub fn new(reference: &Reference, at: At, access: &Access, login: Option<Login>) -> Result<Self, RegistryError> {
        let At { registry, plain_http } = at;
        let host = if registry.as_str() == DEFAULT_REGISTRY { DOCKER_HOST } else { registry.as_str() }.to_owned();
        let agent = transport::agent(&registry, access, plain_http)?;
        let scheme = if plain_http { "http" } else { "https" };
        let base = format!("{scheme}://{host}/v2/{}", reference.repository());
        let repository = reference.repository().to_owned();
        Ok(Self { agent, registry, repository, host, base, login, authorization: Mutex::new(None) })
    }

    /// The document of a tag or a digest, and its digest.
    pub fn manifest(&self, wanted: &str) -> Result<(Vec<u8>, Digest), RegistryError> {
        let mut response = self.get(&format!("manifests/{wanted}"), 0)?;
        let said = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
        let bytes = response.body_mut().with_config().limit(MAX_MANIFEST).read_to_vec().map_err(|e| match e {
            ureq::Error::BodyExceedsLimit(limit) => RegistryError::TooLong { registry: self.registry.clone(), limit },
            e => self.unreachable(cause(e)),
        })?;
        let actual = Digest::of(&bytes);
        // What was asked for by its digest is held to that, whatever the registry says.
        match wanted.parse::<Digest>().ok().or(said) {
            Some(expected) if expected != actual => Err(RegistryError::Digest { registry: self.registry.clone(), expected, actual }),
            _ => Ok((bytes, actual)),
        }
    }

    /// Asks, with whatever login is asked for; from `start` on, if that is not the beginning.
    pub(super) fn get(&self, path: &str, start: u64) -> Result<Response<Body>, RegistryError> {
        let mut response = self.ask(path, start)?;
        // Who was met elsewhere may ask for what they like: the login is for this registry.
        let here = response.get_uri().authority().is_some_and(|authority| authority.as_str() == self.host);
        if response.status().as_u16() == 401 && here {
            self.authorize(&response)?;
            response = self.ask(path, start)?;
        }
        match response.status().as_u16() {
            200 | 206 | 416 => Ok(response),
            404 => Err(RegistryError::NotFound { registry: self.registry.clone(), name: self.named(path) }),
            401 | 403 => {
                Err(RegistryError::Denied { registry: self.registry.clone(), name: self.named(path), known: self.login.is_some() })
            }
            429 => Err(RegistryError::TooManyRequests { registry: self.registry.clone() }),
            status => Err(RegistryError::Status { registry: self.registry.clone(), status }),
        }
    }

    fn ask(&self, path: &str, start: u64) -> Result<Response<Body>, RegistryError> {
        let accepted = [media::INDEX, media::MANIFEST, media::DOCKER_LIST, media::DOCKER_MANIFEST].join(", ");
        let authorization = self.authorization();
        again(|| {
            let mut request = self.agent.get(format!("{}/{path}", self.base));
            if path.starts_with("manifests/") {
                request = request.header("accept", &accepted);
            }
            if start > 0 {
                request = request.header("range", format!("bytes={start}-"));
            }
            if let Some(authorization) = &authorization {
                request = request.header("authorization", authorization.reveal());
            }
            request.call().map_err(cause)
        })
        .map_err(|cause| self.unreachable(cause))
    }

    fn authorize(&self, response: &Response<Body>) -> Result<(), RegistryError> {
        let bad = || RegistryError::Challenge { registry: self.registry.clone() };
        let challenges = response.headers().get_all("www-authenticate");
        let challenge = challenges.iter().find_map(|value| Challenge::read(value.to_str().ok()?)).ok_or_else(bad)?;
        let authorization = match (challenge, &self.login) {
            (Challenge::Bearer { realm, service, scope }, login) => {
                let challenge = (realm.as_str(), service.as_deref(), scope.as_deref());
                auth::token(&self.agent, &self.registry, &self.repository, challenge, login.as_ref())?
            }
            (Challenge::Basic, Some(Login::Password { user, password })) => auth::basic(user, password),
            (Challenge::Basic, known) => {
                return Err(RegistryError::Denied {
                    registry: self.registry.clone(),
                    name: self.repository.clone(),
                    known: known.is_some(),
                });
            }
        };
        *self.authorization.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(authorization);
        Ok(())
    }

    fn authorization(&self) -> Option<Secret> {
        self.authorization.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    pub(super) fn unreachable(&self, cause: Cause) -> RegistryError {
        RegistryError::Unreachable { registry: self.registry.clone(), cause }
    }

    /// What was asked for, for people.
    fn named(&self, path: &str) -> String {
        match path.split_once('/') {
            Some(("manifests", wanted)) if wanted.contains(':') => format!("{}@{wanted}", self.repository),
            Some(("manifests", wanted)) => format!("{}:{wanted}", self.repository),
            _ => format!("{} of {}", path.replace('/', " "), self.repository),
        }
    }
}
