//! The rules of the network as a function on Ethernet frames, for guests that have no TAP.
//!
//! Where the host's packet filter cannot stand between (a `user` network, made without any rights), each
//! frame from the guest is judged here before the user-mode stack sees it: same posture as the table in
//! [`super::base`], as far as one frame can tell.
//!
//! Invariants: a frame that is not understood whole is dropped; what passes carries the guest's own
//! addresses and leads neither to the host nor to its loopback, link-local or multicast addresses.

use std::net::Ipv4Addr;
use std::ops::Range;

use super::{GATEWAY_MAC, Ipv4Net};
use crate::name::MacAddr;

/// Who the guest is and where it may not go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FramePolicy {
    /// The guest's Ethernet address.
    pub guest_mac: MacAddr,
    /// The guest's address.
    pub guest_address: Ipv4Addr,
    /// The address of the name service, and of nothing else.
    pub gateway: Ipv4Addr,
    /// The host's own addresses, as far as the caller knows them.
    pub host: Vec<Ipv4Net>,
}

/// What to do with a frame from the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may go on.
    Pass,
    /// It may not.
    Drop,
    /// It is a question for the name service.
    NameQuery {
        /// The guest's port, to which the answer goes.
        port: u16,
        /// Where in the frame the question stands.
        question: Range<usize>,
    },
}

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
const ARP: usize = 28;
const TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const TYPE_ARP: [u8; 2] = [0x08, 0x06];
const PROTOCOL_UDP: u8 = 17;
const DNS: u16 = 53;
/// The largest answer that fits a packet of 1,500 bytes.
pub const MAX_NAME_REPLY: usize = 1500 - IPV4 - UDP;

/// This host, loopback, link-local (and with it metadata services), multicast and reserved.
const CLOSED: [(Ipv4Addr, u8); 4] =
    [(Ipv4Addr::UNSPECIFIED, 8), (Ipv4Addr::new(127, 0, 0, 0), 8), (Ipv4Addr::new(169, 254, 0, 0), 16), (Ipv4Addr::new(224, 0, 0, 0), 3)];

/// Judges one frame from the guest.
pub fn judge(frame: &[u8], policy: &FramePolicy) -> Verdict {
    judge_known(frame, policy).unwrap_or(Verdict::Drop)
}

fn judge_known(frame: &[u8], policy: &FramePolicy) -> Option<Verdict> {
    if frame.get(6..12)? != policy.guest_mac.0 {
        return None;
    }
    match frame.get(12..ETHERNET)?.try_into().ok()? {
        TYPE_ARP => judge_arp(frame.get(ETHERNET..)?, policy),
        TYPE_IPV4 => judge_ipv4(frame.get(ETHERNET..)?, policy),
        _ => None,
    }
}

/// Ethernet and IPv4, and the sender is the guest.
fn judge_arp(body: &[u8], policy: &FramePolicy) -> Option<Verdict> {
    let body = body.get(..ARP)?;
    let honest = body[..6] == [0, 1, 8, 0, 6, 4] && body[8..14] == policy.guest_mac.0 && body[14..18] == policy.guest_address.octets();
    honest.then_some(Verdict::Pass)
}

fn judge_ipv4(packet: &[u8], policy: &FramePolicy) -> Option<Verdict> {
    let head = packet.get(..IPV4)?;
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let head_length = usize::from(head[0] & 15) * 4;
    if head[0] >> 4 != 4 || head_length < IPV4 || length < head_length || length > packet.len() {
        return None;
    }
    let address = |at: usize| Ipv4Addr::new(head[at], head[at + 1], head[at + 2], head[at + 3]);
    let (from, to) = (address(12), address(16));
    if from != policy.guest_address {
        return None;
    }
    if to == policy.gateway {
        let fragment = u16::from_be_bytes([head[6], head[7]]) & 0x3fff != 0;
        let query = head[9] == PROTOCOL_UDP && !fragment;
        return query.then(|| name_query(packet, head_length..length)).flatten();
    }
    let closed = CLOSED.iter().any(|&(net, prefix)| Ipv4Net::new(net, prefix).is_ok_and(|net| net.contains(to)));
    // Options can route a packet elsewhere than its destination says.
    let passes = !closed && head_length == IPV4 && !policy.host.iter().any(|net| net.contains(to));
    passes.then_some(Verdict::Pass)
}

fn name_query(packet: &[u8], body: Range<usize>) -> Option<Verdict> {
    let head = packet.get(body.clone())?.get(..UDP)?;
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let length = usize::from(word(4));
    let fits = word(2) == DNS && length >= UDP && length <= body.len();
    let start = ETHERNET + body.start;
    fits.then(|| Verdict::NameQuery { port: word(0), question: start + UDP..start + length })
}

/// The frame that brings an answer of the name service to the guest; `None` when it is larger than [`MAX_NAME_REPLY`].
pub fn name_reply(policy: &FramePolicy, port: u16, answer: &[u8]) -> Option<Vec<u8>> {
    if answer.len() > MAX_NAME_REPLY {
        return None;
    }
    let udp_length = u16::try_from(UDP + answer.len()).ok()?;
    let length = u16::try_from(IPV4).ok()? + udp_length;
    let mut frame = [&policy.guest_mac.0[..], &GATEWAY_MAC.0, &TYPE_IPV4, &[0x45, 0]].concat();
    frame.extend(length.to_be_bytes());
    // No id, not to be fragmented, 64 hops; the checksum follows.
    frame.extend([0, 0, 0x40, 0, 64, PROTOCOL_UDP, 0, 0]);
    frame.extend(policy.gateway.octets());
    frame.extend(policy.guest_address.octets());
    let sum = checksum(&frame[ETHERNET..]);
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(DNS.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend(udp_length.to_be_bytes());
    // Zero says that there is no checksum, which UDP over IPv4 allows; this wire loses nothing.
    frame.extend([0, 0]);
    frame.extend_from_slice(answer);
    Some(frame)
}

fn checksum(head: &[u8]) -> u16 {
    let sum: u32 = head.as_chunks::<2>().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
    // Twenty bytes: two folds are enough.
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy() -> FramePolicy {
        FramePolicy {
            guest_mac: MacAddr::local([0, 0, 0, 0, 1]),
            guest_address: Ipv4Addr::new(10, 9, 0, 2),
            gateway: Ipv4Addr::new(10, 9, 0, 1),
            host: vec!["203.0.113.1/32".parse().unwrap()],
        }
    }

    /// A UDP packet of the guest's, to be spoiled.
    fn packet(to: [u8; 4], port: u16) -> Vec<u8> {
        let mut frame = name_reply(&policy(), port, b"text").unwrap();
        frame[6..12].copy_from_slice(&policy().guest_mac.0);
        frame[26..30].copy_from_slice(&policy().guest_address.octets());
        frame[30..34].copy_from_slice(&to);
        frame[36..38].copy_from_slice(&port.to_be_bytes());
        frame
    }

    #[test]
    fn the_world_is_open_and_the_host_is_not() {
        for open in [[8, 8, 8, 8], [192, 168, 1, 1], [203, 0, 113, 2]] {
            assert_eq!(judge(&packet(open, 53), &policy()), Verdict::Pass, "{open:?}");
        }
        for closed in [
            [127, 0, 0, 1],
            [127, 255, 0, 9],
            [0, 0, 0, 0],
            [169, 254, 169, 254],
            [203, 0, 113, 1],
            [224, 0, 0, 251],
            [255, 255, 255, 255],
            [10, 9, 0, 1],
        ] {
            assert_eq!(judge(&packet(closed, 80), &policy()), Verdict::Drop, "{closed:?}");
        }
        let question = judge(&packet([10, 9, 0, 1], 53), &policy());
        assert_eq!(question, Verdict::NameQuery { port: 53, question: 42..46 });
    }

    #[test]
    fn a_spoiled_frame_is_dropped() {
        let good = packet([8, 8, 8, 8], 80);
        // MAC, VLAN tag, IPv6, IP version, a header with options, lengths beyond the frame, source address.
        for (at, value) in [(6, 3), (12, 0x81), (12, 0x86), (14, 0x65), (14, 0x46), (14, 0x44), (16, 0xff), (29, 3)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(judge(&bad, &policy()), Verdict::Drop, "byte {at}");
        }
        let mut fragment = packet([10, 9, 0, 1], 53);
        fragment[20] = 0x20;
        assert_eq!(judge(&fragment, &policy()), Verdict::Drop);
        let mut long = packet([10, 9, 0, 1], 53);
        long[39] = 200;
        assert_eq!(judge(&long, &policy()), Verdict::Drop);
    }

    #[test]
    fn arp_only_as_oneself() {
        let arp = |from: [u8; 4]| {
            let mac = policy().guest_mac.0;
            [&[0xff; 6][..], &mac, &TYPE_ARP, &[0, 1, 8, 0, 6, 4, 0, 1], &mac, &from, &[0; 6], &[10, 9, 0, 1]].concat()
        };
        assert_eq!(judge(&arp([10, 9, 0, 2]), &policy()), Verdict::Pass);
        assert_eq!(judge(&arp([10, 9, 0, 1]), &policy()), Verdict::Drop);
        assert_eq!(judge(&arp([10, 9, 0, 2])[..40], &policy()), Verdict::Drop);
    }

    #[test]
    fn an_answer_of_the_name_service_adds_up() {
        let frame = name_reply(&policy(), 4000, &[7; MAX_NAME_REPLY]).unwrap();
        assert_eq!(frame.len(), 1514);
        assert_eq!(checksum(&frame[14..34]), 0, "the header's checksum");
        assert_eq!(name_reply(&policy(), 4000, &[7; MAX_NAME_REPLY + 1]), None);
    }

    proptest! {
        #[test]
        fn no_frame_panics_and_what_passes_is_the_guests(mut frame in proptest::collection::vec(any::<u8>(), 0..100), start in 0_usize..40) {
            // Half honest: noise from `start` on over a good packet, so that the deeper checks are reached.
            let good = packet([8, 8, 8, 8], 80);
            frame.splice(0..start.min(frame.len()), good[..start].iter().copied());
            match judge(&frame, &policy()) {
                Verdict::Pass => {
                    prop_assert_eq!(&frame[6..12], &policy().guest_mac.0[..]);
                    if frame[12..14] == TYPE_IPV4 {
                        let to = Ipv4Addr::new(frame[30], frame[31], frame[32], frame[33]);
                        prop_assert!(!to.is_loopback() && !to.is_link_local() && !to.is_multicast() && !to.is_unspecified());
                        prop_assert_eq!(&frame[26..30], &policy().guest_address.octets()[..]);
                    }
                }
                Verdict::NameQuery { question, .. } => prop_assert!(question.end <= frame.len() && question.start <= question.end),
                Verdict::Drop => {}
            }
        }
    }
}
