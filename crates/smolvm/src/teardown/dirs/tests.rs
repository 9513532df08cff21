//! Directories that go, stay, or do not answer.

use super::*;
use crate::installation::Settings;
use crate::paths::Paths;
use smolvm_model::ledger::Status;

fn place() -> (tempfile::TempDir, Smolvm) {
    let dir = tempfile::tempdir().unwrap();
    let vm = Smolvm::open(Settings::new(Paths::beneath(dir.path()))).unwrap();
    std::fs::create_dir_all(vm.paths().sandboxes()).unwrap();
    std::fs::create_dir_all(&vm.paths().run).unwrap();
    (dir, vm)
}

fn entry(id: &str, kind: Kind) -> Entry {
    Entry { sandbox: id.parse().unwrap(), kind, key: id.to_owned(), status: Status::Held, identity: None }
}

#[test]
fn the_owner_file_decides() {
    let (_dir, vm) = place();
    let table: [(&str, Option<Vec<u8>>, &str); 7] = [
        ("ours", Some(format!("{}\n", vm.mark(&"ours".parse().unwrap())).into_bytes()), "released"),
        ("bare", None, "released"),
        ("cut", Some(Vec::new()), "refused"),
        ("moved", Some(b"smolvm:aaaaaaaaaa:moved\n".to_vec()), "failed"),
        ("other", Some(b"smolvm:aaaaaaaaaa:another\n".to_vec()), "refused"),
        ("text", Some(b"mine".to_vec()), "refused"),
        ("bytes", Some(vec![0xff, 0xfe]), "refused"),
    ];
    for (id, owner, want) in table {
        let dir = vm.paths().sandbox(&id.parse().unwrap());
        std::fs::create_dir(&dir).unwrap();
        if let Some(owner) = owner {
            std::fs::write(dir.join(OWNER), owner).unwrap();
        }
        let (outcomes, _) = remove(&vm, Kind::StateDir, &[&entry(id, Kind::StateDir)]);
        let is = match &outcomes[0] {
            Outcome::Failed { code: ErrorCode::Refused, message } if message.contains("smolvm:aaaaaaaaaa:moved") => "failed",
            Outcome::Failed { .. } => "?",
            other => other.as_str(),
        };
        assert_eq!((is, dir.exists()), (want, want != "released"), "{id}: {outcomes:?}");
    }
}

/// However many threads unlink: outcomes come in the order of the entries, and what cannot be removed keeps nothing else.
#[test]
fn of_many_one_that_cannot_be_unlinked_keeps_none_of_the_others() {
    let (_dir, vm) = place();
    let ids: Vec<String> = (0..100).map(|i| format!("vm-{i}")).collect();
    for (i, id) in ids.iter().enumerate() {
        let dir = vm.paths().sandbox(&id.parse().unwrap());
        match i {
            // Deeper than anything of ours is, so it is left alone.
            41 => std::fs::create_dir_all(dir.join("d/".repeat(80))).unwrap(),
            42 => {}
            43 => {
                std::fs::create_dir(&dir).unwrap();
                std::fs::write(dir.join(OWNER), "mine").unwrap();
            }
            _ => {
                std::fs::create_dir(&dir).unwrap();
                std::fs::write(dir.join("data.img"), vec![1; 8192]).unwrap();
            }
        }
    }
    let entries: Vec<Entry> = ids.iter().map(|id| entry(id, Kind::StateDir)).collect();
    let (outcomes, freed) = remove(&vm, Kind::StateDir, &entries.iter().collect::<Vec<_>>());
    for (i, outcome) in outcomes.iter().enumerate() {
        let want = match i {
            41 => "failed",
            42 => "already_gone",
            43 => "refused",
            _ => "released",
        };
        assert_eq!(outcome.as_str(), want, "{i}: {outcome:?}");
    }
    assert_eq!(freed, 97 * 8192);
    let left = |dir| std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>();
    assert_eq!(left(vm.paths().sandboxes()), ["vm-43"]);
    assert!(matches!(&left(vm.paths().trash())[..], [name] if name.starts_with("vm-41.")));
}

/// One directory is a mount that does not answer, of another the disk is one: both are told, the rest goes.
#[test]
fn a_mount_that_does_not_answer_costs_a_deadline_and_keeps_none_of_the_others() {
    let (_dir, vm) = place();
    let entries: Vec<Entry> = ["away", "disk", "plain"].map(|id| entry(id, Kind::StateDir)).into();
    for entry in &entries {
        let dir = vm.paths().sandbox(&entry.sandbox);
        std::fs::create_dir(&dir).unwrap();
        std::fs::create_dir(dir.join("data.img")).unwrap();
    }
    let patience = Duration::from_millis(300);
    testkit::Netns::new().unwrap().enter(|| {
        let mounts = ["away", "disk/data.img"].map(|path| testkit::HungMount::new(&vm.paths().sandboxes().join(path)));
        let (outcomes, _) = remove_within(&vm, Kind::StateDir, &entries.iter().collect::<Vec<_>>(), patience);
        let unreachable = |outcome: &Outcome| matches!(outcome, Outcome::Failed { code: ErrorCode::Unreachable, .. });
        assert!(unreachable(&outcomes[0]) && unreachable(&outcomes[1]) && outcomes[2] == Outcome::Released, "{outcomes:?}");
        drop(mounts);
    });
    // It answers again.
    let (outcomes, _) = remove(&vm, Kind::StateDir, &[&entries[0]]);
    assert_eq!(outcomes, [Outcome::Released]);
}

/// Each takes the trash away whenever it finds it empty, under the feet of the others.
#[test]
fn many_at_once_share_the_trash_of_run_directories() {
    let (_dir, vm) = place();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let vm = &vm;
            scope.spawn(move || {
                for round in 0..100 {
                    let id = format!("w{worker}-{round}");
                    std::fs::create_dir(vm.paths().run.join(&id)).unwrap();
                    let (outcomes, _) = remove(vm, Kind::RunDir, &[&entry(&id, Kind::RunDir)]);
                    assert_eq!(outcomes, [Outcome::Released], "{id}");
                }
            });
        }
    });
    assert_eq!(std::fs::read_dir(&vm.paths().run).unwrap().count(), 0);
}

#[test]
fn the_trash_of_a_killed_command_goes_with_all_in_it() {
    let (_dir, vm) = place();
    std::fs::create_dir_all(vm.paths().run.join(".trash/gone.0/deep")).unwrap();
    remove_run_trash(&vm);
    remove_run_trash(&vm);
    assert_eq!(std::fs::read_dir(&vm.paths().run).unwrap().count(), 0);
}
