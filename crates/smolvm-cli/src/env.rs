//! The environment: every variable that smolvm reads, what it means, and the only place that reads it. Those of settings
//! stand in the table of settings.

use std::ffi::OsString;
use std::path::PathBuf;

use smolvm::image::{Access, Environment, Logins, Proxies, Secret, Trust};
use smolvm::{Paths, Settings};
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
const REGISTRY_AUTH_FILE: Variable = Variable {
    name: "REGISTRY_AUTH_FILE",
    meaning: "A file of logins as `podman login --authfile` writes it; no other is looked at then.",
};
const PATH: Variable = Variable { name: "PATH", meaning: "Where credential helpers (`docker-credential-…`) are looked for." };
const SSL_CERT_FILE: Variable = Variable {
    name: "SSL_CERT_FILE",
    meaning: "The certificates that registries are known by, instead of `/etc/ssl/certs/ca-certificates.crt`.",
};
const HTTPS_PROXY: Variable =
    Variable { name: "HTTPS_PROXY", meaning: "The proxy for registries: `http://[USER:PASSWORD@]HOST:PORT`. Also `https_proxy`." };
const HTTP_PROXY: Variable =
    Variable { name: "HTTP_PROXY", meaning: "The proxy for registries without HTTPS that are not on this machine. Also `http_proxy`." };
const ALL_PROXY: Variable = Variable { name: "ALL_PROXY", meaning: "The proxy where neither of those two is set. Also `all_proxy`." };
const NO_PROXY: Variable = Variable {
    name: "NO_PROXY",
    meaning: "Hosts, commas between them, that are reached without a proxy, with all hosts beneath them; IPv4 networks (`10.0.0.0/8`) of registries named by address; `*` is all. Also `no_proxy`.",
};

/// Every variable, in the order of the reference.
#[cfg(test)]
pub(crate) const ALL: [&Variable; 22] = [
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
    &REGISTRY_AUTH_FILE,
    &PATH,
    &SSL_CERT_FILE,
    &HTTPS_PROXY,
    &HTTP_PROXY,
    &ALL_PROXY,
    &NO_PROXY,
];

impl Variable {
    /// Its value; empty counts as unset.
    fn read(&self) -> Option<OsString> {
        read(self.name)
    }

    /// The same, or that of its name in small letters, as every program has it with proxies.
    fn read_any_case(&self) -> Option<String> {
        self.read().or_else(|| read(&self.name.to_ascii_lowercase()))?.into_string().ok()
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place")]
fn read(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// All of it: for programs that are the user's own.
fn whole() -> Environment {
    Environment::new(std::env::vars_os(), PATH.read())
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
    settings.logins = Logins {
        named: REGISTRY_AUTH_FILE.read().map(PathBuf::from),
        usual: login_files(rustix::process::geteuid().as_raw(), &Variable::read),
        environment: whole(),
    };
    settings.access = access();
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

/// Where `podman login` and `docker login` keep logins, in podman's order.
fn login_files(uid: u32, read: &dyn Fn(&Variable) -> Option<OsString>) -> Vec<PathBuf> {
    let directory = |variable: &Variable| read(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = directory(&HOME);
    let runtime = directory(&XDG_RUNTIME_DIR).map_or_else(|| PathBuf::from(format!("/run/containers/{uid}")), |dir| dir.join("containers"));
    let config = directory(&XDG_CONFIG_HOME).or_else(|| home.as_ref().map(|home| home.join(".config")));
    let docker = read(&DOCKER_CONFIG).map(PathBuf::from).or_else(|| home.map(|home| home.join(".docker")));
    let podmans = [Some(runtime), config.map(|config| config.join("containers"))].into_iter().flatten().map(|dir| dir.join("auth.json"));
    podmans.chain(docker.map(|dir| dir.join("config.json"))).collect()
}

/// How registries are reached: whom to trust, and through which proxy.
fn access() -> Access {
    let mut trust = Trust::default();
    if let Some(file) = SSL_CERT_FILE.read() {
        trust.bundle = PathBuf::from(file);
    }
    let directory = |variable: &Variable| variable.read().map(PathBuf::from).filter(|path| path.is_absolute());
    let config = directory(&XDG_CONFIG_HOME).or_else(|| directory(&HOME).map(|home| home.join(".config")));
    trust.directories = config.map(|config| config.join("containers/certs.d")).into_iter().collect();
    trust.directories.extend(["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from));
    let proxy = |variable: &Variable| variable.read_any_case().or_else(|| ALL_PROXY.read_any_case()).map(Secret::new);
    Access { trust, proxies: Proxies { https: proxy(&HTTPS_PROXY), http: proxy(&HTTP_PROXY), none: NO_PROXY.read_any_case() } }
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
    fn logins_are_where_podman_and_docker_keep_them() {
        let at = |set: &[(&str, &str)]| {
            let read = |variable: &Variable| set.iter().find(|(name, _)| *name == variable.name).map(|(_, value)| OsString::from(value));
            login_files(7, &read).into_iter().map(|path| path.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let all = [("DOCKER_CONFIG", "/d"), ("XDG_RUNTIME_DIR", "/r"), ("XDG_CONFIG_HOME", "/c"), ("HOME", "/h")];
        assert_eq!(at(&all), ["/r/containers/auth.json", "/c/containers/auth.json", "/d/config.json"]);
        assert_eq!(at(&all[3..]), ["/run/containers/7/auth.json", "/h/.config/containers/auth.json", "/h/.docker/config.json"]);
        assert_eq!(at(&[]), ["/run/containers/7/auth.json"]);
    }

    #[test]
    fn a_relative_base_directory_counts_as_none() {
        let paths = places(false, &[("HOME", "/h"), ("XDG_STATE_HOME", "s"), ("XDG_RUNTIME_DIR", "")]);
        assert_eq!(paths.unwrap()[0], "/h/.local/state/smolvm");
        assert_eq!(places(false, &[("HOME", "h")]), None);
    }
}
