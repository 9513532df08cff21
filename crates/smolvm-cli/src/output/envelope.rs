//! The JSON envelope: one object, one line, the same around every command's data.

use serde::Serialize;
use serde_json::Value;

use super::Reply;
use crate::exit;

#[derive(Serialize)]
struct Error<'a> {
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a Value>,
}

/// The envelope as a line, in what stands before the data and after it: the data is JSON when it comes here, and
/// need not be copied.
pub(super) fn around(command: &str, reply: &Reply) -> (String, String) {
    let error = reply.problem().map(|problem| Error {
        code: problem.code().as_str(),
        message: problem.one_line(),
        recovery: problem.recovery(),
        details: problem.details(),
    });
    let (ok, exit_code) = (reply.exit() == exit::OK, reply.exit());
    let before = format!("{{\"ok\":{ok},\"command\":{},\"exit_code\":{exit_code},\"data\":", json(&command));
    (before, format!(",\"error\":{}}}\n", json(&error)))
}

/// Strings, numbers and string keys only: there is nothing that could fail.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Problem};
    use super::*;
    use smolvm_model::error_code::ErrorCode;

    fn line(command: &str, reply: &Reply) -> String {
        let (before, after) = around(command, reply);
        before + &reply.data().concat() + &after
    }

    #[test]
    fn success_and_failure() {
        let reply = Reply::new(Format::Json, || serde_json::json!({"a": 1}), String::new);
        assert_eq!(line("x.y", &reply), "{\"ok\":true,\"command\":\"x.y\",\"exit_code\":0,\"data\":{\"a\":1},\"error\":null}\n");
        let failed = Reply::failed(Problem::new(ErrorCode::Busy, "it is locked").hint("wait"));
        assert_eq!(
            line("x", &failed),
            "{\"ok\":false,\"command\":\"x\",\"exit_code\":1,\"data\":null,\"error\":{\"code\":\"busy\",\"message\":\"it is locked\",\"recovery\":\"wait\"}}\n"
        );
    }
}
