//! `inspect`: one sandbox with everything that is known of it.

use clap::Args;
use serde_json::{Value, json};
use smolvm::inspect::Inspection;
use smolvm::view::SandboxView;
use smolvm_model::name::SandboxId;
use smolvm_model::quantity::display_bytes;

use super::Verbal;
use super::list::state;
use crate::args::Common;
use crate::context::Context;
use crate::output::{Format, Problem, Reply, pairs};

/// Show one sandbox: state, processes, network, jail
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  smolvm inspect build --json")]
pub(crate) struct Inspect {
    /// The sandbox
    #[arg(value_name = "NAME")]
    name: SandboxId,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Inspect {
    const PATH: &'static str = "sandbox.inspect";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let found = context.open_unsettled()?.inspect(&self.name)?;
        let data = || {
            let (sandbox, holds) = (&found.sandbox, &found.holds);
            json!({"sandbox": sandbox, "enforced": found.enforced, "software": found.software, "holds": holds, "steps": found.steps})
        };
        let text = || if self.common.quiet { format!("{}\n", found.sandbox.id) } else { text(&found, self.common.verbose) };
        Ok(Reply::new(self.format(), data, text))
    }
}

fn text(found: &Inspection, verbose: bool) -> String {
    let s = &found.sandbox;
    let mut facts = what_it_is(s);
    facts.extend(how_it_started(found));
    facts.extend(what_it_runs_in(found));
    facts.extend(how_it_ended(s));
    if verbose {
        facts.push(("digest", s.image_digest.clone()));
        facts.extend(found.holds.iter().map(|held| ("holds", format!("{} {} ({})", held.kind, held.key, held.status))));
    }
    pairs(&facts)
}

/// A word and what is to be said of it.
type Fact = (&'static str, String);

fn what_it_is(s: &SandboxView) -> Vec<Fact> {
    let mut facts = vec![("id", s.id.clone()), ("state", state(s)), ("image", s.image.clone())];
    facts.extend(s.unknown.clone().map(|evidence| ("unknown", evidence)));
    let memory = display_bytes(u64::from(s.memory_mib) << 20);
    let cpus = if s.cpus == 1 { "cpu" } else { "cpus" };
    facts.push(("size", format!("{} {cpus}, {memory} memory, {} disk", s.cpus, display_bytes(s.disk_bytes))));
    facts.extend(s.init.then(|| ("init", "the image's own, beside the agent".to_owned())));
    facts.push(("created", s.created_at.clone()));
    facts.extend(s.expires_at.clone().map(|at| ("expires", at)));
    if !s.labels.is_empty() {
        facts.push(("labels", s.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")));
    }
    facts
}

fn how_it_started(found: &Inspection) -> Vec<Fact> {
    let s = &found.sandbox;
    let mut facts = Vec::new();
    if let Some(accelerator) = &s.accelerator {
        let reason = s.accelerator_reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        facts.push(("accelerator", format!("{accelerator}{reason}")));
    }
    if let Some(reason) = &s.started_from_reason {
        let booted = s.started_from == "cold";
        facts.push(("origin", if booted { format!("booted: {reason}") } else { reason.clone() }));
    }
    if !found.steps.is_empty() {
        let millis = |us: u64| us.div_ceil(1000);
        let steps: Vec<String> = found.steps.iter().map(|step| format!("{} {}", step.step, millis(step.us))).collect();
        let all = millis(found.steps.iter().map(|step| step.us).sum());
        facts.push(("start", format!("{all} ms: {}", steps.join(", "))));
    }
    facts
}

fn what_it_runs_in(found: &Inspection) -> Vec<Fact> {
    let s = &found.sandbox;
    let mut facts = Vec::new();
    if let Some(process) = &s.process {
        let monitor = process.monitor_pid.map(|pid| format!(", monitor {pid}")).unwrap_or_default();
        facts.push(("process", format!("{}{monitor}", process.pid)));
    }
    let network = s.network.as_ref().map(|network| {
        let parts = [Some(network.mode), network.address.as_deref(), network.tap.as_deref(), network.mac.as_deref()];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    });
    facts.push(("network", network.unwrap_or_else(|| "none".to_owned())));
    if let Some(software) = &found.software {
        facts.push(("software", format!("kernel {}, hypervisor {}, agent {}", software.kernel, software.hypervisor, software.agent)));
    }
    if let Value::Object(enforced) = &found.enforced {
        facts.push(("jail", enforced.iter().map(|(what, how)| format!("{what} {}", word(how))).collect::<Vec<_>>().join(", ")));
    }
    facts
}

fn how_it_ended(s: &SandboxView) -> Vec<Fact> {
    let mut facts = Vec::new();
    if let Some(exit) = &s.exit {
        let code = exit.code.map(|code| format!(", status {code}")).unwrap_or_default();
        let signal = exit.signal.map(|signal| format!(", signal {signal}")).unwrap_or_default();
        facts.push(("exit", format!("{}{code}{signal} at {}", exit.kind, exit.at)));
    }
    if let Some(failure) = &s.failure {
        facts.push(("failure", format!("{} ({}): {}", failure.during, failure.code, failure.message)));
    }
    facts
}

fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
