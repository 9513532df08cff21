//! The names of what can be settled, and what is said about each in the documentation.

use std::fmt;
use std::str::FromStr;

use super::value::{ConfigError, shorten};
use crate::reference::Registry;
use crate::spec::ImageName;

/// The name of one thing that can be settled: `table.name`, as in the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The image of a sandbox that is created without one.
    Image,
    /// Virtual processors.
    Cpus,
    /// Guest memory.
    Memory,
    /// Size of the data disk.
    DiskSize,
    /// The network.
    Network,
    /// Time to live.
    Ttl,
    /// The accelerator.
    Accelerator,
    /// How many sandboxes of an image wait to be taken.
    Pool(ImageName),
    /// Who is asked before a registry.
    Mirror(Registry),
    /// Where names without a registry are looked for.
    DefaultRegistry,
    /// Which registries are spoken to without TLS.
    PlainHttp,
}

impl FromStr for Key {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let unknown = || ConfigError::UnknownKey(shorten(text));
        match text {
            "sandbox.image" => Ok(Self::Image),
            "sandbox.cpus" => Ok(Self::Cpus),
            "sandbox.memory" => Ok(Self::Memory),
            "sandbox.disk-size" => Ok(Self::DiskSize),
            "sandbox.net" => Ok(Self::Network),
            "sandbox.ttl" => Ok(Self::Ttl),
            "sandbox.accel" => Ok(Self::Accelerator),
            "registry.default" => Ok(Self::DefaultRegistry),
            "registry.plain-http" => Ok(Self::PlainHttp),
            other => match other.split_once('.') {
                Some(("pool", image)) => image.parse().map(Self::Pool).map_err(|_| unknown()),
                Some(("mirror", registry)) => registry.parse().map(Self::Mirror).map_err(|_| unknown()),
                Some(_) | None => Err(unknown()),
            },
        }
    }
}

impl Key {
    /// The table of the file it stands in, and its name there.
    pub fn place(&self) -> (&'static str, &str) {
        match self {
            Self::Image => ("sandbox", "image"),
            Self::Cpus => ("sandbox", "cpus"),
            Self::Memory => ("sandbox", "memory"),
            Self::DiskSize => ("sandbox", "disk-size"),
            Self::Network => ("sandbox", "net"),
            Self::Ttl => ("sandbox", "ttl"),
            Self::Accelerator => ("sandbox", "accel"),
            Self::Pool(image) => ("pool", image.as_str()),
            Self::Mirror(registry) => ("mirror", registry.as_str()),
            Self::DefaultRegistry => ("registry", "default"),
            Self::PlainHttp => ("registry", "plain-http"),
        }
    }

    /// Whether its values are numbers; all others are text, also where that has digits only.
    pub fn is_number(&self) -> bool {
        match self {
            Self::Cpus | Self::Pool(_) => true,
            Self::Image
            | Self::Memory
            | Self::DiskSize
            | Self::Network
            | Self::Ttl
            | Self::Accelerator
            | Self::Mirror(_)
            | Self::DefaultRegistry
            | Self::PlainHttp => false,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (table, name) = self.place();
        write!(f, "{table}.{name}")
    }
}

/// What is said about a key in the documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Described {
    /// Its name, with a placeholder where it is one of many.
    pub key: &'static str,
    /// The variable that is stronger than the file.
    pub variable: &'static str,
    /// The option that is stronger than both.
    pub option: &'static str,
    /// What it settles.
    pub meaning: &'static str,
    /// What holds without it.
    pub default: &'static str,
}

/// Every key, in the order in which people read them.
pub const KEYS: [Described; 11] = [
    Described {
        key: "sandbox.image",
        variable: "SMOLVM_SANDBOX_IMAGE",
        option: "create --image",
        meaning: "the image of a sandbox that is created without one",
        default: "debian",
    },
    Described { key: "sandbox.cpus", variable: "SMOLVM_SANDBOX_CPUS", option: "--cpus", meaning: "virtual processors", default: "1" },
    Described {
        key: "sandbox.memory",
        variable: "SMOLVM_SANDBOX_MEMORY",
        option: "--memory",
        meaning: "guest memory, whatever the image",
        default: "the image's own: 512M, minimal 128M",
    },
    Described {
        key: "sandbox.disk-size",
        variable: "SMOLVM_SANDBOX_DISK_SIZE",
        option: "--disk-size",
        meaning: "size of the disk, sparse",
        default: "8G",
    },
    Described {
        key: "sandbox.net",
        variable: "SMOLVM_SANDBOX_NET",
        option: "--net",
        meaning: "the network: tap, user or none",
        default: "tap, or user without the rights",
    },
    Described {
        key: "sandbox.ttl",
        variable: "SMOLVM_SANDBOX_TTL",
        option: "--ttl",
        meaning: "time to live of every new sandbox",
        default: "none",
    },
    Described {
        key: "sandbox.accel",
        variable: "SMOLVM_SANDBOX_ACCEL",
        option: "--accel",
        meaning: "the accelerator: auto, kvm or tcg",
        default: "auto",
    },
    Described {
        key: "pool.<IMAGE>",
        variable: "SMOLVM_POOL",
        option: "--set pool.<IMAGE>=N",
        meaning: "so many sandboxes of that image wait, started, to be taken; the variable lists all: `minimal=2,debian=1`",
        default: "0",
    },
    Described {
        key: "mirror.<REGISTRY>",
        variable: "SMOLVM_MIRROR",
        option: "--set mirror.<REGISTRY>=HOST",
        meaning: "who is asked before that registry; the variable lists all: `docker.io=mirror.example:5000`",
        default: "nobody",
    },
    Described {
        key: "registry.default",
        variable: "SMOLVM_REGISTRY_DEFAULT",
        option: "--set registry.default=HOST",
        meaning: "the registry of names without one, such as `python:3.13-slim`; `library/` is added for Docker's alone",
        default: "docker.io",
    },
    Described {
        key: "registry.plain-http",
        variable: "SMOLVM_REGISTRY_PLAIN_HTTP",
        option: "--set registry.plain-http=HOST,…",
        meaning: "registries, with their ports and commas between them, that are spoken to without TLS",
        default: "those of this machine (`localhost`, `127.0.0.1`)",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_table_is_one_and_says_where_it_stands() {
        for described in KEYS {
            let name = described.key.replace("<IMAGE>", "debian").replace("<REGISTRY>", "docker.io");
            let key: Key = name.parse().unwrap();
            assert_eq!(key.to_string(), name);
        }
        for bad in
            ["", "sandbox", "sandbox.", "sandbox.color", "pool.", "pool.../x", "mirror.", "mirror.a b", "Sandbox.cpus", "sandbox.cpus "]
        {
            assert!(matches!(bad.parse::<Key>(), Err(ConfigError::UnknownKey(_))), "{bad:?}");
        }
    }
}
