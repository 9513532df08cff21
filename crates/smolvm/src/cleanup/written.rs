//! A plan that was printed and kept: what counts of it when it comes back.
//!
//! Nothing of it is ever done as such. From it come the scope of a new look at the host and the fingerprint that look must have; the
//! targets it names only help to say what is different.

use std::collections::BTreeSet;

use serde_json::Value;
use smolvm_model::select::Scope;

use super::fingerprint::PLAN_VERSION;

/// What counts of a plan in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenPlan {
    /// What was asked for when it was made.
    pub scope: Scope,
    /// The installation it was made for.
    pub installation: String,
    /// What a new look must have as its fingerprint.
    pub fingerprint: String,
    /// What it would have removed.
    pub targets: BTreeSet<String>,
}

/// Why a text is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrittenPlanError {
    /// It is something else altogether.
    #[error("it is not JSON")]
    NotJson,
    /// It is the report of a removal, or another command's output.
    #[error("it was not printed by a dry run")]
    NotADryRun,
    /// A part is missing, or is of another type.
    #[error("it says no {field}")]
    Missing {
        /// Which.
        field: &'static str,
    },
    /// Neither everything nor one prefix.
    #[error("it does not say what was asked for")]
    NoScope,
    /// No sandbox can have the prefix it names.
    #[error("its prefix is none")]
    BadPrefix,
    /// Another version of smolvm made it.
    #[error("it has version {found}, and this smolvm knows {PLAN_VERSION}")]
    OtherVersion {
        /// Its version.
        found: u64,
    },
}

impl WrittenPlan {
    /// Reads the whole output of a dry run, or its `data` alone.
    pub fn parse(text: &str) -> Result<Self, WrittenPlanError> {
        let mut value: Value = serde_json::from_str(text).map_err(|_| WrittenPlanError::NotJson)?;
        if value["command"] == "cleanup" {
            value = value["data"].take();
        }
        if value["dry_run"] != true {
            return Err(WrittenPlanError::NotADryRun);
        }
        let mark = &value["plan"];
        match mark["version"].as_u64() {
            Some(version) if version == u64::from(PLAN_VERSION) => {}
            Some(found) => return Err(WrittenPlanError::OtherVersion { found }),
            None => return Err(WrittenPlanError::Missing { field: "version" }),
        }
        let word = |field: &'static str| mark[field].as_str().map(str::to_owned).ok_or(WrittenPlanError::Missing { field });
        let scope = match (value["all"].as_bool(), value["prefix"].as_str()) {
            (Some(true), None) => Scope::All,
            (Some(false), Some(prefix)) => Scope::Prefix(prefix.parse().map_err(|_| WrittenPlanError::BadPrefix)?),
            _ => return Err(WrittenPlanError::NoScope),
        };
        let targets = value["targets"].as_array().into_iter().flatten().filter_map(|id| id.as_str().map(str::to_owned)).collect();
        Ok(Self { scope, installation: word("installation")?, fingerprint: word("fingerprint")?, targets })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan() -> Value {
        json!({"all": false, "prefix": "vm-", "dry_run": true, "targets": ["vm-a", 7],
            "plan": {"version": PLAN_VERSION, "installation": "0123456789", "fingerprint": "sha256:f"}})
    }

    #[test]
    fn the_whole_output_and_its_data_are_the_same_plan() {
        let bare = WrittenPlan::parse(&plan().to_string()).unwrap();
        assert_eq!((bare.installation.as_str(), bare.targets.len()), ("0123456789", 1));
        assert_eq!(bare.scope, Scope::Prefix("vm-".parse().unwrap()));
        let whole = json!({"command": "cleanup", "data": plan()});
        assert_eq!(WrittenPlan::parse(&whole.to_string()), Ok(bare));
    }

    #[test]
    fn what_is_no_plan_is_told_why() {
        let with = |change: fn(&mut Value)| {
            let mut value = plan();
            change(&mut value);
            WrittenPlan::parse(&value.to_string()).unwrap_err()
        };
        assert_eq!(with(|v| v["dry_run"] = false.into()), WrittenPlanError::NotADryRun);
        assert_eq!(with(|v| v["plan"] = 1.into()), WrittenPlanError::Missing { field: "version" });
        assert_eq!(with(|v| v["plan"]["version"] = 2.into()), WrittenPlanError::OtherVersion { found: 2 });
        assert_eq!(with(|v| v["plan"]["fingerprint"] = 2.into()), WrittenPlanError::Missing { field: "fingerprint" });
        assert_eq!(with(|v| v["all"] = true.into()), WrittenPlanError::NoScope);
        assert_eq!(with(|v| v["prefix"] = "".into()), WrittenPlanError::BadPrefix);
        for text in ["", "{", "[]", "7", r#"{"command":"cleanup"}"#] {
            assert!(WrittenPlan::parse(text).is_err(), "{text}");
        }
    }
}
