//! The environment: every variable that smolvm reads, what it means, and the only place that reads it. Those of settings
//! stand in the table of settings.

use std::ffi::OsString;
use std::path::PathBuf;

use smolvm::{Logins, Paths, Settings};
use smolvm_model::config::Described;
use smolvm_model::error_code::ErrorCode;

use crate::output::Problem;

/// One variable.
#[derive(Debug)]
pub(crate) struct Variable {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it does, for the reference.
    #[cfg_attr(not(test), expect(dead_code, reason = "read by the generated reference"))]
    pub(crate) meaning: &'static str,
}

const SMOLVM_HOME: Variable = Variable {
    name: "SMOLVM_HOME",
    meaning: "One directory for everything smolvm keeps: `state`, `cache` and `run` beneath it. `--home DIR` is stronger.",
};
const SMOLVM_HYPERVISOR: Variable = Variable {
    name: "SMOLVM_HYPERVISOR",
    meaning: "The hypervisor's executable, instead of the one that is found. For diagnosis and tests.",
};
const SMOLVM_BOOT_ID_FILE: Variable = Variable {
    name: "SMOLVM_BOOT_ID_FILE",
    meaning: "Where the id of this boot is read, instead of `/proc/sys/kernel/random/boot_id`. For tests.",
};
const SMOLVM_TEST_FAULT: Variable = Variable {
    name: "SMOLVM_TEST_FAULT",
    meaning: "What is to go wrong, and where, such as `kill@after:tap`. For tests; a release does not read it.",
};
const SMOLVM_TEST_TRACE: Variable = Variable {
    name: "SMOLVM_TEST_TRACE",
    meaning: "A file that gets a line for every change of the host and the ledger. For tests; a release does not write it.",
};
const NO_COLOR: Variable = Variable { name: "NO_COLOR", meaning: "Set and not empty: no colour, whatever the terminal can do." };
const TERM: Variable = Variable { name: "TERM", meaning: "`dumb`: no colour and no progress." };
const COLUMNS: Variable = Variable { name: "COLUMNS", meaning: "How wide help and tables may be, where the terminal does not tell." };
const XDG_STATE_HOME: Variable = Variable {
    name: "XDG_STATE_HOME",
    meaning: "Not root: sandboxes and their records live in `$XDG_STATE_HOME/smolvm`, else in `~/.local/state/smolvm`.",
};
const XDG_CACHE_HOME: Variable = Variable {
    name: "XDG_CACHE_HOME",
    meaning: "Not root: kernels and images live in `$XDG_CACHE_HOME/smolvm`, else in `~/.cache/smolvm`.",
};
const XDG_RUNTIME_DIR: Variable =
    Variable { name: "XDG_RUNTIME_DIR", meaning: "Not root: sockets live in `$XDG_RUNTIME_DIR/smolvm`, else beside the records." };
const SMOLVM_CONFIG: Variable = Variable {
    name: "SMOLVM_CONFIG",
    meaning: "The configuration file, instead of `/etc/smolvm/config.toml`, the user's own or the home's.",
};
const XDG_CONFIG_HOME: Variable = Variable {
    name: "XDG_CONFIG_HOME",
    meaning: "Not root: the configuration is `$XDG_CONFIG_HOME/smolvm/config.toml`, else `~/.config/smolvm/config.toml`.",
};
const HOME: Variable = Variable { name: "HOME", meaning: "Where `~` is." };

const DOCKER_CONFIG: Variable = Variable {
    name: "DOCKER_CONFIG",
    meaning: "The directory with the `config.json` of `docker login`, else `~/.docker`. `image pull` looks there for logins.",
};

/// Every variable, in the order of the reference.
#[cfg(test)]
pub(crate) const ALL: [&Variable; 15] = [
    &SMOLVM_HOME,
    &SMOLVM_CONFIG,
    &SMOLVM_HYPERVISOR,
    &SMOLVM_BOOT_ID_FILE,
    &SMOLVM_TEST_FAULT,
    &SMOLVM_TEST_TRACE,
    &NO_COLOR,
    &TERM,
    &COLUMNS,
    &XDG_STATE_HOME,
    &XDG_CACHE_HOME,
    &XDG_RUNTIME_DIR,
    &XDG_CONFIG_HOME,
    &HOME,
    &DOCKER_CONFIG,
];

impl Variable {
    /// Its value; empty counts as unset.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    fn read(&self) -> Option<OsString> {
        std::env::var_os(self.name).filter(|value| !value.is_empty())
    }
}

/// Whether colour is not wanted.
pub(crate) fn no_colour() -> bool {
    NO_COLOR.read().is_some() || is_dumb()
}

/// Whether the terminal cannot do more than print.
pub(crate) fn is_dumb() -> bool {
    TERM.read().is_some_and(|term| term == "dumb")
}

/// The width that was asked for.
pub(crate) fn columns() -> Option<u16> {
    COLUMNS.read()?.to_str()?.parse().ok().filter(|width| *width > 0)
}

/// Which installation is meant: `--home`, then `SMOLVM_HOME`, then root's or the user's own.
pub(crate) fn settings(home: Option<PathBuf>) -> Result<Settings, Problem> {
    let mut settings = Settings::new(paths(home)?);
    if let Some(file) = SMOLVM_HYPERVISOR.read() {
        settings.hypervisor = Some(PathBuf::from(file));
    }
    if let Some(file) = SMOLVM_BOOT_ID_FILE.read() {
        settings.boot_id_source = PathBuf::from(file);
    }
    let home = HOME.read().map(PathBuf::from).filter(|home| home.is_absolute());
    let docker = DOCKER_CONFIG.read().map(PathBuf::from).or_else(|| home.as_ref().map(|home| home.join(".docker")));
    settings.logins = Logins { file: docker.map(|directory| directory.join("config.json")), home };
    settings.fault = SMOLVM_TEST_FAULT.read().and_then(|order| order.into_string().ok());
    settings.trace = SMOLVM_TEST_TRACE.read().map(PathBuf::from);
    Ok(settings)
}

/// Where the configuration is: `SMOLVM_CONFIG`, then beside everything else, then root's or the user's own.
pub(crate) fn config_file(home: Option<PathBuf>) -> Result<PathBuf, Problem> {
    config_place(home, rustix::process::geteuid().is_root(), &Variable::read)
}

/// What the variable of a setting says.
pub(crate) fn setting(described: &Described) -> Result<Option<String>, Problem> {
    let variable = Variable { name: described.variable, meaning: described.meaning };
    let odd = |_| Problem::new(ErrorCode::UsageError, format!("{} is not UTF-8", described.variable));
    variable.read().map(|value| value.into_string().map_err(odd)).transpose()
}

fn paths(home: Option<PathBuf>) -> Result<Paths, Problem> {
    resolve(home, rustix::process::geteuid().is_root(), &Variable::read)
}

/// The rule, apart from where the values come from.
fn resolve(home: Option<PathBuf>, root: bool, read: &dyn Fn(&Variable) -> Option<OsString>) -> Result<Paths, Problem> {
    if let Some(home) = home.or_else(|| read(&SMOLVM_HOME).map(PathBuf::from)) {
        let absolute = std::path::absolute(&home).map_err(|e| {
            Problem::new(ErrorCode::UsageError, format!("{} cannot be a home: {e}", home.display()))
                .hint("give an absolute path: --home DIR")
        })?;
        // The monitor is told the paths as text.
        if absolute.to_str().is_none() {
            return Err(Problem::new(ErrorCode::UsageError, format!("{} cannot be a home: it is not UTF-8", absolute.display())));
        }
        return Ok(Paths::beneath(&absolute));
    }
    if root {
        return Ok(Paths { state: "/var/lib/smolvm".into(), cache: "/var/cache/smolvm".into(), run: "/run/smolvm".into() });
    }
    // The base directory specification says to ignore paths that are not absolute.
    let directory = |variable: &Variable| read(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let beneath_home = |rest: &str| directory(&HOME).map(|home| home.join(rest));
    let lost = || {
        Problem::new(ErrorCode::UsageError, "there is no place for sandboxes: neither HOME nor the XDG variables are set")
            .hint("name one: smolvm --home DIR …")
    };
    let state = directory(&XDG_STATE_HOME).or_else(|| beneath_home(".local/state")).ok_or_else(lost)?.join("smolvm");
    let cache = directory(&XDG_CACHE_HOME).or_else(|| beneath_home(".cache")).ok_or_else(lost)?.join("smolvm");
    let run = directory(&XDG_RUNTIME_DIR).map_or_else(|| state.join("run"), |dir| dir.join("smolvm"));
    Ok(Paths { state, cache, run })
}

fn config_place(home: Option<PathBuf>, root: bool, read: &dyn Fn(&Variable) -> Option<OsString>) -> Result<PathBuf, Problem> {
    const NAME: &str = "config.toml";
    let place = if let Some(file) = read(&SMOLVM_CONFIG) {
        PathBuf::from(file)
    } else if let Some(home) = home.or_else(|| read(&SMOLVM_HOME).map(PathBuf::from)) {
        home.join(NAME)
    } else if root {
        PathBuf::from("/etc/smolvm").join(NAME)
    } else {
        let directory = |variable: &Variable| read(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = directory(&XDG_CONFIG_HOME).or_else(|| directory(&HOME).map(|home| home.join(".config")));
        let lost = || {
            Problem::new(ErrorCode::UsageError, "there is no place for a configuration: neither HOME nor XDG_CONFIG_HOME is set")
                .hint("name the file: SMOLVM_CONFIG=FILE")
        };
        base.ok_or_else(lost)?.join("smolvm").join(NAME)
    };
    std::path::absolute(&place)
        .map_err(|e| Problem::new(ErrorCode::UsageError, format!("{} cannot be the configuration: {e}", place.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_one_place() {
        let at = |home: Option<&str>, root, set: &[(&str, &str)]| {
            let read = |variable: &Variable| set.iter().find(|(name, _)| *name == variable.name).map(|(_, value)| OsString::from(value));
            config_place(home.map(PathBuf::from), root, &read).ok().map(|path| path.to_str().unwrap().to_owned())
        };
        let all = [("SMOLVM_CONFIG", "/c"), ("SMOLVM_HOME", "/x"), ("XDG_CONFIG_HOME", "/xdg"), ("HOME", "/h")];
        assert_eq!(at(Some("/o"), true, &all).as_deref(), Some("/c"));
        assert_eq!(at(Some("/o"), true, &all[1..]).as_deref(), Some("/o/config.toml"));
        assert_eq!(at(None, false, &all[1..]).as_deref(), Some("/x/config.toml"));
        assert_eq!(at(None, true, &all[2..]).as_deref(), Some("/etc/smolvm/config.toml"));
        assert_eq!(at(None, false, &all[2..]).as_deref(), Some("/xdg/smolvm/config.toml"));
        assert_eq!(at(None, false, &all[3..]).as_deref(), Some("/h/.config/smolvm/config.toml"));
        assert_eq!(at(None, false, &[]), None);
    }

    fn places(root: bool, set: &[(&str, &str)]) -> Option<[String; 3]> {
        let read = |variable: &Variable| set.iter().find(|(name, _)| *name == variable.name).map(|(_, value)| OsString::from(value));
        let paths = resolve(None, root, &read).ok()?;
        Some([paths.state, paths.cache, paths.run].map(|path| path.to_str().unwrap().to_owned()))
    }

    fn owned(paths: [&str; 3]) -> [String; 3] {
        paths.map(str::to_owned)
    }

    #[test]
    fn every_user_has_places() {
        let xdg = [("HOME", "/h"), ("XDG_STATE_HOME", "/s"), ("XDG_CACHE_HOME", "/c"), ("XDG_RUNTIME_DIR", "/r")];
        assert_eq!(places(true, &xdg), Some(owned(["/var/lib/smolvm", "/var/cache/smolvm", "/run/smolvm"])));
        assert_eq!(places(false, &xdg), Some(owned(["/s/smolvm", "/c/smolvm", "/r/smolvm"])));
        assert_eq!(places(false, &xdg[..1]), Some(owned(["/h/.local/state/smolvm", "/h/.cache/smolvm", "/h/.local/state/smolvm/run"])));
        assert_eq!(places(true, &[("SMOLVM_HOME", "/x")]), Some(owned(["/x/state", "/x/cache", "/x/run"])));
        assert_eq!(places(false, &[]), None);
    }

    #[test]
    fn a_relative_base_directory_counts_as_none() {
        let paths = places(false, &[("HOME", "/h"), ("XDG_STATE_HOME", "s"), ("XDG_RUNTIME_DIR", "")]);
        assert_eq!(paths.unwrap()[0], "/h/.local/state/smolvm");
        assert_eq!(places(false, &[("HOME", "h")]), None);
    }
}
