//! Stands in the hypervisor's place and tries to get out.
//!
//! Called with QEMU's argument vector it greets on the control socket, reads its [`Targets`] from the
//! agent's socket and reports on the console's. Called as `standin --outside < targets.json` it makes
//! the same attempts without a jail, each in a process of its own: the control that shows that they can succeed.

mod attempts;
mod sys;
mod template;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::ExitCode;

use smolvm_model::engine::fd;
use standin::{END, Targets, Then, Tried};

#[allow(clippy::print_stdout, reason = "answers the questions QEMU answers on its standard output")]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("--version") => println!("QEMU emulator version 7.2.22 (stand-in)"),
        Some("-L") => println!("/usr/share/qemu\n/usr/share/seabios"),
        Some("--outside") => outside(),
        Some("-name") => inside(args.iter().any(|arg| arg == "-incoming")),
        // Run once more by itself, to see whether it can.
        Some("--nothing") => {}
        _ => return ExitCode::from(2),
    }
    ExitCode::SUCCESS
}

fn inside(is_fork: bool) {
    let inherited = attempts::open_descriptors();
    // The launcher believes no hypervisor without a seccomp filter. This one forbids nothing, so that
    // what is tested is the jail alone.
    sys::allow_everything_filter().expect("a seccomp filter");
    // As QEMU does: it looks at another file first, and asks for the memory before it answers.
    let memory = is_fork.then(|| {
        File::options().read(true).write(true).open("/dev/null").expect("a call that is not for us passes");
        template::open_to_read_and_write().expect("the memory")
    });
    let mut qmp = sys::adopt(fd::QMP);
    qmp.write_all(b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n").expect("greet");
    let mut line = String::new();
    BufReader::new(&qmp).read_line(&mut line).expect("qmp_capabilities");
    qmp.write_all(b"{\"return\": {}, \"id\": 0}\r\n").expect("answer");
    if is_fork {
        template::restore(&mut qmp).expect("the commands of a restore");
    }
    line.clear();
    BufReader::new(sys::adopt(fd::AGENT)).read_line(&mut line).expect("targets");
    let targets: Targets = serde_json::from_str(&line).expect("targets as JSON");
    let mut console = sys::adopt(fd::CONSOLE);
    if let (Some(memory), Some(paths)) = (memory, targets.template.clone()) {
        let held = template::Held { memory, devices: sys::adopt(fd::DEVICES), paths };
        for attempt in template::ALL {
            say(&mut console, attempt.name, (attempt.run)(&held));
        }
        say(&mut console, "open the name again", template::open_the_name_again());
        return end(&mut console, inherited);
    }
    for attempt in attempts::ALL {
        say(&mut console, attempt.name, (attempt.run)(&targets));
    }
    end(&mut console, inherited);
    match targets.then {
        Then::Exit => {}
        Then::Stay => loop {
            std::thread::park();
        },
        Then::Abort => std::process::abort(),
    }
}

/// Last of all, what it was started with.
fn end(console: &mut File, inherited: Vec<usize>) {
    for number in inherited {
        say(console, &format!("descriptor {number}"), Ok(()));
    }
    say(console, END, Ok(()));
}

fn outside() {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).expect("targets");
    let targets: Targets = serde_json::from_str(&text).expect("targets as JSON");
    let mut out = sys::adopt(1);
    if let Some(paths) = targets.template.clone() {
        let open = |path: &str| File::options().read(true).write(true).open(path).expect("the template");
        let held = template::Held { memory: open(&paths.memory), devices: open(&paths.devices), paths };
        for attempt in template::ALL {
            say(&mut out, attempt.name, (attempt.run)(&held));
        }
        return;
    }
    for attempt in attempts::ALL.iter().filter(|a| !a.name.starts_with("inside") && !a.name.starts_with("may")) {
        let result = sys::in_child(|| (attempt.run)(&targets));
        say(&mut out, attempt.name, result);
    }
}

fn say(out: &mut File, what: &str, result: Result<(), i32>) {
    let tried = Tried { what: what.to_owned(), errno: result.err().unwrap_or(0) };
    let mut line = serde_json::to_vec(&tried).expect("JSON");
    line.push(b'\n');
    out.write_all(&line).expect("report");
}
