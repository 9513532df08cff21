//! Where registries really are: the one that short names mean, mirrors that are asked first, and registries that are spoken to without TLS.

use std::collections::{BTreeMap, BTreeSet};

use crate::reference::Registry;

/// What is settled about registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registries {
    /// Where names without a registry are looked for.
    pub default: Registry,
    /// Who is asked before a registry.
    pub mirrors: BTreeMap<Registry, Registry>,
    /// Who is spoken to without TLS, beside those of this machine.
    pub plain_http: BTreeSet<Registry>,
}

impl Registries {
    /// Who is asked for what a registry has, one after the other; the registry itself last.
    pub fn places(&self, registry: &Registry) -> Vec<Registry> {
        let mirror = self.mirrors.get(registry).filter(|mirror| *mirror != registry).cloned();
        mirror.into_iter().chain([registry.clone()]).collect()
    }

    /// Whether a registry is spoken to without TLS. What came is held to its digest all the same; a tag is whatever such a registry says.
    pub fn is_plain(&self, registry: &Registry) -> bool {
        registry.is_loopback() || self.plain_http.contains(registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(text: &str) -> Registry {
        text.parse().unwrap()
    }

    #[test]
    fn a_mirror_is_asked_first_and_the_registry_itself_in_any_case() {
        let (docker, near, other) = (registry("docker.io"), registry("near.example:5000"), registry("ghcr.io"));
        let registries =
            Registries { mirrors: [(docker.clone(), near.clone()), (near.clone(), near.clone())].into(), ..Registries::default() };
        assert_eq!(registries.places(&docker), [near.clone(), docker]);
        assert_eq!(registries.places(&other), [other]);
        assert_eq!(registries.places(&near), [near], "a mirror of itself is none, and mirrors have no mirrors");
    }

    #[test]
    fn only_this_machine_and_who_is_named_is_spoken_to_without_tls() {
        let registries = Registries { plain_http: [registry("near.example:5000")].into(), ..Registries::default() };
        for (name, plain) in [("127.0.0.1:5000", true), ("near.example:5000", true), ("near.example", false), ("docker.io", false)] {
            assert_eq!(registries.is_plain(&registry(name)), plain, "{name}");
        }
    }
}
