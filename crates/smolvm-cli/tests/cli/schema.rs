//! The published schemas, and real output held against them.
//!
//! The subset of JSON Schema that they use is small, so its validator is here: a crate for all of it
//! brings dozens of packages. It is closed where the standard is open: a field that no schema names
//! fails, so that the schemas cannot fall behind the code.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Holds an envelope against its schema, and its data against that of its command.
#[track_caller]
pub(crate) fn check_envelope(envelope: &Value) {
    let mut wrong = Vec::new();
    check(&load("envelope"), envelope, "$", &mut wrong);
    if envelope["data"].is_object() {
        check(&load(envelope["command"].as_str().unwrap()), &envelope["data"], "$.data", &mut wrong);
    }
    if (envelope["ok"] == true) != envelope["error"].is_null() || (envelope["ok"] == true) != (envelope["exit_code"] == 0) {
        wrong.push("ok, error and exit_code do not agree".to_owned());
    }
    assert!(wrong.is_empty(), "{wrong:#?}\n{envelope:#}");
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas")
}

fn load(name: &str) -> Value {
    let path = directory().join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn check(schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
    let schema = schema.as_object().unwrap_or_else(|| panic!("{at}: a schema is an object"));
    for (keyword, rule) in schema {
        match keyword.as_str() {
            "$schema" | "title" | "description" | "required" | "additionalProperties" => {}
            "$ref" => check(&load(rule.as_str().unwrap().trim_end_matches(".json")), value, at, wrong),
            "type" => {
                if !types(rule).iter().any(|name| is_of(name, value)) {
                    wrong.push(format!("{at}: {value} is not {rule}"));
                }
            }
            "enum" => {
                if !rule.as_array().unwrap().contains(value) {
                    wrong.push(format!("{at}: {value} is none of {rule}"));
                }
            }
            "minimum" => {
                if value.as_i64().is_some_and(|n| n < rule.as_i64().unwrap()) {
                    wrong.push(format!("{at}: {value} is below {rule}"));
                }
            }
            "maximum" => {
                if value.as_i64().is_some_and(|n| n > rule.as_i64().unwrap()) {
                    wrong.push(format!("{at}: {value} is above {rule}"));
                }
            }
            // The one pattern is that of ids, which the model checks; here only that it is not empty.
            "pattern" => {
                if value.as_str().is_some_and(str::is_empty) {
                    wrong.push(format!("{at}: is empty"));
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(rule, item, &format!("{at}[{index}]"), wrong);
                }
            }
            "properties" => properties(schema, rule.as_object().unwrap(), value, at, wrong),
            "anyOf" => any_of(rule.as_array().unwrap(), value, at, wrong),
            other => panic!("{at}: the validator does not know {other:?}"),
        }
    }
    if !schema.contains_key("properties")
        && let (Some(Value::Object(rest)), Some(object)) = (schema.get("additionalProperties"), value.as_object())
    {
        for (name, member) in object {
            check(&Value::Object(rest.clone()), member, &format!("{at}.{name}"), wrong);
        }
    }
}

fn properties(schema: &Map<String, Value>, rules: &Map<String, Value>, value: &Value, at: &str, wrong: &mut Vec<String>) {
    let Some(object) = value.as_object() else { return };
    for name in schema["required"].as_array().unwrap() {
        if !object.contains_key(name.as_str().unwrap()) {
            wrong.push(format!("{at}: {name} is missing"));
        }
    }
    for (name, member) in object {
        match rules.get(name) {
            Some(rule) => check(rule, member, &format!("{at}.{name}"), wrong),
            None => wrong.push(format!("{at}: no schema names {name:?}")),
        }
    }
}

fn any_of(rules: &[Value], value: &Value, at: &str, wrong: &mut Vec<String>) {
    let mut all = Vec::new();
    for rule in rules {
        let mut complaints = Vec::new();
        check(rule, value, at, &mut complaints);
        if complaints.is_empty() {
            return;
        }
        all.extend(complaints);
    }
    wrong.push(format!("{at}: fits none: {}", all.join("; ")));
}

fn types(rule: &Value) -> Vec<&str> {
    match rule {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().map(|name| name.as_str().unwrap()).collect(),
        other => panic!("{other} is no type"),
    }
}

fn is_of(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("the validator does not know the type {other:?}"),
    }
}

#[test]
fn the_validator_sees_what_is_wrong() {
    let schema: Value = serde_json::json!({
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 1}, "b": {"anyOf": [{"type": "null"}, {"enum": ["x"]}]}, "c": {"type": "array", "items": {"type": "string"}},
            "d": {"type": "object", "additionalProperties": {"type": "string"}}},
        "required": ["a"],
    });
    let complaints = |value: Value| {
        let mut wrong = Vec::new();
        check(&schema, &value, "$", &mut wrong);
        wrong.len()
    };
    assert_eq!(complaints(serde_json::json!({"a": 1, "b": null, "c": ["x"], "d": {"k": "v"}})), 0);
    for bad in [
        serde_json::json!({}),
        serde_json::json!({"a": 0}),
        serde_json::json!({"a": "1"}),
        serde_json::json!({"a": 1, "b": "y"}),
        serde_json::json!({"a": 1, "c": [1]}),
        serde_json::json!({"a": 1, "d": {"k": 1}}),
        serde_json::json!({"a": 1, "new": 1}),
        serde_json::json!([]),
    ] {
        assert_eq!(complaints(bad.clone()), 1, "{bad}");
    }
}

#[test]
fn every_error_code_is_in_the_schema() {
    let codes: BTreeSet<String> = smolvm_model::error_code::ErrorCode::ALL.iter().map(ToString::to_string).collect();
    for (schema, place) in
        [("envelope", "/properties/error/anyOf/1/properties/code/enum"), ("cleanup", "/properties/failed/items/properties/code/enum")]
    {
        let listed = load(schema).pointer(place).unwrap().as_array().unwrap().iter().map(|c| c.as_str().unwrap().to_owned()).collect();
        assert_eq!(codes, listed, "schemas/{schema}.json");
    }
}

#[test]
fn every_schema_is_one_and_says_what_it_is_of() {
    for entry in std::fs::read_dir(directory()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let schema = load(name.trim_end_matches(".json"));
        assert!(schema["title"].is_string(), "{name}");
        let mut wrong = Vec::new();
        // Visits every keyword: an unknown one panics.
        check(&schema, &Value::Null, "$", &mut wrong);
    }
}
