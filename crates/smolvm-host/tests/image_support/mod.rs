//! Runs image builds in other processes: killed half-way, on a full disk, without a network, as another user.
//!
//! A test binary runs itself again with `--exact helper` and a job in its environment; the binary's
//! `helper` test calls [`run_job`], which does nothing when there is no job.

#![allow(dead_code, clippy::unwrap_used, clippy::print_stdout, reason = "for tests; each binary uses its own part")]

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use smolvm_host::effect::permitted;
use smolvm_host::image::registry::ImportOptions;
use smolvm_host::image::{
    BuiltIn, DebianRecipe, ImageError, Progress, Renew, debootstrap, host_suite, make_data_disk, prepare_image, prepare_kernel,
};
use smolvm_host::proc::tool::Tool;
use smolvm_model::effect::Effect;
use smolvm_model::reference::{Reference, Registry};

const JOB: &str = "SMOLVM_IMAGE_JOB";
const CACHE: &str = "SMOLVM_IMAGE_CACHE";
const FILL: &str = "SMOLVM_IMAGE_FILL";
const TIMEOUT: Duration = Duration::from_secs(280);
/// Somebody who has no rights.
const NOBODY: &str = "65534";

/// A cache that all tests share: builds in it are done once, under the locks that are being tested.
pub(crate) fn shared_cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("image-cache")
}

/// A fresh cache with the shared one's package lists, so that only packages are downloaded again.
pub(crate) fn fresh_cache() -> tempfile::TempDir {
    prepare_image(&shared_cache(), BuiltIn::Minimal, Renew::IfMissing, &mut |_| {}).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let copied = Tool::new("cp").arg("-a").arg(shared_cache().join("apt")).arg(cache.path().join("apt")).run_ok();
    copied.unwrap();
    cache
}

/// Where a job runs.
pub(crate) enum Place<'a> {
    /// Here.
    Host,
    /// Without any network.
    NoNetwork,
    /// With a cache on a file system of this many MiB.
    SmallDisk(u32),
    /// Where this program cannot be executed.
    Without(&'a str),
    /// As a user without rights, but with a range of subordinate uids.
    Nobody,
    /// As a user without even that.
    NobodyWithoutRange,
}

/// Runs a job to its end and gives back what it printed.
pub(crate) fn job(place: &Place<'_>, job: &str, cache: &Path, fill_at: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("job");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    // Reachable for nobody.
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let mut setup = String::from("set -eu\n");
    let mut namespaces = vec!["--mount"];
    let mut user = String::new();
    match place {
        Place::Host => {}
        Place::NoNetwork => namespaces.push("--net"),
        Place::SmallDisk(mib) => writeln!(setup, "mount -t tmpfs -o size={mib}m none {}", cache.display()).unwrap(),
        Place::Without(tool) => writeln!(setup, "mount --bind /dev/null {tool}").unwrap(),
        Place::Nobody | Place::NobodyWithoutRange => {
            let range = if matches!(place, Place::Nobody) { "nobody:300000:65536\n".to_owned() } else { String::new() };
            std::fs::write(directory.path().join("sub"), range).unwrap();
            for file in ["subuid", "subgid"] {
                writeln!(setup, "mount --bind {}/sub /etc/{file}", directory.path().display()).unwrap();
            }
            user = format!("setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --");
            std::os::unix::fs::chown(cache, Some(65534), Some(65534)).unwrap();
        }
    }
    if !rustix::process::geteuid().is_root() {
        // A user tests as themselves, and mounts in a namespace of their own.
        assert!(user.is_empty(), "this test needs root to become somebody without rights");
        namespaces.push("--map-root-user");
    }
    writeln!(setup, "exec {user} {} --exact helper --nocapture", program.display()).unwrap();
    let run = Tool::new("unshare").args(namespaces).args(["sh", "-c", &setup]);
    let output = run.env(JOB, job).env(CACHE, cache).env(FILL, fill_at).timeout(TIMEOUT).run().unwrap();
    let text = output.text() + &String::from_utf8_lossy(&output.stderr);
    text.lines().find_map(|line| line.strip_prefix("outcome: ")).unwrap_or_else(|| panic!("the job said nothing:\n{text}")).to_owned()
}

/// Starts a job, kills it with SIGKILL as soon as `seen` matches, and reaps it.
pub(crate) fn kill_job_when(job: &str, cache: &Path, mut seen: impl FnMut() -> bool) {
    let mut child = spawn(job, cache);
    let deadline = Instant::now() + TIMEOUT;
    while !seen() {
        assert!(Instant::now() < deadline, "the moment to kill {job} never came");
        assert!(child.try_wait().unwrap().is_none(), "{job} ended before it could be killed");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[expect(clippy::disallowed_methods, reason = "the tool wrapper waits for the end; this is killed before")]
fn spawn(job: &str, cache: &Path) -> Child {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "helper"]).env(JOB, job).env(CACHE, cache).env(FILL, "");
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The job of this process, if it has one.
#[expect(clippy::disallowed_methods, reason = "a job is told what to do by its environment")]
pub(crate) fn run_job() {
    let Ok(job) = std::env::var(JOB) else { return };
    let cache = PathBuf::from(std::env::var(CACHE).unwrap());
    let fill_at = std::env::var(FILL).unwrap();
    let mut report = |progress: Progress| {
        if !fill_at.is_empty() && progress.detail.contains(&fill_at) {
            fill(&cache);
        }
    };
    let result = match job.as_str() {
        "kernel" => prepare_kernel(&cache, Renew::Always, &mut report).map(|kernel| kernel.release),
        "minimal" => prepare_image(&cache, BuiltIn::Minimal, Renew::Always, &mut report).map(|image| image.digest.to_string()),
        "debian" => prepare_image(&cache, BuiltIn::Debian, Renew::Always, &mut report).map(|image| image.path.display().to_string()),
        "recipe" => {
            let recipe = DebianRecipe { suite: host_suite().unwrap(), packages: vec!["netbase".parse().unwrap()] };
            let reference = Reference::parse("localhost/mine:1", &Registry::default()).unwrap();
            debootstrap(&cache, &reference, &recipe, ImportOptions::default(), &mut report)
                .map(|made| made.image.path.display().to_string())
        }
        "disk" => permitted(Effect::DataDisk, |permit| make_data_disk(permit, &cache, 8 << 30, &cache.join("data.img")))
            .unwrap()
            .map(|disk| disk.allocated_bytes.to_string()),
        other => panic!("no such job: {other}"),
    };
    println!("\noutcome: {}", result.map_or_else(|error| describe(&error), |value| format!("ok {value}")));
}

fn describe(error: &ImageError) -> String {
    format!("failed full={} missing={:?} {error:?}", error.is_disk_full(), error.missing_tool()).replace('\n', " ")
}

/// Takes all the space there is.
fn fill(cache: &Path) {
    let Ok(mut file) = File::create(cache.join("filler")) else { return };
    for size in [1 << 20, 4096, 1] {
        let chunk = vec![1; size];
        while file.write_all(&chunk).is_ok() {}
    }
}
