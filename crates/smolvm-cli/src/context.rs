//! What a command needs beside its own arguments.

use std::path::PathBuf;

use smolvm::config::{read_file, wrong};
use smolvm::reach::{check_file_reachable, check_reachable};
use smolvm::{Settings, Smolvm};
use smolvm_model::config::{Config, KEYS, Layer};

use crate::env;
use crate::output::Problem;

/// How the process was called.
#[derive(Debug, Default)]
pub(crate) struct Context {
    /// `--home`.
    pub(crate) home: Option<PathBuf>,
    /// `--set`, each `KEY=VALUE`.
    pub(crate) set: Vec<String>,
}

impl Context {
    /// The installation that is meant, with what is settled of registries: so no verb can forget what a short name means. Changes nothing on
    /// the host.
    pub(crate) fn open(&self) -> Result<Smolvm, Problem> {
        self.open_with(&self.config()?)
    }

    /// The same for who has read the configuration.
    pub(crate) fn open_with(&self, config: &Config) -> Result<Smolvm, Problem> {
        let settings = self.settings()?;
        Ok(Smolvm::open(Settings { registries: config.registries().clone(), ..settings })?)
    }

    /// The same for who takes no name of an image: it works whatever the configuration says.
    pub(crate) fn open_unsettled(&self) -> Result<Smolvm, Problem> {
        Ok(Smolvm::open(self.settings()?)?)
    }

    fn settings(&self) -> Result<Settings, Problem> {
        let settings = env::settings(self.home.clone())?;
        check_reachable(&settings.paths)?;
        Ok(settings)
    }

    /// Where the configuration is.
    pub(crate) fn config_file(&self) -> Result<PathBuf, Problem> {
        env::config_file(self.home.clone())
    }

    /// What is settled: by the file, the environment and the line.
    pub(crate) fn config(&self) -> Result<Config, Problem> {
        let mut config = Config::default();
        let path = self.config_file()?;
        check_file_reachable(&path)?;
        read_file(&mut config, &path)?;
        self.overrule(&mut config)?;
        Ok(config)
    }

    /// Takes in what is stronger than the file.
    fn overrule(&self, config: &mut Config) -> Result<(), Problem> {
        for described in &KEYS {
            let Some(value) = env::setting(described)? else { continue };
            let settled = match described.key.parse() {
                Ok(key) => config.set(key, &value, Layer::Environment),
                // One of many: its variable lists them all.
                Err(_) => config.set_list(described.key.split('.').next().unwrap_or_default(), &value, Layer::Environment),
            };
            settled.map_err(|e| Problem::from(wrong(e)).hint(format!("it comes from the variable {}", described.variable)))?;
        }
        for pair in &self.set {
            config.set_pair(pair, Layer::Line).map_err(wrong)?;
        }
        Ok(())
    }
}
