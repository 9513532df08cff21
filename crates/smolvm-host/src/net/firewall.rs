//! Who else decides about forwarded packets: other chains at the same hook, which may drop what smolvm accepts.
//!
//! In nftables every chain at a hook is asked; one that drops is enough. smolvm cannot accept in their
//! place, so `doctor` names them and the command that lets guests through.

use serde_json::Value;

use super::nft::{self, NftError};
use crate::proc::tool::{Tool, ToolError};

/// A chain of somebody else's that drops by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    /// Whose it looks like.
    pub manager: Manager,
    /// Where packets are dropped.
    pub hook: Hook,
    /// The chain, as `family table chain`.
    pub chain: String,
    /// The commands that let guests through; each can be given twice.
    pub fix: Vec<String>,
}

/// Who made a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// The Docker engine.
    Docker,
    /// ufw.
    Ufw,
    /// firewalld.
    Firewalld,
    /// An administrator's own, or one of the iptables programs.
    Unknown,
}

/// A hook that guests' packets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// From guests to the world and back.
    Forward,
    /// From guests to the name service.
    Input,
}

/// The wildcard that names every TAP of every installation, in the notation of iptables.
const TAPS: &str = "svt+";

/// Lists the chains that drop guests' packets unless told otherwise; empty on most hosts.
///
/// A dropping policy or a final rule that drops is seen; a rule in the middle that happens to hit guests is not.
pub fn blockers() -> Result<Vec<Blocker>, NftError> {
    let output = nft::run(Tool::new("nft").args(["-j", "list", "ruleset"]))?;
    let mut found = judge(&nft::objects(&output.stdout)?);
    found.extend(legacy()?);
    Ok(found)
}

/// Judges the objects of a listed ruleset.
pub(super) fn judge(objects: &[Value]) -> Vec<Blocker> {
    let has_chain = |name: &str| objects.iter().any(|o| o["chain"]["name"] == name);
    let docker = has_chain("DOCKER-USER");
    let ufw = has_chain("ufw-before-forward") || has_chain("ufw-before-input");
    objects
        .iter()
        .filter_map(|object| {
            let chain = &object["chain"];
            let hook = match chain["hook"].as_str()? {
                "forward" => Hook::Forward,
                "input" => Hook::Input,
                _ => return None,
            };
            let (family, table, name) = (chain["family"].as_str()?, chain["table"].as_str()?, chain["name"].as_str()?);
            let ipv4 = matches!(family, "ip" | "inet");
            if !ipv4 || table.starts_with("smolvm_") || !drops(objects, chain) {
                return None;
            }
            let manager = match table {
                "firewalld" => Manager::Firewalld,
                _ if ufw => Manager::Ufw,
                _ if docker && hook == Hook::Forward => Manager::Docker,
                _ => Manager::Unknown,
            };
            if lets_guests_in(objects, chain, manager, hook) {
                return None;
            }
            let iptables = family == "ip" && table == "filter" && name == name.to_uppercase();
            Some(Blocker {
                manager,
                hook,
                chain: format!("{family} {table} {name}"),
                fix: fix(manager, hook, [family, table, name], iptables),
            })
        })
        .collect()
}

/// Whether a chain drops what no rule of it accepts: by policy, or by a last rule without a condition.
fn drops(objects: &[Value], chain: &Value) -> bool {
    let in_chain = |rule: &&Value| ["family", "table"].iter().all(|k| rule[k] == chain[k]) && rule["chain"] == chain["name"];
    let last = objects.iter().filter_map(|o| o.get("rule")).rfind(in_chain);
    let unconditional = |rule: &Value| {
        rule["expr"].as_array().is_some_and(|expr| {
            let ends = expr.last().is_some_and(|e| e.get("drop").is_some() || e.get("reject").is_some());
            ends && expr[..expr.len() - 1].iter().all(|e| e.get("counter").is_some() || e.get("log").is_some())
        })
    };
    chain["policy"] == "drop" || last.is_some_and(unconditional)
}

/// Whether the fix is there already: a rule about our TAPs, in the chain where the fix puts it.
fn lets_guests_in(objects: &[Value], chain: &Value, manager: Manager, hook: Hook) -> bool {
    let place = entrance(manager, hook).or(chain["name"].as_str());
    objects.iter().filter_map(|o| o.get("rule")).any(|rule| {
        let here = rule["family"] == chain["family"] && rule["table"] == chain["table"];
        let there = manager == Manager::Firewalld || rule["chain"].as_str() == place;
        let about_taps = |e: &Value| e["match"]["left"]["meta"]["key"] == "iifname" && e["match"]["right"] == "svt*";
        here && there && rule["expr"].as_array().is_some_and(|expr| expr.iter().any(about_taps))
    })
}

/// The chain that a manager keeps for an administrator's own rules.
fn entrance(manager: Manager, hook: Hook) -> Option<&'static str> {
    match (manager, hook) {
        (Manager::Docker, _) => Some("DOCKER-USER"),
        (Manager::Ufw, Hook::Forward) => Some("ufw-user-forward"),
        (Manager::Ufw, Hook::Input) => Some("ufw-user-input"),
        (Manager::Firewalld | Manager::Unknown, _) => None,
    }
}

fn fix(manager: Manager, hook: Hook, [family, table, name]: [&str; 3], iptables: bool) -> Vec<String> {
    let lines = |lines: &[String]| lines.to_vec();
    let insert = |program: &str, chain: &str| {
        let rule = |rule: String| format!("{program} -C {chain} {rule} 2>/dev/null || {program} -I {chain} {rule}");
        match hook {
            Hook::Forward => {
                vec![rule(format!("-i {TAPS} -j ACCEPT")), rule(format!("-o {TAPS} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"))]
            }
            Hook::Input => ["udp", "tcp"].iter().map(|p| rule(format!("-i {TAPS} -p {p} --dport 53 -j ACCEPT"))).collect(),
        }
    };
    if let Some(chain) = entrance(manager, hook) {
        return insert("iptables", chain);
    }
    match (manager, hook) {
        // firewalld knows no wildcards in commands, but its interface patterns end in a plus like those of iptables.
        (Manager::Firewalld, _) => {
            lines(&[format!("firewall-cmd --permanent --zone=trusted --add-interface={TAPS}"), "firewall-cmd --reload".to_owned()])
        }
        (_, _) if iptables => insert("iptables", name),
        (_, Hook::Forward) => lines(&[
            format!("nft insert rule {family} {table} {name} oifname 'svt*' ct state established,related accept"),
            format!("nft insert rule {family} {table} {name} iifname 'svt*' accept"),
        ]),
        (_, Hook::Input) => {
            lines(&[format!("nft insert rule {family} {table} {name} iifname 'svt*' meta l4proto '{{ tcp, udp }}' th dport 53 accept")])
        }
    }
}

/// The older iptables keeps rules that `nft` does not list; asked only where its program and its tables are there.
fn legacy() -> Result<Vec<Blocker>, NftError> {
    let in_use = std::fs::read_to_string("/proc/net/ip_tables_names").is_ok_and(|names| names.lines().any(|name| name == "filter"));
    if !in_use {
        return Ok(Vec::new());
    }
    let listed = match Tool::new("iptables-legacy-save").args(["-t", "filter"]).run() {
        Ok(output) => output.text(),
        Err(ToolError::Missing { .. }) => return Ok(Vec::new()),
        Err(e) => return Err(NftError::Tool(e)),
    };
    let (docker, ufw) = (listed.contains(":DOCKER-USER "), listed.contains(":ufw-user-forward "));
    let blocker = |name: &str, hook| {
        let manager = match hook {
            _ if ufw => Manager::Ufw,
            Hook::Forward if docker => Manager::Docker,
            _ => Manager::Unknown,
        };
        let fix = fix(manager, hook, ["ip", "filter", name], true);
        Blocker {
            manager,
            hook,
            chain: format!("iptables-legacy filter {name}"),
            fix: fix.into_iter().map(|line| line.replace("iptables -", "iptables-legacy -")).collect(),
        }
    };
    let drops = |name: &str| listed.lines().any(|line| line.starts_with(&format!(":{name} DROP")));
    let mended = |name: &str, hook| {
        let manager = if ufw { Manager::Ufw } else { Manager::Docker };
        let place = entrance(manager, hook).filter(|_| ufw || docker).unwrap_or(name);
        listed.lines().any(|line| line.starts_with(&format!("-A {place} -i {TAPS} ")) && line.ends_with("-j ACCEPT"))
    };
    let hooks = [("FORWARD", Hook::Forward), ("INPUT", Hook::Input)];
    Ok(hooks.into_iter().filter(|(name, hook)| drops(name) && !mended(name, *hook)).map(|(name, hook)| blocker(name, hook)).collect())
}
