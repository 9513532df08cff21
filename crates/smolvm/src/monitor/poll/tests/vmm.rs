//! What the hypervisor says.

use super::*;

#[test]
fn a_hypervisor_cannot_make_the_monitor_answer_for_ever() {
    serving(|serving, _| {
        serving.phase = Phase::Running;
        for _ in 0..1000 {
            serving.heard_of_vmm(News::Resumed);
        }
        assert!(serving.guest.out.is_empty(), "it runs, and is told so a thousand times");
        // Each of these is news, but the guest takes none of it.
        for _ in 0..200_000 {
            serving.heard_of_vmm(News::Stopped);
            serving.heard_of_vmm(News::Resumed);
        }
        assert!(serving.guest.is_closed() && serving.guest.out.is_empty());
    });
    serving(|serving, ends| {
        let mut qmp = &ends.rest.0;
        for _ in 0..2000 {
            qmp.write_all(b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n").unwrap();
            serving.hear_vmm();
        }
        assert_eq!(orders(serving), ["qmp_capabilities"]);
        for _ in 0..20_000 {
            serving.vmm.say("stop");
        }
        assert!(serving.vmm.out.len() < 1 << 20);
    });
}
