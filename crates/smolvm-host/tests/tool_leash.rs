//! A tool ends with its caller, however that ends.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "the test runs itself again, to be killed")]

use std::process::{Command, Stdio};
use std::time::Duration;

use smolvm_host::proc::tool::Tool;
use testkit::process::Process;

const SOON: Duration = Duration::from_secs(20);

/// Says to the second run of this program that it is the caller, and where its tool writes its pid.
const CALLER: &str = "SMOLVM_TEST_TOOL_PID";

#[test]
fn a_tool_does_not_outlive_a_caller_that_is_killed() {
    if let Ok(file) = std::env::var(CALLER) {
        let line = format!("echo $$ > '{file}'; exec sleep 1000");
        panic!("the tool ended first: {:?}", Tool::new("sh").arg("-c").arg(line).timeout(Duration::from_secs(2000)).run());
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "a_tool_does_not_outlive_a_caller_that_is_killed"]).env(CALLER, &file);
    let mut caller = again.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let tool = testkit::until("the tool is at work", SOON, || {
        let pid = std::fs::read_to_string(&file).ok()?.trim().parse().ok()?;
        Process::read(pid).filter(|process| process.argv == ["sleep", "1000"])
    });
    caller.kill().unwrap();
    caller.wait().unwrap();
    let ended = std::panic::catch_unwind(|| testkit::until("the end of the tool", SOON, || (!tool.lives()).then_some(())));
    tool.signal(rustix::process::Signal::KILL);
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
