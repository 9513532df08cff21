//! What the numbers were measured on.

use anyhow::Result;
use serde_json::{Value, json};

use super::bed::Bed;
use crate::sh::Cmd;

/// The machine as data; the results show it as a list.
pub(super) fn describe(bed: &Bed) -> Result<Value> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |key: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let mut accelerator = check(bed, "accelerator")?;
    let hypervisor = check(bed, "hypervisor")?;
    Ok(json!({
        "date": Cmd::new("date").args(["-u", "+%FT%TZ"]).stdout()?.trim(),
        "commit": Cmd::new("git").args(["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "--short=12", "HEAD"]).stdout().unwrap_or_default().trim(),
        "processor": field("model name"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": Cmd::new("uname").arg("-r").stdout()?.trim(),
        "load": std::fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next(),
        "hypervisor": hypervisor["summary"],
        "accelerator": accelerator["summary"].take(),
        "accelerator_evidence": accelerator["evidence"].take(),
        "smolvm": bed.run(&["--version"])?.trim(),
    }))
}

/// One of the doctor's checks; the doctor itself may well find something to fail.
fn check(bed: &Bed, id: &str) -> Result<Value> {
    let output = bed.command(&bed.smolvm, &["doctor", "--json"]).output()?;
    let envelope: Value = serde_json::from_slice(&output.stdout)?;
    let checks = envelope["data"]["checks"].as_array().cloned().unwrap_or_default();
    Ok(checks.into_iter().find(|check| check["id"] == id).unwrap_or(Value::Null))
}
