//! Pulling an image from a registry on the loopback, beside what people do it with today.
//!
//! ```text
//!   mmdebstrap ─► a tree ─► two tars ─► umoci: an OCI layout ─► skopeo ─► docker-registry      (before anything is measured)
//!
//!   in turn:   skopeo copy + umoci raw unpack ─► a tree        smolvm image pull ─► a file system        smolvm image pull, again
//! ```
//!
//! Both sides write to the same disk, and nothing of an earlier turn is left when one begins. What is compared with does not have to make a
//! file system, nor to sync; `umoci raw unpack` leaves out the record of the tree that `umoci unpack` makes.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::bed::Bed;
use super::figures::{Figure, ms};
use super::reap::reap;
use crate::sh::{Cmd, step};

/// What is in the image beside Debian's smallest.
const PACKAGES: &str = "python3,git,curl,ca-certificates";
/// What the second layer has; the rest is in the first.
const SECOND: [&str; 2] = ["./usr/share", "./usr/lib/python3*"];
const MIB: f64 = 1024.0 * 1024.0;

/// Makes what is pulled, where the network is; kept for the next bench.
pub(super) fn prepare(bed: &Bed) -> Result<()> {
    let place = place(bed);
    if place.join("layout/index.json").exists() {
        return Ok(());
    }
    step("making a Debian image to pull");
    clear(&place)?;
    std::fs::create_dir_all(&place)?;
    let tree = place.join("tree");
    let include = format!("--include={PACKAGES}");
    Cmd::new("mmdebstrap").args(["--quiet", "--variant=minbase", "--format=directory", &include, &codename()?]).arg(&tree).run()?;
    let [first, second] = ["first.tar", "second.tar"].map(|name| place.join(name));
    let without = SECOND.map(|path| format!("--exclude={path}"));
    let tar = || Cmd::new("tar").arg("-C").arg(&tree).args(["--xattrs", "--sort=name"]);
    tar().args(without).arg("-cf").arg(&first).arg(".").run()?;
    let wanted = SECOND.join(" ");
    // The shell finds what the patterns stand for.
    Cmd::new("sh").args(["-c", &format!("tar --xattrs --sort=name -cf \"$0\" {wanted}")]).arg(&second).dir(&tree).run()?;
    let making = place.join("making");
    let image = format!("{}:bench", making.display());
    Cmd::new("umoci").args(["init", "--layout"]).arg(&making).run()?;
    Cmd::new("umoci").args(["new", "--image", &image]).run()?;
    for layer in [&first, &second] {
        Cmd::new("umoci").args(["--log", "error", "raw", "add-layer", "--image", &image]).arg(layer).run()?;
    }
    for gone in [&tree, &first, &second] {
        clear(gone)?;
    }
    Ok(std::fs::rename(&making, place.join("layout"))?)
}

/// The host's own release: what its keyring knows.
fn codename() -> Result<String> {
    let text = std::fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(line.context("a release without a name")?.trim_matches('"').to_owned())
}

pub(super) fn measure(bed: &Bed) -> Result<Vec<Figure>> {
    let registry = Registry::start(&place(bed))?;
    let name = format!("127.0.0.1:{}/bench/debian:1", registry.port);
    let source = format!("oci:{}:bench", place(bed).join("layout").display());
    skopeo(&["--dest-tls-verify=false", &source, &format!("docker://{name}")])?;
    let work = place(bed).join("work");
    let (mut theirs, mut ours, mut again, mut peak) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bed.runs {
        clear(&work)?;
        std::fs::create_dir(&work)?;
        Cmd::new("sync").run()?;
        theirs.push(ms(take_theirs(&name, &work)?));
        clear(&work)?;
        Cmd::new("sync").run()?;
        let pulled = pull(bed, &name)?;
        ours.push(pulled.0);
        peak.push(pulled.1);
        again.push(ms(bed.time(&["image", "pull", "--quiet", &name])?.0));
        bed.run(&["image", "rm", &name])?;
    }
    let size = sizes(bed, &name)?;
    Ok(vec![
        Figure::of("image.packed", "the image's layers, gzip", "MiB", &[size.0]),
        Figure::of("image.size", "… the file system that they come to", "MiB", &[size.1]),
        Figure::of("image.theirs", "`skopeo copy` from a registry on the loopback and `umoci raw unpack`", "ms", &theirs),
        Figure::of("image.pull", "`image pull` of the same, synced", "ms", &ours),
        Figure::ratio("image.ratio", "… against `skopeo copy` and `umoci raw unpack`", &ours, &theirs).at_most(0.7),
        Figure::of("image.memory", "… its memory at the largest", "MiB", &peak).at_most(200.0),
        Figure::of("image.again", "`image pull` of a tag that has not changed", "ms", &again).at_most(50.0),
    ])
}

fn take_theirs(name: &str, work: &Path) -> Result<Duration> {
    let begin = Instant::now();
    let layout = format!("oci:{}:bench", work.join("layout").display());
    skopeo(&["--src-tls-verify=false", &format!("docker://{name}"), &layout])?;
    let image = format!("{}:bench", work.join("layout").display());
    Cmd::new("umoci").args(["--log", "error", "raw", "unpack", "--image", &image]).arg(work.join("tree")).run()?;
    Ok(begin.elapsed())
}

/// How long a pull took, and its memory at the largest.
fn pull(bed: &Bed, name: &str) -> Result<(f64, f64)> {
    let begin = Instant::now();
    let child = bed.command(&bed.smolvm, &["image", "pull", "--quiet", name]).stdout(Stdio::null()).spawn().context("cannot run smolvm")?;
    let reaped = reap(child)?;
    ensure!(reaped.status.success(), "image pull: {}", reaped.status);
    Ok((ms(begin.elapsed()), reaped.peak_mib))
}

/// Of the layers, and of what is made of them.
fn sizes(bed: &Bed, name: &str) -> Result<(f64, f64)> {
    bed.run(&["image", "pull", "--quiet", name])?;
    let image = bed.json(&["image", "inspect", "--json", name])?["image"].take();
    bed.run(&["image", "rm", name])?;
    let layers = image["origin"]["layers"].as_array().context("an image without layers")?;
    ensure!(layers.len() == 2, "two layers, and not {}", layers.len());
    let packed = layers.iter().filter_map(|layer| layer["size_bytes"].as_f64()).sum::<f64>();
    Ok((packed / MIB, image["image"]["size_bytes"].as_f64().context("an image without a size")? / MIB))
}

fn skopeo(words: &[&str]) -> Result<()> {
    Cmd::new("skopeo").args(["--insecure-policy", "copy", "--quiet"]).args(words).run()
}

fn place(bed: &Bed) -> PathBuf {
    bed.home.join("image")
}

/// Removes it, whatever it is.
fn clear(path: &Path) -> Result<()> {
    // A tree of a distribution, with directories that only root may enter.
    Cmd::new("rm").args(["-rf", "--one-file-system"]).arg(path).run()
}

/// Debian's `docker-registry` on a port of the loopback.
struct Registry {
    child: Child,
    port: u16,
    data: PathBuf,
}

impl Registry {
    fn start(place: &Path) -> Result<Self> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let (data, file) = (place.join("registry"), place.join("registry.yml"));
        clear(&data)?;
        let storage = format!("version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\n", data.display());
        std::fs::write(&file, format!("{storage}http:\n  addr: 127.0.0.1:{port}\n"))?;
        let mut command = std::process::Command::new("docker-registry");
        command.arg("serve").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Self { child: command.spawn().context("cannot run docker-registry")?, port, data };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(Instant::now() < deadline, "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = clear(&self.data);
    }
}
