//! Processes that cannot be killed for a while: what a hypervisor in uninterruptible sleep looks like.
//!
//! A process that is frozen by the first version of control groups takes no signal, SIGKILL included, until it is
//! thawed. The second version lets a frozen process die, so a host that has only that has no such processes to offer.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

const ROOT: &str = "/sys/fs/cgroup/freezer";

/// A group of frozen processes; dropping it thaws them and takes the group away.
#[derive(Debug)]
pub struct Freezer {
    group: PathBuf,
}

impl Freezer {
    /// An empty group; `None` where this kernel has none of this kind.
    pub fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !Path::new(ROOT).join("cgroup.procs").exists() {
            return None;
        }
        let name = format!("smolvm-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let group = Path::new(ROOT).join(name);
        std::fs::create_dir(&group).expect("a control group; this needs root");
        Some(Self { group })
    }

    /// Freezes a process with all its threads.
    pub fn freeze(&self, pid: i32) {
        self.write("cgroup.procs", &pid.to_string());
        self.write("freezer.state", "FROZEN");
        crate::until("the process is frozen", Duration::from_secs(10), || (self.state() == "FROZEN").then_some(()));
    }

    /// Lets all of them go on.
    pub fn thaw(&self) {
        self.write("freezer.state", "THAWED");
    }

    fn state(&self) -> String {
        std::fs::read_to_string(self.group.join("freezer.state")).expect("the group's state").trim().to_owned()
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.group.join(file), text).unwrap_or_else(|e| panic!("{text} to {file} of the control group: {e}"));
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = std::fs::write(self.group.join("freezer.state"), "THAWED");
        // Whoever still lives goes back to where everybody is; a process that just dies is gone a moment later.
        for _ in 0..100 {
            let left = std::fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
            for pid in left.lines() {
                let _ = std::fs::write(Path::new(ROOT).join("cgroup.procs"), pid);
            }
            if std::fs::remove_dir(&self.group).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}
