//! What a command may answer: an envelope, a code of docs/errors.md, and the exit status that goes with it.

use serde_json::Value;
use smolvm_model::error_code::ErrorCode;
use testkit::Ran;

use super::envelope;

/// The answer of `smolvm VERB … --json`, its shape and its exit status checked; `None` when it succeeded.
#[track_caller]
pub(crate) fn failure(verb: &str, ran: &Ran) -> Option<ErrorCode> {
    let answer = envelope(ran);
    if answer["ok"] == true {
        return None;
    }
    let word = answer["error"]["code"].as_str().unwrap_or_default();
    let code = ErrorCode::ALL.into_iter().find(|code| code.as_str() == word).unwrap_or_else(|| panic!("{word:?} is no code\n{ran}"));
    let status = ran.code().unwrap_or(-1);
    let usual = i32::from(code.exit_status());
    let holds = match verb {
        // Before the guest's command ran, and otherwise its own status, which may be any.
        "run" | "exec" => status == 125 || matches!(code, ErrorCode::GuestError | ErrorCode::PartialFailure | ErrorCode::Timeout),
        "delete" | "cleanup" => status == if matches!(usual, 2 | 130) { usual } else { 1 },
        _ => status == usual,
    };
    assert!(holds, "the exit status {status} does not go with {code}\n{ran}");
    Some(code)
}

/// The codes in the list `failed` of `delete` or `cleanup`.
pub(crate) fn failed_codes(ran: &Ran) -> Vec<String> {
    let answer: Value = envelope(ran);
    let failed = answer["data"]["failed"].as_array().cloned().unwrap_or_default();
    failed.iter().map(|one| one["code"].as_str().unwrap_or("no code").to_owned()).collect()
}
