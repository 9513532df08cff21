//! The configuration of an image: how its authors meant it to be run, and what its layers unpack to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DocumentError, MAX_CONFIG, MAX_LAYERS, parse};
use crate::Digest;

/// Longest single text, and most entries, of what commands are given.
const MAX_TEXT: usize = 64 << 10;
const MAX_ENTRIES: usize = 1024;

/// What is used of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// As Go calls it.
    pub architecture: String,
    /// When it was built, as its authors say.
    pub created: Option<String>,
    /// How to run it.
    pub run: RunConfig,
    /// Digests of the unpacked layers, from below.
    pub diff_ids: Vec<Digest>,
    /// What each step of its making did.
    pub history: Vec<Step>,
}

/// One step of an image's making.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Step {
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// What was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// A note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether it made no layer.
    #[serde(default)]
    pub empty_layer: bool,
}

/// How commands are run in it unless something else is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct RunConfig {
    /// What comes before every command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// The command without one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// As whom: a name or a number, with a group perhaps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Its authors' marks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Where it listens: `80/tcp`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposed_ports: Vec<String>,
    /// Where it keeps what shall outlive it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    created: Option<String>,
    config: Option<RawRun>,
    rootfs: RawRootfs,
    history: Option<Vec<Step>>,
}

#[derive(Deserialize)]
struct RawRootfs {
    diff_ids: Vec<Digest>,
}

/// Lists may be `null`: that is how Go writes none.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawRun {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    volumes: Option<BTreeMap<String, serde_json::Value>>,
}

impl Config {
    /// Reads it, and holds it against the number of layers of its manifest.
    pub fn read(bytes: &[u8], layers: usize) -> Result<Self, DocumentError> {
        let raw: Raw = parse(bytes, "configuration", MAX_CONFIG)?;
        if !matches!(raw.os.as_str(), "linux" | "") {
            return Err(DocumentError::NoPlatform { wanted: "linux".to_owned(), available: vec![raw.os.chars().take(40).collect()] });
        }
        let diff_ids = raw.rootfs.diff_ids;
        if diff_ids.len() > MAX_LAYERS {
            return Err(DocumentError::TooMany { what: "configuration", count: diff_ids.len() });
        }
        if diff_ids.len() != layers {
            return Err(DocumentError::Layers { layers, diff_ids: diff_ids.len() });
        }
        let history = raw.history.unwrap_or_default();
        if history.len() > MAX_ENTRIES {
            return Err(DocumentError::TooMany { what: "configuration", count: history.len() });
        }
        let run = raw.config.unwrap_or_default().checked()?;
        Ok(Self { architecture: raw.architecture, created: raw.created, run, diff_ids, history })
    }
}

impl RawRun {
    fn checked(self) -> Result<RunConfig, DocumentError> {
        let text = |text: Option<String>| text.filter(|text| !text.is_empty());
        let config = RunConfig {
            entrypoint: self.entrypoint.unwrap_or_default(),
            cmd: self.cmd.unwrap_or_default(),
            // Later ones win, as in a shell; a name without a value is a variable that is empty.
            env: self.env.unwrap_or_default().into_iter().map(|pair| split(&pair)).collect(),
            working_dir: text(self.working_dir),
            user: text(self.user),
            stop_signal: text(self.stop_signal),
            labels: self.labels.unwrap_or_default(),
            exposed_ports: self.exposed_ports.unwrap_or_default().into_keys().collect(),
            volumes: self.volumes.unwrap_or_default().into_keys().collect(),
        };
        let good = |text: &str| text.len() <= MAX_TEXT && !text.contains('\0');
        let list = |list: &[String], field| {
            if list.len() <= MAX_ENTRIES && list.iter().all(|text| good(text)) { Ok(()) } else { Err(DocumentError::Value { field }) }
        };
        list(&config.entrypoint, "entrypoint")?;
        list(&config.cmd, "command")?;
        list(&config.exposed_ports, "port")?;
        list(&config.volumes, "volume")?;
        // Labels are given to no command, and take what the document takes: some hold a whole bill of materials.
        let is_variable = |(key, value): (&String, &String)| good(key) && good(value) && !key.is_empty();
        if config.env.len() > MAX_ENTRIES || !config.env.iter().all(is_variable) {
            return Err(DocumentError::Value { field: "variable" });
        }
        let working_dir = config.working_dir.as_deref().is_none_or(|dir| good(dir) && dir.starts_with('/'));
        if !working_dir {
            return Err(DocumentError::Value { field: "working directory" });
        }
        for (value, field) in [(&config.user, "user"), (&config.stop_signal, "stop signal")] {
            if !value.as_deref().is_none_or(|value| value.len() <= 256 && good(value)) {
                return Err(DocumentError::Value { field });
            }
        }
        Ok(config)
    }
}

impl RunConfig {
    /// What is run: the entrypoint, then what was asked for, or what the image says if nothing was.
    pub fn command(&self, entrypoint: Option<&[String]>, command: &[String]) -> Vec<String> {
        let first = entrypoint.unwrap_or(&self.entrypoint);
        // With another entrypoint the image's command would be arguments of something else.
        let rest = if command.is_empty() && entrypoint.is_none() { &self.cmd[..] } else { command };
        first.iter().chain(rest).cloned().collect()
    }
}

fn split(pair: &str) -> (String, String) {
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    (key.to_owned(), value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: &str) -> Result<Config, DocumentError> {
        Config::read(
            format!(r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":[]}},"config":{config}}}"#).as_bytes(),
            0,
        )
    }

    #[test]
    fn what_go_writes_is_read() {
        let run = read(
            r#"{"User":"app:web","ExposedPorts":{"80/tcp":{}},"Env":["PATH=/bin","A=b=c","E","A=last"],"Entrypoint":["/entry"],"Cmd":["x"],
               "Volumes":{"/data":{}},"WorkingDir":"/app","Labels":{"l":"v"},"StopSignal":"SIGQUIT","OnBuild":null}"#,
        )
        .unwrap()
        .run;
        assert_eq!(
            (run.user.as_deref(), run.working_dir.as_deref(), run.stop_signal.as_deref()),
            (Some("app:web"), Some("/app"), Some("SIGQUIT"))
        );
        assert_eq!(run.env, [("A", "last"), ("E", ""), ("PATH", "/bin")].map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        assert_eq!((run.exposed_ports, run.volumes), (vec!["80/tcp".to_owned()], vec!["/data".to_owned()]));
        assert_eq!(read(r#"{"Env":null,"Cmd":null,"Entrypoint":null,"Labels":null,"WorkingDir":""}"#).unwrap().run, RunConfig::default());
        assert_eq!(read("null").unwrap().run, RunConfig::default());
    }

    #[test]
    fn commands_are_put_together_as_everywhere() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let run = RunConfig { entrypoint: words("entry -v"), cmd: words("serve"), ..RunConfig::default() };
        assert_eq!(run.command(None, &[]), words("entry -v serve"));
        assert_eq!(run.command(None, &words("other 1")), words("entry -v other 1"));
        assert_eq!(run.command(Some(&words("sh")), &words("-c x")), words("sh -c x"));
        assert_eq!(run.command(Some(&words("sh")), &[]), words("sh"));
        assert_eq!(run.command(Some(&[]), &words("ls")), words("ls"));
    }

    #[test]
    fn labels_are_as_long_and_as_many_as_the_document_takes() {
        let long = "x".repeat(200 << 10);
        let many: Vec<String> = (0..2000).map(|n| format!("\"l{n}\":\"\"")).collect();
        let labels = read(&format!(r#"{{"Labels":{{"sbom":"{long}",{}}}}}"#, many.join(","))).unwrap().run.labels;
        assert_eq!((labels.len(), labels["sbom"].len()), (2001, long.len()));
        assert!(read(&format!(r#"{{"Env":["A={long}"]}}"#)).is_err());
    }

    #[test]
    fn what_no_command_can_be_given_is_refused() {
        for bad in [
            r#"{"Env":["=x"]}"#,
            r#"{"WorkingDir":"app"}"#,
            "{\"Cmd\":[\"a\\u0000b\"]}",
            r#"{"Cmd":"sh"}"#,
            &format!(r#"{{"User":"{}"}}"#, "u".repeat(300)),
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(Config::read(br#"{"os":"windows","rootfs":{"diff_ids":[]}}"#, 0).is_err());
        assert!(matches!(Config::read(br#"{"rootfs":{"diff_ids":[]}}"#, 1), Err(DocumentError::Layers { layers: 1, diff_ids: 0 })));
    }
}
