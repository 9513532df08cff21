//! The monitor's part in the jail's tests: one thread, the production launch code, and then whatever
//! the test asks for. One JSON object on standard output says what was started.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::num::{NonZeroU8, NonZeroU32};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use smolvm_host::disk::OpenDisk;
use smolvm_host::effect::permitted;
use smolvm_host::engine::accel;
use smolvm_host::engine::launch::{self, LaunchRequest, Launched, Memory, NetAttach, Place, outcome};
use smolvm_host::engine::probe::Engine;
use smolvm_host::engine::qmp::Qmp;
use smolvm_host::jail::{Enforced, JailIdentity};
use smolvm_model::effect::Effect;
use smolvm_model::engine::{Accelerator, MachineShape, NetKind};
use smolvm_model::name::{LaunchToken, MacAddr};
use standin::Targets;

/// What to do, read from standard input's first line.
#[derive(Deserialize)]
struct Job {
    engine: Option<PathBuf>,
    cache: PathBuf,
    kernel: PathBuf,
    initramfs: PathBuf,
    root: PathBuf,
    data: PathBuf,
    /// `null`: the caller's own.
    uid: Option<u32>,
    memory_mib: u32,
    net: bool,
    token: String,
    targets: Option<Targets>,
    then: After,
}

/// What happens once the hypervisor runs.
#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum After {
    /// Copy the console to standard output until the hypervisor ends.
    Console,
    /// Ask QMP for the status, say so, then stay until killed.
    Stay,
    /// Wait for `READY` on the console, then quit through QMP.
    Quit,
    /// Wait until the guest opens the agent's port, then quit through QMP.
    Port,
}

#[derive(Serialize)]
struct Started {
    pid: u32,
    start_ticks: u64,
    exe: (u64, u64),
    find_us: u128,
    launch_us: u128,
    enforced: Enforced,
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "a program of the tests")]
fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            println!("{}", serde_json::json!({ "error": text }));
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout, reason = "a program of the tests")]
fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let job: Job = serde_json::from_str(&line)?;
    let before = Instant::now();
    let engine = Engine::find(job.engine.as_deref(), &job.cache)?;
    let speed = accel::host_speed(&job.cache, "test");
    let find_us = before.elapsed().as_micros();
    let data = OpenOptions::new().read(true).write(true).open(&job.data)?;
    let limit = data.metadata()?.len();
    let frames = UnixStream::pair()?;
    let memory = match job.targets.as_ref().and_then(|targets| targets.template.as_ref()) {
        None => Memory::Anonymous,
        Some(template) => Memory::Forked { memory: File::open(&template.memory)?, devices: File::open(&template.devices)? },
    };
    let place = Place {
        engine: &engine,
        shape: MachineShape {
            cpus: NonZeroU8::MIN,
            memory_mib: NonZeroU32::new(job.memory_mib).ok_or("no memory")?,
            accelerator: Accelerator::Tcg,
        },
        memory: memory.in_argv(),
        kernel: &job.kernel,
        initramfs: &job.initramfs,
        identity: job.uid.map_or(JailIdentity::Caller, JailIdentity::Uid),
    };
    let request = LaunchRequest {
        mark: &"smolvm:0123456789:jail-test".parse()?,
        token: &job.token.parse::<LaunchToken>()?,
        memory,
        tsc_khz: speed.tsc_khz,
        root_image: File::open(&job.root)?,
        data_disk: OpenDisk { write: data, read: File::open(&job.data)?, below: Vec::new(), limit },
        net: job.net.then(|| NetAttach { fd: frames.0.into(), kind: NetKind::Stream, mac: MacAddr::local([1, 2, 3, 4, 5]) }),
    };
    let start = Instant::now();
    let mut vm = permitted(Effect::Hypervisor, |permit| {
        launch::prepare(&place).and_then(|prepared| launch::start(permit, prepared, request)).and_then(|started| started.believe(None))
    })??;
    let started = Started {
        pid: vm.pid,
        start_ticks: vm.start_ticks,
        exe: vm.exe,
        find_us,
        launch_us: start.elapsed().as_micros(),
        enforced: vm.enforced.clone(),
    };
    println!("{}", serde_json::to_string(&started)?);
    if let Some(targets) = &job.targets {
        let mut text = serde_json::to_vec(targets)?;
        text.push(b'\n');
        vm.agent.write_all(&text)?;
    }
    after(&job.then, vm, start)
}

/// Processor time of all threads of a process.
fn cpu_us(pid: u32) -> std::io::Result<u64> {
    let mut nanos = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        nanos += text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(nanos / 1000)
}

#[allow(clippy::print_stdout, reason = "a program of the tests")]
fn after(then: &After, vm: Launched, start: Instant) -> Result<(), Box<dyn std::error::Error>> {
    let console = File::from(vm.console);
    match then {
        After::Console => {
            for line in BufReader::new(console).lines() {
                println!("{}", line?);
            }
            let mut words = String::new();
            File::from(vm.stderr).read_to_string(&mut words)?;
            println!("{}", serde_json::json!({ "outcome": outcome(&vm.pidfd).to_string(), "stderr": words }));
        }
        After::Stay => {
            let mut qmp = Qmp::resume(vm.qmp, Duration::from_secs(10));
            println!("{}", qmp.execute("query-status", None)?);
            loop {
                std::thread::park();
            }
        }
        After::Port => {
            let mut qmp = Qmp::resume(vm.qmp, Duration::from_mins(1));
            while qmp.event()?.0 != "VSERPORT_CHANGE" {}
            println!("{}", serde_json::json!({ "port_us": start.elapsed().as_micros(), "cpu_us": cpu_us(vm.pid)? }));
            let _ = qmp.execute("quit", None);
            println!("{}", serde_json::json!({ "outcome": outcome(&vm.pidfd).to_string() }));
        }
        After::Quit => {
            let mut seen = String::new();
            for line in BufReader::new(console).lines() {
                let line = line?;
                if line.contains("READY") {
                    println!("{}", serde_json::json!({ "ready_us": start.elapsed().as_micros() }));
                    break;
                }
                seen.push_str(&line);
            }
            let mut qmp = Qmp::resume(vm.qmp, Duration::from_secs(10));
            // It may be powering off by itself already.
            let _ = qmp.execute("quit", None);
            println!("{}", serde_json::json!({ "outcome": outcome(&vm.pidfd).to_string(), "console": seen }));
        }
    }
    Ok(())
}
