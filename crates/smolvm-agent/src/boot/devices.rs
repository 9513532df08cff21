//! Block devices by the serial the host gave them: their letters follow no promise.

/// Most disks a machine of ours can have.
const LETTERS: std::ops::RangeInclusive<char> = 'a'..='h';

/// The device node of the disk with this serial.
pub(super) fn disk(serial: &str) -> Option<String> {
    LETTERS
        .map(|letter| format!("vd{letter}"))
        .find(|name| std::fs::read_to_string(format!("/sys/block/{name}/serial")).is_ok_and(|s| s.trim_end() == serial))
        .map(|name| format!("/dev/{name}"))
}
