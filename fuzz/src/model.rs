//! Names, amounts, rules and frames: the pure readers.

use std::fmt::{Debug, Display};
use std::net::Ipv4Addr;
use std::str::FromStr;

use smolvm_model::engine::AcceleratorRequest;
use smolvm_model::name::{IdPrefix, InstallId, LaunchToken, MacAddr, Mark, SandboxId, TapName};
use smolvm_model::network::{
    AddressPool, ElementKey, ElementOwner, FramePolicy, GATEWAY_MAC, IfName, Ipv4Net, LinkGroup, MAX_NAME_REPLY, UidRange, Verdict, judge,
    name_reply, remove,
};
use smolvm_model::quantity::{Cpus, DiskSize, Memory, Span, display_bytes};
use smolvm_model::spec::{ImageName, LabelKey, NetworkMode, VarName, parse_pair};
use smolvm_model::{ledger, state};

use crate::input;

/// A name is its text and no other; what is one cannot leave a path, a quoted word or an argument.
pub(crate) fn names(bytes: &[u8]) {
    let text = input::text(bytes);
    exact::<SandboxId>(text);
    exact::<IdPrefix>(text);
    exact::<InstallId>(text);
    exact::<Mark>(text);
    exact::<LaunchToken>(text);
    exact::<TapName>(text);
    exact::<IfName>(text);
    same::<ImageName>(text);
    exact::<VarName>(text);
    exact::<LabelKey>(text);
    exact::<NetworkMode>(text);
    exact::<AcceleratorRequest>(text);
    exact::<ledger::Kind>(text);
    same::<Ipv4Net>(text);
    same::<AddressPool>(text);
    same::<UidRange>(text);
    any_case::<MacAddr>(text);
    any_case::<ElementKey>(text);
    if let Ok(status) = text.parse::<ledger::Status>() {
        assert_eq!(status.as_str(), text);
    }
    if let Ok(state) = text.parse::<state::State>() {
        assert_eq!(state.as_str(), text);
    }
    if let Ok((key, value)) = parse_pair::<VarName>(text) {
        assert_eq!(format!("{key}={value}"), text);
        assert!(!value.contains('\0'));
    }
    if let Ok(mark) = text.parse::<Mark>() {
        assert_eq!(TapName::derive(&mark.install, &mark.sandbox).as_str().len(), 15);
        assert_ne!(LinkGroup::of(&mark.install).number(), 0);
    }
    for harmless in [text.parse::<SandboxId>().is_ok(), text.parse::<IfName>().is_ok()] {
        assert!(!harmless || (!text.contains(['/', '\0', '"', '\'', '\\', ' ', '\n']) && text != ".."), "{text:?}");
    }
    match ElementOwner::of_comment(Some(text)) {
        ElementOwner::Sandbox(mark) => assert_eq!(mark.to_string(), text),
        ElementOwner::Install(install) => assert_eq!(format!("smolvm:{install}"), text),
        ElementOwner::Unknown => {}
    }
}

fn exact<T: FromStr + Display>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string(), text, "one value, two texts");
    }
}

fn any_case<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert!(value.to_string().eq_ignore_ascii_case(text), "{text:?} became {value}");
    }
    same::<T>(text);
}

fn same<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse().ok(), Some(value));
    }
}

/// An amount is within its bounds, and the same when it is written in its smallest unit.
pub(crate) fn amounts(bytes: &[u8]) {
    let text = input::text(bytes);
    if let Ok(memory) = text.parse::<Memory>() {
        assert!((64..=1 << 20).contains(&memory.mib()) && memory.bytes() >> 20 == u64::from(memory.mib()));
        assert_eq!(format!("{}M", memory.mib()).parse(), Ok(memory));
    }
    if let Ok(disk) = text.parse::<DiskSize>() {
        assert!((64 << 20..=16 << 40).contains(&disk.bytes()) && disk.bytes().is_multiple_of(1 << 20));
        assert_eq!(format!("{}m", disk.bytes() >> 20).parse(), Ok(disk));
        assert_eq!(DiskSize::from_bytes(disk.bytes()), Ok(disk));
    }
    if let Ok(cpus) = text.parse::<Cpus>() {
        assert!((1..=64).contains(&cpus.get()) && text.bytes().all(|b| b.is_ascii_digit()), "{text:?}");
        assert_eq!(cpus.get().to_string().parse(), Ok(cpus));
    }
    if let Ok(span) = text.parse::<Span>() {
        assert!((1..=31_536_000).contains(&span.duration().as_secs()));
        assert_eq!(format!("{}s", span.duration().as_secs()).parse(), Ok(span));
    }
    if let Some(number) = bytes.first_chunk() {
        let shown = display_bytes(u64::from_le_bytes(*number)).to_string();
        assert!(shown.len() <= 11 && shown.ends_with(['B', 'K', 'M', 'G', 'T']), "{shown}");
    }
}

/// Keys that were read become a fixed number of lines of rules, of characters that end none.
pub(crate) fn rules(bytes: &[u8]) {
    let Ok(install) = "0123456789".parse::<InstallId>() else { return };
    let keys: Vec<ElementKey> = input::text(bytes).lines().filter_map(|line| line.parse().ok()).collect();
    let text = remove(&install, &keys);
    assert!(text.lines().count() <= 4 && (text.is_empty() == keys.is_empty()));
    for line in text.lines() {
        let elements = line.strip_prefix("add ").or_else(|| line.strip_prefix("delete "));
        let elements = elements.and_then(|rest| rest.strip_prefix("element inet smolvm_0123456789 ")).expect("a line about elements");
        let inner = elements.split_once(" { ").and_then(|(_, rest)| rest.strip_suffix(" }")).expect("one pair of braces");
        assert!(inner.bytes().all(|b| b.is_ascii_alphanumeric() || b"\"._-@+: ,".contains(&b)), "{inner:?}");
        assert_eq!(inner.matches('"').count() % 2, 0);
    }
}

pub(crate) fn policy() -> FramePolicy {
    FramePolicy {
        guest_mac: MacAddr::local([0, 0, 0, 0, 1]),
        guest_address: Ipv4Addr::new(10, 9, 0, 2),
        gateway: Ipv4Addr::new(10, 9, 0, 1),
        host: Ipv4Net::new(Ipv4Addr::new(203, 0, 113, 1), 32).into_iter().collect(),
    }
}

/// What passes is the guest's own and leads neither to the host nor to what is closed, whatever follows the frame.
pub(crate) fn ethernet(frame: &[u8]) {
    let policy = policy();
    let verdict = judge(frame, &policy);
    match &verdict {
        Verdict::Pass => {
            assert_eq!(frame[6..12], policy.guest_mac.0);
            if frame[12..14] == [8, 0] {
                let to = Ipv4Addr::new(frame[30], frame[31], frame[32], frame[33]);
                let closed = to.is_loopback() || to.is_link_local() || to.is_multicast() || to.is_broadcast() || to.octets()[0] == 0;
                assert!(!closed && to != policy.gateway && policy.host.iter().all(|net| !net.contains(to)), "{to}");
                assert_eq!(frame[26..30], policy.guest_address.octets());
            } else {
                assert_eq!(frame[12..14], [8, 6]);
            }
        }
        Verdict::NameQuery { question, .. } => {
            assert!(question.start >= 42 && question.start <= question.end && question.end <= frame.len());
            assert_eq!(frame[30..34], policy.gateway.octets());
        }
        Verdict::Drop => {}
    }
    // Short frames are padded on their way; padding decides nothing, unless it completes what was cut off.
    if verdict != Verdict::Drop {
        assert_eq!(judge(&[frame, &[0; 6]].concat(), &policy), verdict);
    }
    match name_reply(&policy, 4000, frame) {
        Some(reply) => {
            assert!(frame.len() <= MAX_NAME_REPLY && reply.len() == 42 + frame.len());
            assert_eq!((&reply[..6], &reply[6..12], &reply[42..]), (&policy.guest_mac.0[..], &GATEWAY_MAC.0[..], frame));
        }
        None => assert!(frame.len() > MAX_NAME_REPLY),
    }
}
