//! The JSON envelope: one object, one line, the same around every command's data.

use serde::Serialize;
use serde_json::Value;

use super::{Problem, Reply};
use crate::exit;

#[derive(Serialize)]
struct Envelope<'a> {
    ok: bool,
    command: &'a str,
    exit_code: u8,
    data: &'a Value,
    error: Option<Error<'a>>,
}

#[derive(Serialize)]
struct Error<'a> {
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a Value>,
}

/// The envelope as a line.
pub(super) fn line(command: &str, reply: &Reply) -> String {
    let error = |p: &'_ Problem| (p.code().as_str(), p.one_line());
    let envelope = Envelope {
        ok: reply.exit() == exit::OK,
        command,
        exit_code: reply.exit(),
        data: reply.data(),
        error: reply.problem().map(|problem| {
            let (code, message) = error(problem);
            Error { code, message, recovery: problem.recovery(), details: problem.details() }
        }),
    };
    // Strings, numbers and string keys only: there is nothing that could fail.
    let mut text = serde_json::to_string(&envelope).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;
    use smolvm_model::error_code::ErrorCode;

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
