//! Rows as values, and the JSON inside them.
//!
//! Serializing is promising: these private shapes are what databases in the field hold. They are
//! parsed back through the same constructors as user input, so a hostile row cannot become a value.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use smolvm_model::ledger::Entry;
use smolvm_model::name::SandboxId;
use smolvm_model::quantity::{Cpus, DiskSize, Memory};
use smolvm_model::signal::Signal;
use smolvm_model::spec::{GuestInit, MAX_PAIRS, Spec, SpecError, check_value};
use smolvm_model::state::State;

/// A sandbox as recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxRecord {
    /// Its id.
    pub id: SandboxId,
    /// Order of creation.
    pub seq: i64,
    /// Recorded state.
    pub state: State,
    /// Raised by every change of state; writers compare it first.
    pub generation: i64,
    /// What was asked for.
    pub spec: Spec,
    /// Creation, milliseconds since 1970 UTC.
    pub created_ms: i64,
    /// When its time to live passes, milliseconds since 1970 UTC.
    pub expires_ms: Option<i64>,
    /// The present or last run.
    pub run: Option<Run>,
    /// Why the last start or stop failed.
    pub failure: Option<Failure>,
    /// How the last run ended.
    pub exit: Option<Exit>,
}

/// Facts of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// Why that one.
    pub accelerator_reason: String,
    /// When the start began, milliseconds since 1970 UTC.
    pub started_ms: i64,
    /// What the jail enforced, read back from the running process.
    #[serde(default)]
    pub enforced: serde_json::Value,
    /// Kernel release the guest boots.
    #[serde(default)]
    pub kernel: String,
    /// The hypervisor's version.
    #[serde(default)]
    pub hypervisor: String,
    /// Version of the agent that answered.
    #[serde(default)]
    pub agent: String,
    /// `cold`, `template`, `snapshot` or `fork`.
    #[serde(default)]
    pub started_from: String,
    /// Which template, or why none.
    #[serde(default)]
    pub started_from_reason: String,
    /// The hypervisor by all its files, and a digest of the machine's description: what a copy of it must run under.
    #[serde(default)]
    pub surroundings: Surroundings,
    /// Where the time of its start went.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// The kind of machine it is, for whoever looks for one in the pool; empty where it does not wait there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pooled: String,
}

/// One step of a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// One word.
    pub step: String,
    /// Microseconds.
    pub us: u64,
}

/// What is around a guest's memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surroundings {
    /// The hypervisor: its version, and a digest over its files.
    pub hypervisor: String,
    /// What it was told of the machine: a digest.
    pub machine: String,
}

impl Run {
    /// Everything that is recorded of a run.
    pub(super) fn whole(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|e| e.to_string())
    }

    /// Only what a list shows of it; the rest is left empty.
    pub(super) fn shown(text: &str) -> Result<Self, String> {
        let json: ShownRunJson = serde_json::from_str(text).map_err(|e| e.to_string())?;
        Ok(Self {
            accelerator: json.accelerator,
            accelerator_reason: json.accelerator_reason,
            started_ms: json.started_ms,
            enforced: serde_json::Value::Null,
            kernel: String::new(),
            hypervisor: String::new(),
            agent: String::new(),
            started_from: json.started_from,
            started_from_reason: json.started_from_reason,
            surroundings: Surroundings::default(),
            steps: Vec::new(),
            pooled: String::new(),
        })
    }
}

/// [`Run`] without what is not shown.
#[derive(Deserialize)]
struct ShownRunJson {
    accelerator: String,
    accelerator_reason: String,
    started_ms: i64,
    #[serde(default)]
    started_from: String,
    #[serde(default)]
    started_from_reason: String,
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable error code.
    pub code: String,
    /// For people.
    pub message: String,
    /// `start` or `stop`.
    pub during: String,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// `stopped`, `guest_poweroff`, `guest_reset`, `hypervisor_exit`, `hypervisor_signal`.
    pub kind: String,
    /// Exit status of the hypervisor.
    pub code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// When, milliseconds since 1970 UTC.
    pub at_ms: i64,
}

/// A row that is not a valid sandbox or entry; shown to people, never acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenRow {
    /// The text in the id column, as it stands there.
    pub raw_id: String,
    /// What is wrong with it.
    pub problem: String,
    /// Where it stands.
    pub place: BrokenPlace,
}

/// Where a broken row stands, which is all that dropping it may touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokenPlace {
    /// The row of a sandbox.
    Sandbox,
    /// One entry of the ledger; its sandbox may be sound.
    Entry {
        /// The text in the kind column.
        kind: String,
        /// The text in the key column.
        key: String,
    },
}

/// All rows of one look.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    /// Sandboxes in order of creation.
    pub sandboxes: Vec<SandboxRecord>,
    /// Their ledger entries.
    pub entries: Vec<Entry>,
    /// Rows that cannot be taken seriously.
    pub broken: Vec<BrokenRow>,
}

/// Something all sandboxes share on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedPart {
    /// `nft_table` or `sysctl`.
    pub kind: String,
    /// Which one.
    pub key: String,
    /// Its value before smolvm changed it.
    pub before: Option<String>,
    /// The value smolvm gave it.
    pub after: Option<String>,
}

// What is checked or compared on the way to a value is borrowed from the row.
#[derive(Serialize, Deserialize)]
struct SpecJson<'a> {
    #[serde(borrow)]
    image: Cow<'a, str>,
    image_digest: String,
    cpus: u32,
    memory_mib: u64,
    disk_bytes: u64,
    #[serde(borrow)]
    network: Cow<'a, str>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    workdir: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(borrow)]
    accelerator: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    init: Option<InitJson>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    restored_from: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct InitJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stop_signal: Option<i32>,
}

impl InitJson {
    fn read(self) -> Result<GuestInit, String> {
        let signal = self.stop_signal.map(|number| number.to_string().parse::<Signal>().map_err(|e| e.to_string()));
        Ok(GuestInit { stop_signal: signal.transpose()? })
    }
}

/// A specification as it is kept.
pub fn spec_to_json(spec: &Spec) -> String {
    let json = SpecJson {
        image: spec.image.as_str().into(),
        image_digest: spec.image_digest.clone(),
        cpus: spec.cpus.get().into(),
        memory_mib: spec.memory.mib().into(),
        disk_bytes: spec.disk.bytes(),
        network: spec.network.as_str().into(),
        env: spec.env.iter().map(|(k, v)| (k.to_string(), v.clone())).collect(),
        workdir: spec.workdir.clone(),
        user: spec.user.clone(),
        labels: spec.labels.iter().map(|(k, v)| (k.to_string(), v.clone())).collect(),
        accelerator: spec.accelerator.as_str().into(),
        init: spec.init.map(|init| InitJson { stop_signal: init.stop_signal.map(Signal::number) }),
        restored_from: spec.restored_from.as_ref().map(|name| name.as_str().into()),
    };
    to_json(&json)
}

/// A specification out of what was kept; or what is wrong with that.
pub fn spec_from_json(text: &str) -> Result<Spec, String> {
    let json: SpecJson<'_> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let text = |e: &dyn std::error::Error| e.to_string();
    Ok(Spec {
        image: json.image.parse().map_err(|e| text(&e))?,
        image_digest: json.image_digest,
        cpus: Cpus::new(json.cpus).map_err(|e| text(&e))?,
        memory: Memory::from_mib(json.memory_mib).map_err(|e| text(&e))?,
        disk: DiskSize::from_bytes(json.disk_bytes).map_err(|e| text(&e))?,
        network: json.network.parse().map_err(|e| text(&e))?,
        env: pairs(json.env).map_err(|e| text(&e))?,
        workdir: json.workdir.map(|dir| check_value("workdir", &dir).map(|()| dir)).transpose().map_err(|e| text(&e))?,
        user: json.user.map(|user| check_value("user", &user).map(|()| user)).transpose().map_err(|e| text(&e))?,
        labels: pairs(json.labels).map_err(|e| text(&e))?,
        accelerator: json.accelerator.parse().map_err(|e| text(&e))?,
        init: json.init.map(InitJson::read).transpose()?,
        restored_from: json.restored_from.map(|name| name.parse().map_err(|e| text(&e))).transpose()?,
    })
}

/// As many as a person may give, each as it could have been given.
fn pairs<K: FromStr<Err = SpecError> + Ord>(map: BTreeMap<String, String>) -> Result<BTreeMap<K, String>, SpecError> {
    if map.len() > MAX_PAIRS {
        return Err(SpecError::TooMany);
    }
    let checked = |(key, value): (String, String)| {
        check_value(&key, &value)?;
        Ok((key.parse()?, value))
    };
    map.into_iter().map(checked).collect()
}

pub(super) fn to_json(value: &impl Serialize) -> String {
    // Plain structs of strings and numbers: serde_json can fail only on maps with other keys.
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_holds_no_value_that_nobody_could_ask_for() {
        let spec = |env: &str, labels: &str| {
            spec_from_json(&format!(
                r#"{{"image": "debian", "image_digest": "d", "cpus": 1, "memory_mib": 512, "disk_bytes": 67108864, "network": "tap",
                "env": {env}, "labels": {labels}, "accelerator": "auto"}}"#
            ))
        };
        let good = spec(r#"{"A": "b"}"#, r#"{"team": "x"}"#).unwrap();
        assert_eq!(spec_from_json(&spec_to_json(&good)), Ok(good.clone()));
        let with_init = Spec { init: Some(GuestInit { stop_signal: Some("SIGRTMIN+3".parse().unwrap()) }), ..good };
        let kept = spec_to_json(&with_init);
        assert_eq!(spec_from_json(&kept), Ok(with_init));
        assert!(spec_from_json(&kept.replace("37", "65")).is_err());
        let long = format!(r#"{{"A": "{}"}}"#, "x".repeat(40_000));
        let many = format!("{{{}}}", (0..300).map(|n| format!(r#""A{n}": """#)).collect::<Vec<_>>().join(","));
        for bad in [r#"{"A": "\u0000"}"#, r#"{"A=B": ""}"#, &long, &many] {
            assert!(spec(bad, "{}").is_err() && spec("{}", bad).is_err(), "{:?}", &bad[..20.min(bad.len())]);
        }
    }
}
