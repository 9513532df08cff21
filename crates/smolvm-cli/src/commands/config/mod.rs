//! `config`: what is settled once instead of being said each time.

mod get;
mod path;
mod set;
mod show;
mod unset;
mod written;

use clap::Subcommand;
use serde_json::{Value, json};
use smolvm_model::config::{Config, KEYS, Key, Layer};

pub(crate) use get::Get;
pub(crate) use path::Path;
pub(crate) use set::Set;
pub(crate) use show::Show;
pub(crate) use unset::Unset;

/// What can be done with the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    Show(Show),
    Get(Get),
    Set(Set),
    Unset(Unset),
    Path(Path),
}

/// One setting as it is shown.
struct Row {
    key: String,
    value: Option<String>,
    from: &'static str,
}

impl Row {
    /// What a key is settled to; without anything, what holds then.
    fn of(config: &Config, key: &Key) -> Self {
        let settled = config.settled(key);
        Self {
            key: key.to_string(),
            value: settled.map(|settled| settled.value.to_owned()),
            from: settled.map_or("default", |settled| settled.layer.as_str()),
        }
    }

    /// What the file alone says of a key.
    fn written(key: &Key, value: Option<&str>) -> Self {
        Self { key: key.to_string(), value: value.map(str::to_owned), from: value.map_or("default", |_| Layer::File.as_str()) }
    }

    fn json(&self) -> Value {
        json!({"key": self.key, "value": self.value, "from": self.from})
    }

    /// The value for people, who want to know what holds.
    fn shown(&self) -> String {
        let default = || {
            let described = KEYS.iter().find(|described| described.key == self.key);
            described.map_or("0", |described| described.default).to_owned()
        };
        self.value.clone().unwrap_or_else(default)
    }
}
