//! Rows of the ledger, as somebody may have written them.

use smolvm_host::config_file::Written;
use smolvm_host::fuzzing::store;
use smolvm_host::store::{Exit, Failure, Run};
use smolvm_model::name::LaunchToken;
use smolvm_model::spec::{VarName, parse_pair};

use crate::input;

/// A row that is read is one that a person could have asked for, and is written and read the same.
pub(crate) fn rows(bytes: &[u8]) {
    let (which, rest) = input::choice(bytes);
    let text = input::text(rest);
    match which % 3 {
        0 => {
            let Ok(spec) = store::spec(text) else { return };
            assert_eq!(store::spec(&store::spec_text(&spec)).as_ref(), Ok(&spec));
            for (name, value) in &spec.env {
                assert!(parse_pair::<VarName>(&format!("{name}={value}")).is_ok(), "no argument could say {name}={value:?}");
            }
        }
        1 => {
            let Ok(identity) = store::identity(text) else { return };
            assert!(identity.token.parse::<LaunchToken>().is_ok());
            assert_eq!(store::identity(&store::identity_text(&identity)), Ok(identity));
        }
        _ => {
            if let Ok(run) = serde_json::from_str::<Run>(text) {
                assert_eq!(serde_json::to_string(&run).ok().and_then(|json| serde_json::from_str(&json).ok()), Some(run));
            }
            if let Ok(exit) = serde_json::from_str::<Exit>(text) {
                assert_eq!(serde_json::to_string(&exit).ok().and_then(|json| serde_json::from_str(&json).ok()), Some(exit));
            }
            if let Ok(failure) = serde_json::from_str::<Failure>(text) {
                assert_eq!(serde_json::to_string(&failure).ok().and_then(|json| serde_json::from_str(&json).ok()), Some(failure));
            }
        }
    }
}

/// What was set is read, and nothing else has changed.
pub(crate) fn config(bytes: &[u8]) {
    const SET: &str = "sandbox.memory";
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Some((before, after)) = smolvm_host::config_file::parse_and_edit(text, ("sandbox", "memory"), "1G") else { return };
    let others = |all: &[Written]| -> Vec<(String, String)> {
        let mut others: Vec<_> = all.iter().filter(|w| !w.key.starts_with(SET)).map(|w| (w.key.clone(), w.value.clone())).collect();
        others.sort();
        others
    };
    assert_eq!(others(&before), others(&after));
    let set: Vec<&str> = after.iter().filter(|w| w.key == SET).map(|w| w.value.as_str()).collect();
    assert_eq!(set, ["1G"], "{after:?}");
}
