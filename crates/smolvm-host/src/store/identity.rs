//! Who a process is, as an entry of the ledger holds it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use smolvm_model::ledger::ProcessIdentity;
use smolvm_model::name::LaunchToken;

use super::record::to_json;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct IdentityJson<'a> {
    pid: u32,
    start_ticks: u64,
    #[serde(borrow)]
    boot_id: Cow<'a, str>,
    #[serde(borrow)]
    token: Cow<'a, str>,
}

impl<'a> IdentityJson<'a> {
    fn read(text: &'a str) -> Result<Self, String> {
        Self::as_written(text).map_or_else(|| serde_json::from_str(text).map_err(|e| e.to_string()), Ok)
    }

    /// The very text that smolvm writes, taken apart in one pass: `list` reads twenty thousand of them, and for the
    /// general parser that was a fifth of its work. Whatever looks different in any way is `None`, and left to that.
    fn as_written(text: &'a str) -> Option<Self> {
        let (pid, rest) = number(text.strip_prefix(r#"{"pid":"#)?)?;
        let (start_ticks, rest) = number(rest.strip_prefix(r#","start_ticks":"#)?)?;
        let (boot_id, rest) = word(rest.strip_prefix(r#","boot_id":""#)?)?;
        let (token, rest) = word(rest.strip_prefix(r#"","token":""#)?)?;
        (rest == r#""}"#).then_some(())?;
        Some(Self { pid: u32::try_from(pid).ok()?, start_ticks, boot_id: boot_id.into(), token: token.into() })
    }
}

/// A number without a leading zero, and what follows it.
fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.bytes().position(|b| !b.is_ascii_digit())?;
    let (digits, rest) = text.split_at(end);
    if digits.len() > 1 && digits.starts_with('0') {
        return None;
    }
    Some((digits.parse().ok()?, rest))
}

/// A string in which nothing is escaped, and what follows it.
fn word(text: &str) -> Option<(&str, &str)> {
    let (word, rest) = text.split_at(text.find('"')?);
    word.bytes().all(|b| b >= b' ' && b != b'\\').then_some((word, rest))
}

pub(super) fn identity_to_json(identity: &ProcessIdentity) -> String {
    to_json(&IdentityJson {
        pid: identity.pid,
        start_ticks: identity.start_ticks,
        boot_id: identity.boot_id.as_str().into(),
        token: identity.token.as_str().into(),
    })
}

pub(super) fn identity_from_json(text: &str) -> Result<ProcessIdentity, String> {
    let json = IdentityJson::read(text)?;
    let token: LaunchToken = json.token.parse().map_err(|e| format!("{e}: {:?}", json.token.chars().take(100).collect::<String>()))?;
    Ok(ProcessIdentity {
        pid: json.pid,
        start_ticks: json.start_ticks,
        boot_id: json.boot_id.into_owned(),
        token: token.as_str().to_owned(),
    })
}

/// The pid alone, for a process of which no more is shown.
pub(super) fn pid_from_json(text: &str) -> Result<u32, String> {
    IdentityJson::read(text).map(|json| json.pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SOUND: &str = r#"{"pid":12,"start_ticks":34,"boot_id":"3fe40f28-6d9e","token":"0a-1b"}"#;

    fn by_the_parser(text: &str) -> Option<IdentityJson<'_>> {
        serde_json::from_str(text).ok()
    }

    #[test]
    fn what_is_written_is_taken_apart_and_anything_else_is_left_to_the_parser() {
        let identity = ProcessIdentity { pid: 1, start_ticks: u64::MAX, boot_id: "a-b".to_owned(), token: "c".to_owned() };
        let written = identity_to_json(&identity);
        assert!(IdentityJson::as_written(&written).is_some(), "{written}");
        for other in [
            &SOUND.replace("12", "012"),
            &SOUND.replace("12", "+12"),
            &SOUND.replace("12", "4294967296"),
            &SOUND.replace("0a", "0\\u0061"),
            &SOUND.replace("0a", "\n"),
            &SOUND.replace(',', ", "),
            &SOUND.replace('}', r#","more":1}"#),
            &SOUND.replace('}', "} "),
            &SOUND[..SOUND.len() - 1],
            &SOUND[..12],
        ] {
            assert_eq!(IdentityJson::as_written(other), None, "{other}");
        }
        // Which of them is an identity all the same is for the parser to say.
        assert_eq!(pid_from_json(&SOUND.replace(',', ", ")), Ok(12));
        assert!(pid_from_json(&SOUND.replace("12", "012")).is_err());
    }

    proptest! {
        /// A sound text with one place overwritten: what is taken apart is what the parser says of it.
        #[test]
        fn both_ways_say_the_same(at in 0..SOUND.len(), with in "[0-9a-f{}\":,\\\\ -]{0,2}", cut in 0..3_usize) {
            let end = (at + cut).min(SOUND.len());
            let text = [&SOUND[..at], &with, &SOUND[end..]].concat();
            if let Some(taken_apart) = IdentityJson::as_written(&text) {
                prop_assert_eq!(Some(taken_apart), by_the_parser(&text));
            }
        }
    }
}
