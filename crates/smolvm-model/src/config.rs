//! What a user may settle once instead of saying it each time, and who has the last word.
//!
//! ```text
//!   default ◄ file ◄ environment ◄ --set KEY=VALUE ◄ an option of the command itself
//! ```
//!
//! One table of keys serves the file, the environment, `config` and the documentation. What is settled is checked when
//! it is taken in: a configuration that exists has no bad value in it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::engine::{AcceleratorRequest, AcceleratorRequestError};
use crate::quantity::{Cpus, DiskSize, Memory, QuantityError, Span};
use crate::reference::{ReferenceError, Registry};
use crate::registries::Registries;
use crate::spec::{ImageName, NetworkMode, SpecError};

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

/// Why something cannot be settled like that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is no such key.
    #[error("there is no setting {0:?}")]
    UnknownKey(String),
    /// The value is none for this key.
    #[error("{key} cannot be {value:?}")]
    Value {
        /// The key.
        key: String,
        /// What was given, shortened.
        value: String,
        /// What is wrong with it.
        #[source]
        source: ValueError,
    },
    /// `KEY=VALUE` was expected.
    #[error("{0:?} has no '=': write KEY=VALUE")]
    NoEquals(String),
}

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not an amount.
    #[error(transparent)]
    Quantity(#[from] QuantityError),
    /// Not a name or a mode.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Not an accelerator.
    #[error(transparent)]
    Accelerator(#[from] AcceleratorRequestError),
    /// Not a registry.
    #[error(transparent)]
    Registry(#[from] ReferenceError),
    /// Not a size of a pool.
    #[error("a pool has 0 to {} sandboxes", PoolSize::MOST)]
    PoolSize,
}

/// How many sandboxes of a kind wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PoolSize(u8);

impl PoolSize {
    /// Each is a process with a guest's memory: more than this is a mistake in typing.
    const MOST: u8 = 64;

    /// The number.
    pub fn get(self) -> usize {
        usize::from(self.0)
    }
}

impl FromStr for PoolSize {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(size) if digits && size <= Self::MOST => Ok(Self(size)),
            Ok(_) | Err(_) => Err(ValueError::PoolSize),
        }
    }
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

/// Where a value was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// In the file.
    File,
    /// By a variable.
    Environment,
    /// By `--set`.
    Line,
}

impl Layer {
    /// One word for tables and scripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Environment => "environment",
            Self::Line => "line",
        }
    }
}

/// One thing that is settled, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The value.
    pub value: String,
    /// Who said so.
    pub layer: Layer,
}

/// What is settled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    written: BTreeMap<Key, Settled>,
    /// Everything that was said, also what a stronger layer overrules.
    said: BTreeMap<(Layer, Key), String>,
    image: Option<ImageName>,
    cpus: Option<Cpus>,
    memory: Option<Memory>,
    disk: Option<DiskSize>,
    network: Option<NetworkMode>,
    ttl: Option<Span>,
    accelerator: Option<AcceleratorRequest>,
    pool: BTreeMap<ImageName, PoolSize>,
    registries: Registries,
}

impl Config {
    /// Settles one thing; of two that settle the same, the stronger layer counts, and within one layer the later.
    pub fn set(&mut self, key: Key, value: &str, layer: Layer) -> Result<(), ConfigError> {
        let weaker = self.written.get(&key).is_some_and(|settled| settled.layer > layer);
        let mut aside = Self::default();
        // A weaker one is checked all the same: a bad value is told, whoever overrules it.
        let place = if weaker { &mut aside } else { &mut *self };
        place.take(&key, value).map_err(|source| ConfigError::Value { key: key.to_string(), value: shorten(value), source })?;
        self.said.insert((layer, key.clone()), value.to_owned());
        if !weaker {
            self.written.insert(key, Settled { value: value.to_owned(), layer });
        }
        Ok(())
    }

    /// The same for `KEY=VALUE`.
    pub fn set_pair(&mut self, pair: &str, layer: Layer) -> Result<(), ConfigError> {
        let (key, value) = pair.split_once('=').ok_or_else(|| ConfigError::NoEquals(shorten(pair)))?;
        self.set(key.parse()?, value, layer)
    }

    /// All of one table as its variable lists them: `minimal=2,debian=1`.
    pub fn set_list(&mut self, table: &str, list: &str, layer: Layer) -> Result<(), ConfigError> {
        list.split(',').filter(|pair| !pair.is_empty()).try_for_each(|pair| self.set_pair(&format!("{table}.{pair}"), layer))
    }

    fn take(&mut self, key: &Key, value: &str) -> Result<(), ValueError> {
        match key {
            Key::Image => self.image = Some(value.parse()?),
            Key::Cpus => self.cpus = Some(value.parse()?),
            Key::Memory => self.memory = Some(value.parse()?),
            Key::DiskSize => self.disk = Some(value.parse()?),
            Key::Network => self.network = Some(value.parse()?),
            Key::Ttl => self.ttl = Some(value.parse()?),
            Key::Accelerator => self.accelerator = Some(value.parse()?),
            Key::Pool(image) => drop(self.pool.insert(image.clone(), value.parse()?)),
            Key::Mirror(registry) => drop(self.registries.mirrors.insert(registry.clone(), value.parse()?)),
            Key::DefaultRegistry => self.registries.default = value.parse()?,
            Key::PlainHttp => {
                let named = value.split(',').filter(|name| !name.is_empty());
                self.registries.plain_http = named.map(str::parse).collect::<Result<_, _>>()?;
            }
        }
        Ok(())
    }

    /// What would be settled if nobody beyond this layer had said anything.
    #[must_use]
    pub fn up_to(&self, most: Layer) -> Self {
        let mut config = Self::default();
        for ((layer, key), value) in self.said.iter().filter(|((layer, _), _)| *layer <= most) {
            // It was good when it was said.
            let _ = config.set(key.clone(), value, *layer);
        }
        config
    }

    /// Everything that is settled, by key.
    pub fn settled(&self) -> &BTreeMap<Key, Settled> {
        &self.written
    }

    /// The image of a sandbox that is created without one, as it was written.
    pub fn image(&self) -> ImageName {
        self.image.clone().unwrap_or_else(ImageName::debian)
    }

    /// Virtual processors, where settled.
    pub fn cpus(&self) -> Option<Cpus> {
        self.cpus
    }

    /// Guest memory, where settled.
    pub fn memory(&self) -> Option<Memory> {
        self.memory
    }

    /// Size of the data disk, where settled.
    pub fn disk(&self) -> Option<DiskSize> {
        self.disk
    }

    /// The network, where settled.
    pub fn network(&self) -> Option<NetworkMode> {
        self.network
    }

    /// Time to live, where settled.
    pub fn ttl(&self) -> Option<Span> {
        self.ttl
    }

    /// The accelerator.
    pub fn accelerator(&self) -> AcceleratorRequest {
        self.accelerator.unwrap_or(AcceleratorRequest::Auto)
    }

    /// Where registries are.
    pub fn registries(&self) -> &Registries {
        &self.registries
    }

    /// How many sandboxes of each image wait; images with none are left out.
    pub fn pools(&self) -> BTreeMap<ImageName, PoolSize> {
        self.pool.iter().filter(|(_, size)| size.get() > 0).map(|(image, size)| (image.clone(), *size)).collect()
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

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

    #[test]
    fn the_stronger_layer_counts_in_whatever_order_they_come() {
        let layers = [(Layer::File, "2"), (Layer::Environment, "3"), (Layer::Line, "4")];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let mut config = Config::default();
            for at in order {
                let (layer, value) = layers[at];
                config.set(Key::Cpus, value, layer).unwrap();
            }
            assert_eq!(config.cpus(), Some(Cpus::new(4).unwrap()));
            assert_eq!(config.settled()[&Key::Cpus], Settled { value: "4".to_owned(), layer: Layer::Line });
        }
    }

    #[test]
    fn a_bad_value_is_told_even_where_it_does_not_count_and_changes_nothing() {
        let mut config = Config::default();
        config.set(Key::Memory, "1G", Layer::Line).unwrap();
        let before = config.clone();
        for (key, value) in [
            ("sandbox.memory", "lots"),
            ("sandbox.cpus", "0"),
            ("sandbox.net", "wifi"),
            ("sandbox.ttl", "soon"),
            ("sandbox.accel", "x"),
            ("sandbox.image", "../x"),
            ("pool.minimal", "65"),
            ("pool.minimal", "+1"),
            ("pool.minimal", ""),
            ("mirror.docker.io", "not a host"),
            ("registry.plain-http", "a,b c"),
            ("registry.default", ""),
            ("registry.default", "https://near.example"),
            ("registry.default", "near.example/team"),
            ("registry.default", "near.example:0"),
            ("registry.default", "../near"),
            ("registry.default", "near.example\nevil.example"),
            ("registry.default", "user:secret@near.example"),
        ] {
            let error = config.set(key.parse().unwrap(), value, Layer::File).unwrap_err();
            assert!(matches!(error, ConfigError::Value { .. }), "{key} {value:?}: {error}");
            assert_eq!(config, before);
        }
        assert!(matches!(config.set_pair("sandbox.cpus", Layer::Line), Err(ConfigError::NoEquals(_))));
    }

    #[test]
    fn what_the_stronger_said_can_be_left_out() {
        let mut config = Config::default();
        config.set_pair("sandbox.memory=1G", Layer::Line).unwrap();
        config.set_pair("sandbox.memory=2G", Layer::File).unwrap();
        config.set_pair("sandbox.cpus=2", Layer::Environment).unwrap();
        let (file, environment) = (config.up_to(Layer::File), config.up_to(Layer::Environment));
        assert_eq!((file.memory(), file.cpus()), (Some("2G".parse().unwrap()), None));
        assert_eq!((environment.memory(), environment.cpus()), (file.memory(), config.cpus()));
        assert_eq!(config.up_to(Layer::Line), config);
    }

    #[test]
    fn pools_add_up_over_the_layers_and_none_is_none() {
        let mut config = Config::default();
        config.set_pair("pool.debian=3", Layer::File).unwrap();
        config.set_list("pool", "minimal=2,debian=0", Layer::Environment).unwrap();
        let pools: Vec<_> = config.pools().into_iter().map(|(image, size)| (image.to_string(), size.get())).collect();
        assert_eq!(pools, [("minimal".to_owned(), 2)]);
    }
}
