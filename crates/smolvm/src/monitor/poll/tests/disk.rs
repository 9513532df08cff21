//! Layers over the disk of a guest that runs.

use smolvm_host::engine::qmp::Qmp;

use super::*;

/// A client that was told where the guest is has asked it to stand still, for a layer that is number 3.
fn asked_for_a_layer(serving: &mut Loop<'_>) {
    let lowest = serving.vm.paths().disk(serving.id);
    std::fs::create_dir_all(lowest.parent().unwrap()).unwrap();
    std::fs::File::create(&lowest).unwrap();
    smolvm_host::disk::add_layer(&lowest, 3, 64 << 20).unwrap();
    serving.phase = Phase::Running;
    // As at every start; what comes of it nobody waits for.
    serving.take_back_descriptors();
    serving.locate(1);
    serving.heard_of_vmm(News::Answered(2, Ok("for 0x0 (ram) is 0x7f0000000000\r\n".into())));
    serving.freeze(1, false, Some(3));
}

/// A guest that stands still, for a client that wants a layer put over its disk; the hypervisor has answered all about it but
/// the word to put it on, which is the command of the number that is given back.
fn about_to_be_layered(serving: &mut Loop<'_>) -> u64 {
    asked_for_a_layer(serving);
    // Three descriptors, the layer's file, the layer.
    for command in 3..=7 {
        serving.heard_of_vmm(News::Answered(command, Ok(serde_json::Value::Null)));
    }
    serving.motion = Motion::Paused;
    serving.quiet = true;
    serving.halted_for_a_copy();
    frames(&mut serving.clients[0].out);
    serving.vmm.out.buffer().clear();
    // A descriptor, the devices.
    serving.heard_of_vmm(News::Answered(9, Ok(serde_json::Value::Null)));
    assert_eq!(orders(serving), ["blockdev-snapshot"]);
    assert_eq!(serving.disk.numbers(), [0]);
    10
}

/// A hypervisor closes what it is told to only while its guest runs. One that loads a guest has answered before that does.
#[test]
fn what_was_handed_over_for_writing_is_taken_back_when_the_guest_runs() {
    serving(|serving, _| {
        serving.begin();
        assert_eq!(orders(serving), ["remove-fd"], "one that boots runs");
    });
    let memories = [MonitorMemory::Fork, MonitorMemory::Restore { memory: PathBuf::new(), devices: PathBuf::new() }];
    for (memory, told_before) in memories.into_iter().flat_map(|memory| [(memory.clone(), true), (memory, false)]) {
        serving(|serving, _| {
            serving.config = Box::leak(Box::new(MonitorConfig { memory, ..serving.config.clone() }));
            let (qmp, mut hypervisor) = UnixStream::pair().unwrap();
            let event: &[u8] = if told_before { b"{\"event\": \"RESUME\"}\n" } else { b"" };
            hypervisor.write_all(&[b"{\"return\": {}, \"id\": 1}\n", event].concat()).unwrap();
            let mut session = Qmp::resume(qmp.try_clone().unwrap(), Duration::from_secs(5));
            session.execute("cont", None).unwrap();
            serving.vmm = Vmm::new(qmp, session.into_stream());
            serving.begin();
            if !told_before {
                assert!(orders(serving).is_empty());
                serving.heard_of_vmm(News::Resumed);
            }
            assert_eq!(orders(serving), ["remove-fd"]);
            serving.heard_of_vmm(News::Resumed);
            assert!(orders(serving).is_empty(), "once");
        });
    }
}

#[test]
fn a_layer_that_is_put_on_is_known_to_be_even_if_nobody_waits_any_longer() {
    for leaves in [false, true] {
        serving(|serving, _| {
            let command = about_to_be_layered(serving);
            if leaves {
                serving.drop_client(1);
                assert_eq!(orders(serving), ["cont"], "the layer must not be closed");
            }
            serving.heard_of_vmm(News::Answered(command, Ok(serde_json::Value::Null)));
            assert_eq!(serving.disk.numbers(), [0, 3]);
            if !leaves {
                assert_eq!(last(serving), Some(MonitorReply::Frozen { layered: true }));
                serving.thaw(1);
                assert_eq!(orders(serving), ["cont"]);
            }
            // What it was handed for writing is taken back once its guest runs, and not before.
            serving.heard_of_vmm(News::Resumed);
            assert_eq!(orders(serving), ["remove-fd"; 2], "that of the devices, and those of the layer");
        });
    }
}

#[test]
fn a_hypervisor_that_will_not_have_a_layer_goes_on_without_and_the_client_is_told() {
    serving(|serving, _| {
        let command = about_to_be_layered(serving);
        serving.heard_of_vmm(News::Answered(command, Err("no".to_owned())));
        assert_eq!((last(serving), serving.disk.numbers()), (Some(MonitorReply::Frozen { layered: false }), vec![0]));
        assert_eq!(orders(serving), ["blockdev-del", "blockdev-del"]);
        serving.thaw(1);
        serving.heard_of_vmm(News::Resumed);
        assert_eq!(orders(serving), ["cont", "remove-fd", "remove-fd", "remove-fd"], "of the devices, the layer, and the one below");
    });
    // One that is no layer is not even shown to it.
    serving(|serving, _| {
        let lowest = serving.vm.paths().disk(serving.id);
        std::fs::create_dir_all(lowest.parent().unwrap()).unwrap();
        std::fs::File::create(&lowest).unwrap();
        std::fs::write(lowest.with_file_name("data.img.3"), "QFI").unwrap();
        serving.phase = Phase::Running;
        serving.locate(1);
        serving.heard_of_vmm(News::Answered(1, Ok("for 0x0 (ram) is 0x7f0000000000\r\n".into())));
        orders(serving);
        serving.freeze(1, false, Some(3));
        assert!(orders(serving).is_empty());
    });
}

#[test]
fn only_layers_between_the_lowest_and_the_highest_can_have_been_merged() {
    serving(|serving, _| {
        serving.disk = crate::monitor::disk::Disk::of(&[0, 2, 5, 9]);
        serving.phase = Phase::Running;
        serving.locate(1);
        serving.heard_of_vmm(News::Answered(1, Ok("for 0x0 (ram) is 0x7f0000000000\r\n".into())));
        for odd in [&[][..], &[2], &[5], &[0, 2, 5], &[2, 5, 9], &[5, 2]] {
            serving.merged(1, odd);
            assert!(matches!(last(serving), Some(MonitorReply::Error { code: MonitorErrorCode::Unsupported, .. })), "{odd:?}");
        }
        let lowest = serving.vm.paths().disk(serving.id);
        std::fs::create_dir_all(lowest.parent().unwrap()).unwrap();
        smolvm_host::disk::add_layer(&lowest, 5, 64 << 20).unwrap();
        // Nobody else than who is to copy it has merged anything.
        serving.merged(2, &[2, 5]);
        assert_eq!(serving.disk.numbers(), [0, 2, 5, 9]);
        serving.merged(1, &[2, 5]);
        for command in 2..=4 {
            serving.heard_of_vmm(News::Answered(command, Ok(serde_json::Value::Null)));
        }
        assert_eq!(serving.disk.numbers(), [0, 2, 5, 9], "it has not answered to the last");
        serving.heard_of_vmm(News::Answered(5, Ok(serde_json::Value::Null)));
        assert_eq!((last(serving), serving.disk.numbers()), (Some(MonitorReply::Merged), vec![0, 5, 9]));
        assert_eq!(orders(serving).iter().filter(|order| *order == "blockdev-del").count(), 4);
    });
}

/// How many descriptors the hypervisor has in each of its sets, by all that it was told; it closes them only while its guest runs.
fn lent(serving: &mut Loop<'_>, ends: &Ends) -> std::collections::BTreeMap<u64, u32> {
    assert!(serving.vmm.out.flush(&serving.vmm.socket));
    ends.rest.0.set_nonblocking(true).unwrap();
    let mut text = Vec::new();
    let _ = std::io::Read::read_to_end(&mut &ends.rest.0, &mut text);
    let (mut sets, mut runs) = (std::collections::BTreeMap::new(), true);
    for line in String::from_utf8(text).unwrap().lines() {
        let order: serde_json::Value = serde_json::from_str(line.trim()).unwrap();
        let set = order["arguments"]["fdset-id"].as_u64().unwrap_or(0);
        match order["execute"].as_str().unwrap() {
            "add-fd" => *sets.entry(set).or_default() += 1,
            "remove-fd" if runs => drop(sets.remove(&set)),
            "stop" => runs = false,
            "cont" => runs = true,
            _ => {}
        }
    }
    sets
}

#[test]
fn a_hypervisor_keeps_no_descriptor_of_a_layer_that_is_given_up() {
    // Before the guest was told to halt, while it is about to, and when it stands still.
    for step in 0..3 {
        serving(|serving, ends| {
            asked_for_a_layer(serving);
            if step > 0 {
                serving.has_settled(1);
            }
            if step > 1 {
                serving.heard_of_vmm(News::Stopped);
            }
            serving.drop_client(1);
            serving.heard_of_vmm(News::Resumed);
            let lent = lent(serving, ends);
            assert!(lent.is_empty(), "step {step}: {lent:?}");
        });
    }
}
