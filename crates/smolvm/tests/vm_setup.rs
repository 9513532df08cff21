//! `setup` and `doctor` by the real program: killed, resumed, two at once, refused, taken away.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use testkit::{LeakOracle, Ran, Scope, SealedEnv};

/// From nothing, on a slow machine with a slow mirror.
const PATIENCE: Duration = Duration::from_mins(4);

fn setup(env: &SealedEnv) -> testkit::Cmd<'_> {
    env.smolvm(&["setup", "--image", "minimal", "--no-template", "--json"]).timeout(PATIENCE)
}

fn outcomes(ran: &Ran) -> Vec<(String, String)> {
    let envelope = ran.json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let steps = envelope["data"]["steps"].as_array().expect("steps");
    steps.iter().map(|step| (text(&step["name"]), text(&step["outcome"]))).collect()
}

fn checks(ran: &Ran) -> Vec<Value> {
    ran.json()["data"]["checks"].as_array().expect("checks").clone()
}

/// Killed at several moments it leaves nothing that looks finished and is not; the next run ends well, two at once too.
#[test]
fn killed_resumed_run_twice_at_once_and_taken_away() {
    let env = SealedEnv::new();
    let oracle = LeakOracle::snapshot(Scope::of(&env).without_network().tolerate("row:meta"));
    for moment in [200, 2000, 6000] {
        let mut running = setup(&env).spawn();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(moment) && !running.has_ended() {
            std::thread::sleep(Duration::from_millis(5));
        }
        running.signal(Signal::KILL);
        running.wait();
        // Whatever is there now is whole, by the digest of its content, or is not there.
        for check in checks(&env.smolvm(&["setup", "--check", "--json"]).run()) {
            let id = check["id"].as_str().unwrap_or_default();
            assert!(!id.ends_with(".content") || check["status"] == "pass", "killed after {moment} ms: {check}");
        }
    }

    let (first, second) = (setup(&env).spawn(), setup(&env).spawn());
    first.wait().assert_ok();
    second.wait().assert_ok();
    let again = setup(&env).run();
    again.assert_ok();
    assert!(outcomes(&again).iter().all(|(_, outcome)| outcome == "already"), "{:?}", outcomes(&again));
    let names: Vec<String> = outcomes(&again).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["packages", "kernel", "initramfs", "minimal", "engine"]);
    env.smolvm(&["setup", "--check"]).run().assert_ok();

    env.smolvm(&["create", "--name", "holder", "--image", "minimal", "--net", "none"]).run().assert_ok();
    let refused = env.smolvm(&["setup", "--remove", "--json"]).run();
    assert_eq!(refused.assert_code(1).json()["error"]["code"], "refused");
    env.smolvm(&["start", "holder"]).run().assert_ok();
    env.smolvm(&["delete", "holder"]).run().assert_ok();

    env.smolvm(&["setup", "--remove"]).run().assert_ok();
    assert!(!env.home().join("cache").exists(), "the cache is still there");
    let gone = env.smolvm(&["setup", "--check", "--json"]).run();
    gone.assert_code(1);
    env.smolvm(&["cleanup", "--all", "--force"]).run().assert_ok();
    oracle.assert_clean();
}

/// A sandbox whose hypervisor is gone, trash, and a stranger's row: each is found, each fix mends it.
#[test]
fn what_doctor_finds_its_fix_mends() {
    let env = SealedEnv::with_images();
    let oracle = LeakOracle::snapshot(Scope::of(&env).without_network().tolerate("row:meta"));
    let status = |id: &str| {
        let reports = checks(&env.smolvm(&["doctor", "--json"]).run());
        let found = reports.iter().find(|check| check["id"] == id).unwrap_or_else(|| panic!("no check {id}"));
        (found["status"].as_str().unwrap_or_default().to_owned(), found["fix"].as_str().unwrap_or_default().to_owned())
    };
    env.smolvm(&["create", "--name", "vm-doctored", "--image", "minimal", "--net", "none", "--start"]).run().assert_ok();
    assert_eq!(status("sandboxes.stale").0, "pass");
    let data = env.smolvm(&["inspect", "--json", "vm-doctored"]).run().json();
    let pid = data["data"]["sandbox"]["process"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a pid");
    let hypervisor = testkit::process::Process::read(pid).expect("the hypervisor");
    assert!(hypervisor.argv.iter().any(|word| word.ends_with(":vm-doctored")), "{}", hypervisor.describe());
    assert!(hypervisor.signal(Signal::KILL));
    testkit::until("the hypervisor's end to be noticed", Duration::from_secs(10), || (status("sandboxes.stale").0 == "warn").then_some(()));
    assert!(status("sandboxes.stale").1.starts_with("smolvm cleanup"));
    std::fs::create_dir_all(env.home().join("state/trash/vm-x.0123456789abcdef")).unwrap();
    assert_eq!(status("trash"), ("warn".to_owned(), "smolvm cleanup".to_owned()));
    env.smolvm(&["cleanup", "--force"]).run().assert_ok();
    assert_eq!((status("sandboxes.stale").0, status("trash").0), ("pass".to_owned(), "pass".to_owned()));

    let database = rusqlite::Connection::open(env.home().join("state/state.db")).unwrap();
    database.execute("INSERT INTO sandbox (id, state, spec, created_ms) VALUES ('../../etc', 'running', '{}', 0)", []).unwrap();
    assert_eq!(status("state.rows").0, "fail");
    env.smolvm(&["doctor", "--fix", "--json"]).run();
    assert_eq!(status("state.rows").0, "pass");
    drop(database);
    oracle.assert_clean();
}
