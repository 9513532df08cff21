//! What a user may settle once instead of saying it each time, and who has the last word.
//!
//! ```text
//!   default ◄ file ◄ environment ◄ --set KEY=VALUE ◄ an option of the command itself
//! ```
//!
//! One table of keys serves the file, the environment, `config` and the documentation. What is settled is checked when
//! it is taken in: a configuration that exists has no bad value in it.

mod key;
mod value;

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::AcceleratorRequest;
use crate::quantity::{Cpus, DiskSize, Memory, Span};
use crate::registries::Registries;
use crate::spec::{ImageName, NetworkMode};

pub use key::{Described, KEYS, Key};
pub use value::{ConfigError, PoolSize, ValueError};

use value::shorten;

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

/// One thing that is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled<'a> {
    /// The value, as it was written.
    pub value: &'a str,
    /// Who said so.
    pub layer: Layer,
}

/// What is settled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Everything that was said, also what a stronger layer overrules; the weaker layers first.
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
        let weaker = self.said.keys().any(|(said, other)| *said > layer && *other == key);
        let mut aside = Self::default();
        // A weaker one is checked all the same: a bad value is told, whoever overrules it.
        let place = if weaker { &mut aside } else { &mut *self };
        place.take(&key, value).map_err(|source| ConfigError::Value { key: key.to_string(), value: shorten(value), source })?;
        self.said.insert((layer, key), value.to_owned());
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

    /// What a key is settled to, as it was written, and by whom; `None` where what holds without it does.
    pub fn settled(&self, key: &Key) -> Option<Settled<'_>> {
        let strongest = self.said.iter().rev().find(|((_, said), _)| said == key);
        strongest.map(|((layer, _), value)| Settled { value, layer: *layer })
    }

    /// Every key that somebody has settled.
    pub fn keys(&self) -> BTreeSet<&Key> {
        self.said.keys().map(|(_, key)| key).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(config.settled(&Key::Cpus), Some(Settled { value: "4", layer: Layer::Line }));
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
