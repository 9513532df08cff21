//! QEMU alone, forking a template: the same memory, devices and disk, and the least program that gets a command run in it.
//!
//! ```text
//!   listen ─► spawn QEMU ─► four commands on its control socket, in one write
//!                        └► attach, boot and exec on the guest's line ─► the first byte that the command wrote
//! ```
//! No jail, no record, no device to be made, no proof, nobody who waits for it afterwards: a start can be above this,
//! and none below.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smolvm_proto::{
    AgentMessage, AttachRequest, BootConfig, Channel, Decoder, Entropy, ExecRequest, Frame, FrameKind, HostMessage, NetworkConfig, Nonce,
    ReplyScanner, UnixTime, decode, encode,
};

use super::bed::Bed;
use crate::sh::{Cmd, which};

const PATIENCE: Duration = Duration::from_mins(1);
/// The TAP of the guest that is forked here.
const TAP: &str = "svfloor0";
/// Any stream will do.
const STREAM: u32 = 1;
/// Options of a sandbox's hypervisor that say whose it is, or jail it; each has one value.
const DROPPED: [&str; 5] = ["-name", "-uuid", "-sandbox", "-add-fd", "-append"];

/// A command line that forks a template.
pub(super) struct RawFork {
    qemu: PathBuf,
    args: Vec<String>,
    dir: PathBuf,
    template: PathBuf,
    has_network: bool,
}

/// How long one fork took.
pub(super) struct Took {
    /// To the first byte.
    pub(super) first: Duration,
    /// Until its process was gone.
    pub(super) gone: Duration,
}

impl RawFork {
    /// Takes everything from a running sandbox that was forked from the template with this key.
    pub(super) fn like(bed: &Bed, sandbox: &str, key: &str) -> Result<Self> {
        let pid = bed.process(sandbox, "pid")?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).context("the hypervisor's command line")?;
        let words: Vec<String> = line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
        let template = bed.home.join("cache/templates").join(key);
        let dir = bed.home.join("fork");
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let has_network = words.iter().any(|word| word.starts_with("tap,"));
        if has_network {
            // One that a bench left that was killed.
            let _ = Cmd::new("ip").args(["link", "delete", TAP]).captured();
            Cmd::new("ip").args(["tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr"]).run()?;
            Cmd::new("ip").args(["link", "set", TAP, "up"]).run()?;
        }
        let args = Self::translate(bed, sandbox, &words, &template, &dir)?;
        let qemu = which("qemu-system-x86_64").context("qemu-system-x86_64 is not installed")?.into();
        Ok(Self { qemu, args, dir, template, has_network })
    }

    /// The same machine, with paths in the place of descriptors.
    fn translate(bed: &Bed, sandbox: &str, words: &[String], template: &Path, dir: &Path) -> Result<Vec<String>> {
        let text = |path: PathBuf| path.display().to_string();
        let current = |what: &str| -> Result<PathBuf> {
            let base = bed.home.join("cache").join(what);
            let name = std::fs::read_to_string(base.join("current")).with_context(|| format!("the current {what}"))?;
            Ok(base.join(name.split_whitespace().next().unwrap_or_default().trim_start_matches("sha256:")))
        };
        let image = bed.json(&["inspect", "--json", sandbox])?;
        let digest = image["sandbox"]["image_digest"].as_str().unwrap_or_default().trim_start_matches("sha256:").to_owned();
        let disks = [
            ("filename=/dev/fdset/1", format!("filename={}", text(bed.home.join("cache/images").join(digest).join("image.ext4")))),
            ("filename=/dev/fdset/2", format!("filename={}", text(dir.join("disk")))),
            ("mem-path=/memory", format!("mem-path={}", text(template.join("memory")))),
            ("socket,id=qmp,fd=5", format!("socket,id=qmp,path={}", text(dir.join("qmp")))),
            ("socket,id=agent,fd=6", format!("socket,id=agent,path={}", text(dir.join("agent")))),
            ("socket,id=console,fd=7", "null,id=console".to_owned()),
            ("tap,id=net,fd=8,vhost=off", format!("tap,id=net,ifname={TAP},script=no,downscript=no,vhost=off")),
        ];
        let mut args = Vec::new();
        let mut at = 1;
        while let Some(word) = words.get(at) {
            if DROPPED.contains(&word.as_str()) {
                at += 2;
                continue;
            }
            let word = disks.iter().fold(word.clone(), |word, (from, to)| word.replace(from, to));
            args.push(match word.as_str() {
                "/kernel" => text(current("kernels")?.join("vmlinux")),
                "/initrd" => text(current("initramfs")?.join("initramfs.cpio")),
                _ => word,
            });
            at += 1;
        }
        ensure!(args.iter().any(|arg| arg == "-incoming"), "no fork: {words:?}");
        Ok(args)
    }

    /// Forks once, runs the command, and ends it.
    pub(super) fn time(&self, argv: &[&str]) -> Result<Took> {
        let disk = self.dir.join("disk");
        Cmd::new("cp").args(["--sparse=always", "-f"]).arg(self.template.join("disk")).arg(&disk).run()?;
        let listen = |name: &str| {
            let path = self.dir.join(name);
            std::fs::remove_file(&path).ok();
            UnixListener::bind(&path).with_context(|| path.display().to_string())
        };
        let (qmp, agent) = (listen("qmp")?, listen("agent")?);
        let devices = File::open(self.template.join("devices")).context("the template's devices")?;
        let log = File::create(self.dir.join("log")).context("a log for the hypervisor")?;
        let mut command = Command::new(&self.qemu);
        command.args(&self.args).stdin(devices).stdout(Stdio::null()).stderr(log);
        let begin = Instant::now();
        let running = Running(command.spawn().context("cannot start the hypervisor")?);
        let first = self.drive(&qmp, &agent, argv, begin);
        drop(running);
        let gone = begin.elapsed();
        let first = first.with_context(|| std::fs::read_to_string(self.dir.join("log")).unwrap_or_default())?;
        Ok(Took { first, gone })
    }

    fn drive(&self, qmp: &UnixListener, agent: &UnixListener, argv: &[&str], begin: Instant) -> Result<Duration> {
        let mut control = accept(qmp)?;
        control.write_all(
            br#"{"execute":"qmp_capabilities"}
{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"x-ignore-shared","state":true}]}}
{"execute":"migrate-incoming","arguments":{"uri":"fd:0"}}
{"execute":"cont"}
"#,
        )?;
        let mut line = accept(agent)?;
        line.set_read_timeout(Some(PATIENCE))?;
        let nonce = Nonce([7; 16]);
        let mut out = AttachRequest::new(nonce).to_bytes().to_vec();
        Frame::control(encode(&HostMessage::Boot(self.boot_config()?))?).encode_into(&mut out);
        line.write_all(&out)?;
        let mut replies = ReplyScanner::new(nonce);
        let mut decoder = None;
        let mut chunk = [0; 16 << 10];
        loop {
            let count = line.read(&mut chunk).context("the guest said nothing")?;
            ensure!(count > 0, "the hypervisor ended");
            let decoder = match &mut decoder {
                Some(decoder) => {
                    Decoder::push(decoder, &chunk[..count]);
                    decoder
                }
                None => match replies.push(&chunk[..count]) {
                    Some((_, rest)) => {
                        let mut fresh = Decoder::new();
                        fresh.push(rest);
                        decoder.insert(fresh)
                    }
                    None => continue,
                },
            };
            while let Some(frame) = decoder.next_frame()? {
                if let Some(answer) = heard(&frame, argv, begin)? {
                    match answer {
                        Heard::Ready(request) => line.write_all(&request)?,
                        Heard::Output(took) => return Ok(took),
                    }
                }
            }
        }
    }

    fn boot_config(&self) -> Result<BootConfig> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let network = self.has_network.then(|| NetworkConfig {
            mac: "02:00:00:00:00:01".to_owned(),
            address: "10.99.0.2".to_owned(),
            prefix: 32,
            gateway: "10.99.0.1".to_owned(),
            dns: vec!["10.99.0.1".to_owned()],
        });
        Ok(BootConfig {
            hostname: "floor".to_owned(),
            machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
            time: UnixTime { secs: now.as_secs(), nanos: now.subsec_nanos() },
            entropy: Entropy::new(vec![7; 64])?,
            network,
            init: None,
            data_disk: true,
        })
    }
}

impl Drop for RawFork {
    fn drop(&mut self) {
        if self.has_network {
            let _ = Cmd::new("ip").args(["link", "delete", TAP]).run();
        }
    }
}

enum Heard {
    Ready(Vec<u8>),
    Output(Duration),
}

fn heard(frame: &Frame, argv: &[&str], begin: Instant) -> Result<Option<Heard>> {
    match frame.kind {
        FrameKind::Control => match decode::<AgentMessage>(&frame.payload)? {
            AgentMessage::Ready(_) => {
                let request = ExecRequest { argv: argv.iter().map(ToString::to_string).collect(), ..ExecRequest::default() };
                let mut out = Vec::new();
                Frame::on_stream(FrameKind::Open, STREAM, request.to_payload()?).encode_into(&mut out);
                Ok(Some(Heard::Ready(out)))
            }
            AgentMessage::Failed { step, message } => bail!("the guest failed at {step}: {message}"),
            _ => Ok(None),
        },
        FrameKind::Data if frame.as_ref().channel() == Some(Channel::Stdout) => Ok(Some(Heard::Output(begin.elapsed()))),
        FrameKind::Exit | FrameKind::Reset => bail!("the command ended without a word"),
        _ => Ok(None),
    }
}

fn accept(listener: &UnixListener) -> Result<UnixStream> {
    let heard = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&Timespec::try_from(PATIENCE)?))?;
    ensure!(heard > 0, "the hypervisor did not connect in {} s", PATIENCE.as_secs());
    Ok(listener.accept()?.0)
}

/// A process that is ended with the measurement, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
