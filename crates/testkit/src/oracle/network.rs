//! What `ip` and `nft` show, without what changes by itself.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Aspect, Bag, add};

/// Counters, ages and state that the kernel moves without anybody's doing.
const RESTLESS: &[&str] = &[
    "stats",
    "stats64",
    "operstate",
    "promiscuity",
    "valid_life_time",
    "preferred_life_time",
    "tentative",
    "expires",
    "packets",
    "bytes",
    "used",
    "handle",
    "metainfo",
    "link_index",
];

pub(super) fn look() -> Result<Vec<(Aspect, Bag)>> {
    let mut routes = ip(&["-4", "route", "show", "table", "all"])?;
    routes.append(&mut ip(&["-6", "route", "show", "table", "all"])?);
    let mut rules = ip(&["-4", "rule"])?;
    rules.append(&mut ip(&["-6", "rule"])?);
    let mut names = Bag::new();
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        add(&mut names, entry.file_name().to_string_lossy().into_owned());
    }
    Ok(vec![
        (Aspect::Links, ip(&["-d", "link"])?),
        (Aspect::Addresses, addresses()?),
        (Aspect::Routes, routes),
        (Aspect::PolicyRules, rules),
        (Aspect::NamedNetns, names),
        (Aspect::Nft, nft()?),
    ])
}

fn ip(words: &[&str]) -> Result<Bag> {
    let json = json("ip", &[&["-j"], words].concat())?;
    let mut bag = Bag::new();
    for mut item in json.as_array().cloned().unwrap_or_default() {
        calm(&mut item);
        add(&mut bag, item.to_string());
    }
    Ok(bag)
}

/// One item per address, so that a report names the address and not the whole device.
fn addresses() -> Result<Bag> {
    let mut bag = Bag::new();
    for device in json("ip", &["-j", "addr"])?.as_array().into_iter().flatten() {
        for address in device["addr_info"].as_array().into_iter().flatten() {
            let text = |key: &str| address[key].as_str().unwrap_or("?");
            add(
                &mut bag,
                format!("{} {}/{} {}", device["ifname"].as_str().unwrap_or("?"), text("local"), address["prefixlen"], text("scope")),
            );
        }
    }
    Ok(bag)
}

fn nft() -> Result<Bag> {
    let mut bag = Bag::new();
    for mut item in json("nft", &["-j", "list", "ruleset"])?["nftables"].as_array().cloned().unwrap_or_default() {
        if item.get("metainfo").is_some() {
            continue;
        }
        calm(&mut item);
        add(&mut bag, item.to_string());
    }
    Ok(bag)
}

/// Takes the restless fields out, at every depth, and the flags that follow the carrier.
fn calm(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !RESTLESS.contains(&key.as_str()));
            if let Some(Value::Array(flags)) = map.get_mut("flags") {
                flags.retain(|flag| !matches!(flag.as_str(), Some("LOWER_UP" | "NO-CARRIER" | "linkdown" | "RUNNING")));
            }
            map.values_mut().for_each(calm);
        }
        Value::Array(items) => items.iter_mut().for_each(calm),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn json(program: &str, words: &[&str]) -> Result<Value> {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let output = Command::new(program).args(words).env("PATH", path).env("LC_ALL", "C").output();
    let output = output.with_context(|| format!("`{program}` is needed to see the host (cargo xtask deps --for test)"))?;
    if !output.status.success() {
        bail!("{program} {}: {}: {}", words.join(" "), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    // ip says nothing at all where it has nothing to list.
    if output.stdout.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Array(Vec::new()));
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("{program} {}: not JSON", words.join(" ")))
}
