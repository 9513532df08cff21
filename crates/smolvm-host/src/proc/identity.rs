//! Who a process is: pid, kernel start time, boot id and launch token together.
//!
//! A pid alone is a number that the kernel hands out again; a start time alone repeats after a
//! reboot; a token alone can be copied into any argv. Only all of them together are a proof, and
//! what cannot be read is *unknown*, never "gone".
//!
//! The first three are the kernel's word, which no process changes. The token lies in the process's own memory, which a
//! hypervisor that a guest has broken out into may overwrite: where it is missing and the other three fit, the caller judges
//! by what such a process cannot change either, its uid.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use rustix::io::{read, retry_on_intr};

use super::shift::unshifted;
use crate::effect::trusts_pids;

/// Bytes of `/proc/PID/cmdline` that are read: our own argv is below 8 KiB, the token stands near its start.
const CMDLINE_CAP: usize = 64 << 10;

/// The argv element that carries the launch token, in the hypervisor's argv (the value of `-uuid`) and in the monitor's.
pub const TOKEN_AT: usize = 4;

/// What the kernel says of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Clock ticks since the host's boot at which it started (field 22 of `/proc/PID/stat`). Time that the host sleeps is in it
    /// for all alike, so a start time stays what it is.
    pub start_ticks: u64,
    /// It has ended and waits to be reaped.
    pub zombie: bool,
}

/// The answer to "is it still that process?".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// It is. So is one that is just exiting: until it is a zombie it may hold its disk and its TAP.
    Alive,
    /// There is no process of that pid, or it is a zombie.
    Gone,
    /// The pid belongs to another process now.
    Recycled,
    /// The evidence cannot be read.
    Unknown {
        /// What was to be read and why it could not.
        evidence: String,
    },
}

/// A process as it was recorded when it was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded<'a> {
    /// Its pid in the caller's pid namespace.
    pub pid: u32,
    /// Its start time in ticks.
    pub start_ticks: u64,
    /// The boot it was started in.
    pub boot_id: &'a str,
    /// The token that stands in its argv at [`TOKEN_AT`].
    pub token: &'a str,
}

/// Reads a process's start time and whether it is a zombie; `None` when there is no such process.
pub fn look(proc: &Path, pid: u32) -> std::io::Result<Option<Seen>> {
    match text_of(&proc.join(pid.to_string()).join("stat")) {
        Ok(stat) => parse_stat(&stat).map(Some).ok_or_else(|| ErrorKind::InvalidData.into()),
        // ESRCH: it ended between open and read.
        Err(e) if e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(None),
        Err(e) => Err(e),
    }
}

/// A process calls itself what it likes, and need not do it in UTF-8.
fn text_of(path: &Path) -> std::io::Result<String> {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Compares the record with what is there now; `with_other_words` judges a process that is the recorded one by the kernel's word,
/// and not by its own.
pub fn presence(proc: &Path, recorded: &Recorded<'_>, boot_id: &str, with_other_words: impl FnOnce() -> Presence) -> Presence {
    if recorded.boot_id != boot_id {
        return Presence::Gone;
    }
    let unknown = |what: &str, e: &std::io::Error| Presence::Unknown { evidence: format!("/proc/{}/{what}: {e}", recorded.pid) };
    let seen = match look(proc, recorded.pid) {
        Ok(None) => return Presence::Gone,
        Ok(Some(seen)) => seen,
        Err(e) => return unknown("stat", &e),
    };
    if trusts_pids() {
        return Presence::Alive;
    }
    if seen.start_ticks != recorded.start_ticks {
        return Presence::Recycled;
    }
    if seen.zombie {
        return Presence::Gone;
    }
    match argv(proc, recorded.pid) {
        Ok(args) if args.get(TOKEN_AT).is_some_and(|token| token == recorded.token) => Presence::Alive,
        // Same pid, same start, no memory any more: it is exiting, and its files are closed after its memory.
        Ok(args) if args.is_empty() => Presence::Alive,
        // A pid that comes again within the same tick of the clock looks like this, too.
        Ok(_) => with_other_words(),
        Err(e) if e.kind() == ErrorKind::NotFound => Presence::Gone,
        Err(e) => unknown("cmdline", &e),
    }
}

/// A process's argument vector, capped; every element at its place, empty ones too.
///
/// Read at once: the kernel looks for the process's memory at each read, and one that exits between two of them would seem to have
/// other words than its own, only the first of them. With one read it has all or none.
pub fn argv(proc: &Path, pid: u32) -> std::io::Result<Vec<String>> {
    let file = std::fs::File::open(proc.join(pid.to_string()).join("cmdline"))?;
    let mut bytes = Vec::with_capacity(CMDLINE_CAP);
    retry_on_intr(|| read(&file, spare_capacity(&mut bytes)))?;
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let text = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    Ok(text.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect())
}

/// The uid with whose rights a process acts; `None` when there is no such process.
///
/// Read from the text and not from the file's owner: that is root for a process that may not be dumped.
pub fn effective_uid(proc: &Path, pid: u32) -> std::io::Result<Option<u32>> {
    let status = match text_of(&proc.join(pid.to_string()).join("status")) {
        Ok(status) => status,
        Err(e) if e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => return Ok(None),
        Err(e) => return Err(e),
    };
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let effective = uids.and_then(|uids| uids.split_ascii_whitespace().nth(1)?.parse().ok());
    effective.map(Some).ok_or_else(|| ErrorKind::InvalidData.into())
}

/// The file a process executes, if that may be read.
pub fn executable(proc: &Path, pid: u32) -> std::io::Result<PathBuf> {
    std::fs::read_link(proc.join(pid.to_string()).join("exe"))
}

/// Clock ticks that a process has spent, in its own code and in the kernel's; from the text of its `stat`.
pub(super) fn processor_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let own: u64 = fields.nth(11)?.parse().ok()?;
    Some(own.saturating_add(fields.next()?.parse().ok()?))
}

fn parse_stat(stat: &str) -> Option<Seen> {
    // The second field is the name in parentheses and may itself hold spaces and parentheses.
    let rest = stat.get(stat.rfind(')')? + 1..)?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let shown = fields.nth(18)?.parse().ok()?;
    Some(Seen { start_ticks: unshifted(shown), zombie: matches!(state, "Z" | "X" | "x") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(stat: &str, cmdline: &[u8]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("7")).unwrap();
        std::fs::write(dir.path().join("7/stat"), stat).unwrap();
        std::fs::write(dir.path().join("7/cmdline"), cmdline).unwrap();
        dir
    }

    fn stat(name: &str, state: char, start: u64) -> String {
        format!("7 ({name}) {state} 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 {start} 20 21")
    }

    const OURS: &[u8] = b"x\0-name\0m\0-uuid\0tok\0-S\0";
    const RECORD: Recorded<'static> = Recorded { pid: 7, start_ticks: 42, boot_id: "b", token: "tok" };

    #[test]
    fn all_parts_must_agree() {
        let table = [
            (stat("qemu", 'S', 42), OURS.to_vec(), Presence::Alive),
            (stat("a) Z 9 (b", 'S', 42), OURS.to_vec(), Presence::Alive),
            // It exits: its memory is gone, its files are not.
            (stat("qemu", 'R', 42), b"".to_vec(), Presence::Alive),
            (stat("qemu", 'Z', 42), b"".to_vec(), Presence::Gone),
            (stat("qemu", 'S', 43), OURS.to_vec(), Presence::Recycled),
            (stat("qemu", 'S', 43), b"".to_vec(), Presence::Recycled),
            (stat("qemu", 'Z', 42), b"x\0-name\0m\0-uuid\0tok2\0".to_vec(), Presence::Gone),
            (stat("qemu", 'S', 43), b"x\0-name\0m\0-uuid\0tok2\0".to_vec(), Presence::Recycled),
            (stat("qemu", 'S', 42), b"x\0\0\0\0tok\0".to_vec(), Presence::Alive),
        ];
        for (stat, cmdline, want) in table {
            assert_eq!(presence(fake(&stat, &cmdline).path(), &RECORD, "b", || Presence::Recycled), want, "{stat}");
        }
    }

    /// Its words are its own memory, and it may write there what it likes.
    #[test]
    fn who_changes_its_words_is_judged_by_something_else() {
        // The token at another place than its own proves nothing, and empty words move nothing.
        for words in [&b"x\0-name\0m\0-uuid\0tok2\0"[..], b"x\0tok\0", b"x\0\0-name\0m\0-uuid\0tok\0", b"innocent\0"] {
            let judged = |stat: &str, by: Presence| presence(fake(stat, words).path(), &RECORD, "b", || by);
            for by in [Presence::Alive, Presence::Recycled] {
                assert_eq!(judged(&stat("qemu", 'S', 42), by.clone()), by, "{words:?}");
                assert_eq!(judged(&stat("qemu", 'S', 43), by.clone()), Presence::Recycled);
                assert_eq!(judged(&stat("qemu", 'Z', 42), by), Presence::Gone);
            }
        }
    }

    /// What is not read at once is lost, as with a process that exits between two reads: a pipe of packets does the same.
    #[test]
    fn one_that_exits_while_it_is_looked_at_has_all_of_its_words_or_none() {
        let words =
            [&b"/usr/libexec/smolvm\0monitor\0a-mark-of-some-forty-characters-or-more-of-ours\0-\0tok\0"[..], &[b'x'; 200]].concat();
        let dir = fake(&stat("smolvm", 'S', 42), b"");
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::DIRECT | rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        rustix::io::write(&writer, &words).unwrap();
        drop(writer);
        std::fs::remove_file(dir.path().join("7/cmdline")).unwrap();
        let open = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        std::os::unix::fs::symlink(open, dir.path().join("7/cmdline")).unwrap();
        assert_eq!(presence(dir.path(), &RECORD, "b", || Presence::Recycled), Presence::Alive);
        assert_eq!(presence(dir.path(), &RECORD, "b", || Presence::Recycled), Presence::Alive, "no words any more: it exits");
    }

    #[test]
    fn another_boot_is_gone_whatever_runs() {
        assert_eq!(presence(fake(&stat("qemu", 'S', 42), OURS).path(), &RECORD, "other", || Presence::Recycled), Presence::Gone);
    }

    #[test]
    fn unreadable_evidence_is_unknown_and_absence_is_gone() {
        assert!(matches!(presence(fake("garbage", b"").path(), &RECORD, "b", || Presence::Recycled), Presence::Unknown { .. }));
        assert_eq!(presence(tempfile::tempdir().unwrap().path(), &RECORD, "b", || Presence::Recycled), Presence::Gone);
    }

    #[test]
    fn reads_this_very_process() {
        let me = look(Path::new("/proc"), std::process::id()).unwrap().unwrap();
        assert!(me.start_ticks > 0 && !me.zombie);
        assert!(!argv(Path::new("/proc"), std::process::id()).unwrap().is_empty());
        assert_eq!(effective_uid(Path::new("/proc"), std::process::id()).unwrap(), Some(rustix::process::geteuid().as_raw()));
    }

    #[test]
    fn a_name_that_is_no_text_hides_nothing() {
        let dir = fake("", OURS);
        let stat = [b"7 (\xff\xfe) ".as_slice(), b"S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 43 20 21"].concat();
        std::fs::write(dir.path().join("7/stat"), stat).unwrap();
        assert_eq!(presence(dir.path(), &RECORD, "b", || Presence::Recycled), Presence::Recycled);
        std::fs::write(dir.path().join("7/status"), b"Name:\t\xff\nUid:\t1\t2\t1\t1\n").unwrap();
        assert_eq!(effective_uid(dir.path(), 7).unwrap(), Some(2));
    }
}
