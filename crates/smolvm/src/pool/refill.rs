//! Fills the pool behind whoever used it: a process of its own that ends when there is nothing to do.
//!
//! Its standard input is the order, its standard output the pool's lock, taken by whoever started it: so there is one at a
//! time, and who waits for the lock waits for it. Its standard error goes into the lock's file. It leaves nothing that is not
//! on record.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smolvm_host::effect::perform_once;
use smolvm_host::store::{spec_from_json, spec_to_json};
use smolvm_model::effect::Effect;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::spec::{ImageName, Spec};

use super::PoolWanted;
use super::fill::Unasked;
use crate::error::{Error, io_code};
use crate::installation::{Settings, Smolvm};

/// The one that was taken speaks first: most of what `run` is asked for is over by then.
const REST: Duration = Duration::from_millis(300);
/// Longest order that is read; a kind of sandbox takes some 300 bytes.
const ORDER_CAP: u64 = 256 << 10;

/// What is to be done.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    settings: Settings,
    wanted: Vec<Wanted>,
}

/// A kind of sandbox as the ledger writes it down, and how many of it.
#[derive(Debug, Serialize, Deserialize)]
struct Wanted {
    spec: String,
    size: usize,
}

impl Smolvm {
    /// Has the pool filled by another process, unless one is at it already. What goes wrong there is in its log.
    ///
    /// Who used an image of which nothing waits has taken nothing.
    pub fn refill_behind(&self, pool: &[PoolWanted], used: &ImageName) -> Result<(), Error> {
        if !pool.iter().any(|wanted| wanted.request.image == *used) {
            return Ok(());
        }
        let Ok(alone) = self.pool_lock(Duration::ZERO) else { return Ok(()) };
        // Of an image that is not here nothing can wait; who asks for it hears of that.
        let specs = pool.iter().filter_map(|wanted| Some((self.pool_spec(wanted).ok()?, wanted.size.get())));
        let wanted = specs.map(|(spec, size)| Wanted { spec: spec_to_json(&spec), size }).collect();
        let settings = Settings { fault: None, trace: None, ..self.settings.clone() };
        perform_once(Effect::Refill, |_| self.spawn_refill(alone.file(), &Order { settings, wanted }))
    }

    fn spawn_refill(&self, lock: &File, order: &Order) -> Result<(), Error> {
        let fail = |e: std::io::Error| Error::new(io_code(&e), "the pool cannot be filled in the background").because(e);
        let text =
            serde_json::to_vec(order).map_err(|e| Error::new(ErrorCode::Internal, "the pool's order cannot be written").because(e))?;
        // What it complains about stands in the lock itself, until the next one comes.
        lock.set_len(0).map_err(fail)?;
        let log = File::options().append(true).open(self.paths().pool_lock()).map_err(fail)?;
        #[expect(clippy::disallowed_methods, reason = "no tool to be waited for, but this program again, to go on alone")]
        let mut command = std::process::Command::new(&self.settings.program);
        command.arg0("smolvm").arg("refill").env_clear().current_dir("/").process_group(0);
        command.stdin(Stdio::piped()).stdout(lock.try_clone().map_err(fail)?).stderr(log);
        let mut child = command.spawn().map_err(fail)?;
        // The pipe holds the whole of any order that is ever given, so nobody waits here.
        let told = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(&text));
        // This process may live for hours yet, and whoever ends meanwhile shall not stay a zombie.
        // Without a thread it does until this process has ended, too, which is no reason to end a run.
        let _ = std::thread::Builder::new().spawn(move || child.wait());
        told.map_err(fail)
    }
}

/// Fills the pool as standard input says; the value is the process's exit status.
#[expect(clippy::print_stderr, reason = "standard error is the lock's file")]
pub fn refill() -> u8 {
    match carry_out() {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("{}", e.one_line());
            1
        }
    }
}

fn carry_out() -> Result<(), Error> {
    let odd = |e: String| Error::new(ErrorCode::UsageError, format!("this is started by smolvm itself: {e}"));
    let mut text = String::new();
    std::io::stdin().take(ORDER_CAP).read_to_string(&mut text).map_err(|e| odd(e.to_string()))?;
    let order: Order = serde_json::from_str(&text).map_err(|e| odd(e.to_string()))?;
    let wanted = order.wanted.iter().map(|wanted| Ok((spec_from_json(&wanted.spec)?, wanted.size)));
    let wanted: Vec<(Spec, usize)> = wanted.collect::<Result<_, String>>().map_err(odd)?;
    let vm = Smolvm::open(order.settings)?;
    std::thread::sleep(REST);
    let held = |e: std::io::Error| Error::new(io_code(&e), "the pool's lock cannot be used").because(e);
    let lock = File::from(std::io::stdout().as_fd().try_clone_to_owned().map_err(held)?);
    loop {
        let round = vm.fill(&wanted, Unasked::Leave)?;
        lock.unlock().map_err(held)?;
        // Who took one while the lock was held left the filling to this process: nothing of it is missed by a look without the lock.
        if !vm.goes_on(&round, &wanted)? || lock.try_lock().is_err() {
            return Ok(());
        }
    }
}
