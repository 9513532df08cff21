//! What `/proc` says of a process, whatever the process calls itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use smolvm_host::jail::{Opens, inspect};
use smolvm_host::proc::identity::{self, Presence, Recorded, TOKEN_AT};
use smolvm_host::proc::scan;

use crate::input;

/// The lines that an inspection needs, so that the ones under test are reached.
const LIMITS: &str = "Max file size 1 2 bytes\nMax core file size 0 0 bytes\nMax open files 1 2 files\nMax processes 1 2 processes\n";

/// A process is known by its start and its words, and neither its name nor anything else it can choose hides that.
pub(crate) fn files(bytes: &[u8]) {
    let (which, rest) = input::choice(bytes);
    match which % 4 {
        0 => name(rest),
        1 => words(rest),
        2 => {
            put("stat", rest);
            if let Ok(Some(seen)) = identity::look(proc(), 7) {
                assert!(
                    String::from_utf8_lossy(rest).contains(&seen.start_ticks.to_string()) || rest.contains(&b'+') || rest.contains(&b'0')
                );
            }
        }
        _ => {
            put("status", rest);
            put("mountinfo", rest);
            put("limits", LIMITS.as_bytes());
            let uid = identity::effective_uid(proc(), 7);
            if let Ok(enforced) = inspect::read(proc(), 7, Opens::Kernel) {
                // Both read the same line: they may not tell two stories.
                assert_eq!(uid.ok().flatten(), Some(enforced.uid));
            }
        }
    }
}

/// Any name, as `prctl(PR_SET_NAME)` takes it.
fn name(name: &[u8]) {
    let stat = [b"7 (", name, b") S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 42 20 21\n"].concat();
    put("stat", &stat);
    let seen = identity::look(proc(), 7).expect("a line of the kernel's can be read").expect("it is there");
    assert_eq!((seen.start_ticks, seen.zombie), (42, false));
    let newline = name.iter().position(|b| *b == b'\n').unwrap_or(name.len());
    // The kernel writes a line break in a name as `\n`.
    let status = [b"Name:\t", &name[..newline], b"\nUid:\t5\t6\t5\t5\n"].concat();
    put("status", &status);
    assert_eq!(identity::effective_uid(proc(), 7).expect("a status of the kernel's can be read"), Some(6));
}

/// Any words: the token counts at its place alone.
fn words(cmdline: &[u8]) {
    put("cmdline", cmdline);
    put("stat", b"7 (qemu) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 42 20 21\n");
    let argv = identity::argv(proc(), 7).expect("it is there");
    let joined: String = argv.join("\0");
    let text = String::from_utf8_lossy(cmdline);
    assert_eq!(joined, text.strip_suffix('\0').unwrap_or(&text));
    let record = Recorded { pid: 7, start_ticks: 42, boot_id: "b", token: "tok" };
    let ours = argv.get(TOKEN_AT).is_some_and(|word| word == "tok") || argv.is_empty();
    assert_eq!(identity::presence(proc(), &record, "b", || Presence::Recycled), if ours { Presence::Alive } else { Presence::Recycled });
    let Ok(install) = "0123456789".parse() else { return };
    let marked = scan::marked(proc(), &install, |_| true, |_, _| true, |_, _| true).expect("a directory that is there");
    for found in marked {
        assert_eq!(found.argv[scan::MARK_AT], found.mark.to_string());
        assert!(found.pid == 7 && found.mark.install == install);
    }
}

/// A stand-in for `/proc` with one process.
fn proc() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = input::directory().join("proc");
        fs::create_dir_all(place.join("7")).expect("a directory in memory can be made");
        for file in ["stat", "status", "cmdline", "mountinfo", "limits"] {
            fs::write(place.join("7").join(file), "").expect("a file in memory can be written");
        }
        place
    })
}

fn put(file: &str, content: &[u8]) {
    fs::write(proc().join("7").join(file), content).expect("a file in memory can be written");
}
