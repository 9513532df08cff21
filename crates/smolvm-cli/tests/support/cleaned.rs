//! What `cleanup --json` said.

use std::collections::BTreeSet;

use serde_json::Value;
use testkit::Ran;

use super::envelope;

/// The answer, its shape checked.
#[derive(Debug, Clone)]
pub(crate) struct Cleaned {
    pub(crate) code: i32,
    pub(crate) data: Value,
    pub(crate) error: Value,
    shown: String,
}

impl Cleaned {
    /// Reads the output of `cleanup --json`; every field of the contract must be there with its type.
    #[track_caller]
    pub(crate) fn of(ran: &Ran) -> Self {
        let envelope = envelope(ran);
        assert_eq!(envelope["command"], "cleanup", "{ran}");
        let data = envelope["data"].clone();
        let shown = ran.to_string();
        if !data.is_null() {
            assert!(ran.stderr.is_empty(), "one object on stdout and nothing else\n{ran}");
            check_shape(&data, &shown);
        }
        Self { code: ran.code().unwrap_or(-1), data, error: envelope["error"].clone(), shown }
    }

    /// Fails unless everything went well.
    #[track_caller]
    pub(crate) fn assert_ok(&self) -> &Self {
        assert!(self.code == 0 && self.failed().is_empty(), "{}", self.shown);
        self
    }

    /// Fails unless it reports a partial failure: status 1, `partial_failure`, and data all the same.
    #[track_caller]
    pub(crate) fn assert_partial(&self) -> &Self {
        assert!(self.code == 1 && self.error["code"] == "partial_failure" && !self.data.is_null(), "{}", self.shown);
        self
    }

    /// The ids in a list of them.
    #[track_caller]
    pub(crate) fn ids(&self, key: &str) -> Vec<&str> {
        let list = self.data[key].as_array().unwrap_or_else(|| panic!("no list {key:?}: {}", self.shown));
        list.iter().map(|id| id.as_str().expect("an id")).collect()
    }

    pub(crate) fn targets(&self) -> Vec<&str> {
        self.ids("targets")
    }

    pub(crate) fn deleted(&self) -> Vec<&str> {
        self.ids("deleted")
    }

    pub(crate) fn stale(&self) -> Vec<&str> {
        self.ids("reconciled_stale_ids")
    }

    /// Id and code of each failure.
    pub(crate) fn failed(&self) -> Vec<(&str, &str)> {
        self.list("failed").iter().map(|f| (f["vm_id"].as_str().unwrap_or("?"), f["code"].as_str().unwrap_or("?"))).collect()
    }

    /// The failure of one id.
    #[track_caller]
    pub(crate) fn failure(&self, id: &str) -> &Value {
        self.list("failed").iter().find(|f| f["vm_id"] == id).unwrap_or_else(|| panic!("no failure of {id:?}: {}", self.shown))
    }

    /// Kinds of the orphans of one sandbox, and whether each was removed.
    pub(crate) fn orphans_of(&self, mark: &str) -> BTreeSet<(&str, bool)> {
        let of = self.list("orphans").iter().filter(|orphan| orphan["owner"] == mark);
        of.map(|orphan| (orphan["kind"].as_str().unwrap_or("?"), orphan["removed"] == true)).collect()
    }

    /// Kinds and outcomes of the steps of one sandbox, in order.
    pub(crate) fn steps_of(&self, id: &str) -> Vec<(&str, &str)> {
        let of = self.list("steps").iter().filter(|step| step["id"] == id);
        of.map(|step| (step["kind"].as_str().unwrap_or("?"), step["outcome"].as_str().unwrap_or("?"))).collect()
    }

    pub(crate) fn list(&self, key: &str) -> &[Value] {
        self.data[key].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// Everything, for the message of an assertion.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }
}

/// The contract's shape, field by field.
#[track_caller]
fn check_shape(data: &Value, shown: &str) {
    let check = |holds: bool, what: &str| assert!(holds, "{what}\n{shown}");
    check(data["all"].is_boolean(), "`all` is a boolean");
    check(data["dry_run"].is_boolean(), "`dry_run` is a boolean");
    let null = data["all"] == true;
    check(data["prefix"].is_null() == null && (null || data["prefix"].is_string()), "`prefix` is text, and null with --all");
    for key in ["reconciled_stale_ids", "targets", "deleted"] {
        let ids: Option<Vec<&str>> = data[key].as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        check(ids.as_ref().is_some_and(|ids| ids.is_sorted()), "lists of ids are lists of text, sorted");
    }
    let objects = |key: &str| -> Vec<Value> {
        check(data[key].is_array(), key);
        data[key].as_array().cloned().unwrap_or_default()
    };
    for failed in objects("failed") {
        check(["vm_id", "error", "code"].iter().all(|key| failed[key].is_string()), "failed: vm_id, error and code are text");
        for key in ["step", "recovery"] {
            check(failed.get(key).is_some_and(|value| value.is_string() || value.is_null()), "failed: step and recovery are text or null");
        }
    }
    for orphan in objects("orphans") {
        check(["kind", "key", "owner"].iter().all(|key| orphan[key].is_string()), "orphans: kind, key and owner are text");
        check(orphan["removed"].is_boolean(), "orphans: removed is a boolean");
    }
    for step in objects("steps") {
        check(["id", "kind", "key", "outcome"].iter().all(|key| step[key].is_string()), "steps: id, kind, key and outcome are text");
        let planned = step["outcome"] == "planned";
        check(planned == (data["dry_run"] == true), "steps are `planned` in a dry run and only there");
    }
    let summary = &data["summary"];
    for key in ["target_count", "deleted_count", "failed_count", "freed_bytes", "duration_ms"] {
        check(summary[key].is_u64(), "the summary's fields are numbers");
    }
    let count = |key: &str| data[key].as_array().map(Vec::len).unwrap_or_default() as u64;
    for (key, list) in [("target_count", "targets"), ("deleted_count", "deleted"), ("failed_count", "failed")] {
        check(summary[key] == count(list), "the summary counts what is listed");
    }
    check(data["dry_run"] == false || count("deleted") == 0, "a dry run deletes nothing");
}
