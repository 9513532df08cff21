//! Copies of a sandbox that runs: how long they take, and how long it stands still.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::bed::Bed;
use super::figures::{Figure, ms};
use super::fork::RawFork;

const SOURCE: &str = "bench-source";
const COPY: &str = "bench-copy";
const SNAPSHOT: &str = "bench-saved";
const MEMORY: &str = "512M";
/// Copies of one command, of which all but one are further ones.
const COPIES: u32 = 5;

pub(super) fn measure(bed: &Bed) -> Result<Vec<Figure>> {
    let built = bed.json(&["template", "build", "minimal", "--memory", MEMORY, "--json"])?;
    let key = built["template"]["key"].as_str().context("template build names no key")?.to_owned();
    bed.run(&["create", "--name", SOURCE, "--image", "minimal", "--memory", MEMORY, "--start", "--quiet"])?;
    let raw = RawFork::like(bed, SOURCE, &key)?;
    // What a bench left that was killed.
    let _ = bed.run(&["snapshot", "delete", SNAPSHOT]);
    let mut figures = forks(bed, &raw)?;
    drop(raw);
    figures.extend(snapshots(bed)?);
    bed.run(&["delete", SOURCE])?;
    Ok(figures)
}

/// Fills so much of the source's memory with what no other has.
fn fill(bed: &Bed, megabytes: u32) -> Result<()> {
    bed.run(&["exec", SOURCE, "--", "sh", "-c", &format!("head -c {megabytes}000000 /dev/urandom > /dev/shm/fill")]).map(drop)
}

fn forks(bed: &Bed, raw: &RawFork) -> Result<Vec<Figure>> {
    fill(bed, 10)?;
    fork(bed, 1)?;
    raw.time(&["/bin/echo", "hi"])?;
    let (mut floor, mut first, mut further, mut halted, mut own) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bed.runs {
        floor.push(ms(raw.time(&["/bin/echo", "hi"])?.first));
        let (one, told) = fork(bed, 1)?;
        first.push(ms(one));
        halted.push(number(&told, "halted_ms")?);
        own.push(number(&told, "own_bytes")? / f64::from(1 << 20));
        let (several, _) = fork(bed, COPIES)?;
        further.push(ms(several.saturating_sub(one)) / f64::from(COPIES - 1));
    }
    Ok(vec![
        Figure::of("copy.floor", "QEMU alone, forking the source's template: from its start to the first byte of `echo hi`", "ms", &floor),
        Figure::of("copy.first", "`fork` of a running 512 MiB sandbox, until the copy has answered", "ms", &first).at_most(150.0),
        Figure::ratio("copy.ratio", "… against QEMU alone", &first, &floor),
        Figure::of("copy.further", "… each further copy of the same command", "ms", &further).at_most(70.0),
        Figure::of("copy.halted", "… how long the source stood still", "ms", &halted).at_most(40.0),
        Figure::of("copy.own", "… with so much memory of its own", "MiB", &own),
    ])
}

/// Makes so many copies; gives the time, and what the command said.
fn fork(bed: &Bed, count: u32) -> Result<(Duration, Value)> {
    let (took, text) = bed.time(&["fork", SOURCE, "--name", COPY, "--count", &count.to_string(), "--json"])?;
    let mut envelope: Value = serde_json::from_str(&text).context("fork: not JSON")?;
    let ids: Vec<String> = match count {
        1 => vec![COPY.to_owned()],
        _ => (1..=count).map(|n| format!("{COPY}-{n}")).collect(),
    };
    bed.run(&[&["delete"], &ids.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat())?;
    Ok((took, envelope["data"].take()))
}

fn snapshots(bed: &Bed) -> Result<Vec<Figure>> {
    fill(bed, 100)?;
    let (mut floor, mut saved, mut halted, mut restored, mut exec) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut size = 0.0;
    for _ in 0..bed.runs {
        let (took, text) = bed.time(&["snapshot", "create", SOURCE, "--name", SNAPSHOT, "--json"])?;
        let told: Value = serde_json::from_str(&text).context("snapshot: not JSON")?;
        saved.push(ms(took));
        halted.push(number(&told["data"], "halted_ms")?);
        let bytes = told["data"]["snapshot"]["size_bytes"].as_u64().context("snapshot tells no size")?;
        size = f64::from(u32::try_from(bytes >> 10)?) / 1024.0;
        floor.push(ms(write_and_sync(bed, bytes)?));
        let begin = Instant::now();
        bed.run(&["snapshot", "restore", SNAPSHOT, "--name", COPY])?;
        restored.push(ms(begin.elapsed()));
        bed.run(&["exec", COPY, "--", "/bin/true"])?;
        exec.push(ms(begin.elapsed()));
        bed.run(&["delete", COPY])?;
        bed.run(&["snapshot", "delete", SNAPSHOT])?;
    }
    Ok(vec![
        Figure::of("snapshot.floor", "as many bytes as a snapshot has, written to a file beside it and synced", "ms", &floor),
        Figure::of("snapshot.create", "`snapshot create` of a running 512 MiB sandbox with 100 MB of its own, synced", "ms", &saved),
        Figure::ratio("snapshot.ratio", "… against writing as many bytes", &saved, &floor).at_most(1.3),
        Figure::of("snapshot.size", "… its size", "MiB", &[size]),
        Figure::of("snapshot.halted", "… how long the sandbox stood still", "ms", &halted).at_most(100.0),
        Figure::of("snapshot.restore", "`snapshot restore`, until the guest has answered", "ms", &restored),
        Figure::of("snapshot.exec", "… and the first `exec` of `/bin/true`, too", "ms", &exec).at_most(150.0),
    ])
}

/// The least that keeping so many bytes can cost: one file, in pieces of a megabyte.
fn write_and_sync(bed: &Bed, bytes: u64) -> Result<Duration> {
    let path = bed.home.join("floor.bin");
    // Not zeros, which a file system might leave out.
    let piece: Vec<u8> = (0..1_u32 << 20).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let begin = Instant::now();
    let mut file = File::create(&path).context("the floor's file")?;
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left.min(piece.len() as u64))?;
        file.write_all(&piece[..now])?;
        left -= now as u64;
    }
    file.sync_all()?;
    let took = begin.elapsed();
    std::fs::remove_file(&path)?;
    ensure!(left == 0, "not all was written");
    Ok(took)
}

fn number(told: &Value, name: &str) -> Result<f64> {
    told[name].as_f64().with_context(|| format!("no {name}: {told}"))
}
