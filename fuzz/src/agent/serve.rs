//! The agent's end of the line.

#[path = "../../../crates/smolvm-agent/src/serve/link.rs"]
pub(crate) mod link;
#[path = "../../../crates/smolvm-agent/src/serve/outbox.rs"]
pub(crate) mod outbox;
