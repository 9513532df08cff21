//! The host's side of networks: `nft`, the routing socket, the name service, the relay of an ordinary user.

use std::net::{IpAddr, Ipv4Addr};

use smolvm_host::fuzzing::net;
use smolvm_host::fuzzing::net::{dns, netlink as wire, user};
use smolvm_model::network::{Verdict, judge};

use crate::{input, model};

/// Elements that are taken for ours are written and read the same; nothing that `nft` prints is a panic.
pub(crate) fn nft(json: &[u8]) {
    for element in net::elements(json).unwrap_or_default() {
        assert_eq!(element.key.to_string().parse().ok(), Some(element.key.clone()));
        assert_eq!(element.key.set(), element.set);
    }
    let _ = net::tables(json);
    for blocker in net::blockers(json).unwrap_or_default() {
        // Family, table, chain: somebody else may call a chain as we call our tables.
        let table = blocker.chain.split(' ').nth(1).unwrap_or_default();
        assert!(!blocker.fix.is_empty() && !table.starts_with("smolvm_"), "{blocker:?}");
    }
}

/// A datagram that adds up is cut into bodies that lie in it; devices have names, and only usable ones become uplinks.
pub(crate) fn netlink(datagram: &[u8]) {
    assert!(wire::errors(datagram).iter().all(|errno| *errno >= 0));
    let Some(bodies) = wire::bodies(datagram) else { return };
    assert!(bodies.iter().map(|body| body.len() + 16).sum::<usize>() <= datagram.len());
    let links: Vec<_> = bodies.iter().filter_map(|body| wire::link(body)).collect();
    let routes: Vec<_> = bodies.iter().filter_map(|body| wire::route(body)).collect();
    assert!(links.iter().all(|link| !link.name.is_empty() && !link.name.contains('\0') && link.alias.as_deref() != Some("")));
    for uplink in net::uplinks(&routes, &links).names {
        assert!(links.iter().any(|link| link.name == uplink.as_str() && link.kind.as_deref() != Some("tun")));
    }
}

/// A question that is passed on can be answered by us; answers of ours have one question, the asker's, and nothing else.
pub(crate) fn name_service(message: &[u8]) {
    let id = message.first_chunk().copied().unwrap_or_default();
    if dns::is_plain_query(message) {
        assert!(!dns::is_reply_to(message, id));
        let failed = dns::failure(message).expect("a plain question can be answered");
        own_answer(message, &failed);
    }
    if dns::is_reply_to(message, id)
        && let Some(short) = dns::truncated(message)
    {
        own_answer(message, &short);
        assert_eq!(short[2] & 2, 2, "it does not say that it is cut");
    }
}

fn own_answer(message: &[u8], answer: &[u8]) {
    assert!(dns::is_reply_to(answer, [message[0], message[1]]) && answer.len() <= message.len());
    assert_eq!(answer[4..12], [0, 1, 0, 0, 0, 0, 0, 0], "the counts do not say what follows");
    assert_eq!(answer[12..], message[12..answer.len()], "not the same question");
    assert!(answer.len() > 16 && answer[answer.len() - 5] == 0);
}

/// Lists of name servers and of accounts, line by line.
pub(crate) fn host_files(bytes: &[u8]) {
    let (which, rest) = input::choice(bytes);
    let text = String::from_utf8_lossy(rest);
    if which % 2 == 0 {
        let ours = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));
        let servers = dns::name_servers(&text, ours);
        assert!(servers.len() <= 3 && servers.iter().all(|server| server.port() == 53 && server.ip() != ours));
    } else {
        for line in text.lines() {
            assert!(net::account(line).is_none_or(|range| range.count == 1));
            let _ = net::subordinate(line);
        }
    }
}

/// The world gets the frames that are judged to pass, all of them, in order and no others, however the guest's bytes are cut.
pub(crate) fn user_relay(bytes: &[u8]) {
    let policy = model::policy();
    let (whole, pieces) = input::pieces(bytes);
    let (mut wanted, mut rest) = (Vec::new(), whole);
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        // QEMU's own bound on a frame; who says more is not listened to any longer.
        let length = u32::from_be_bytes(*length) as usize;
        let Some(frame) = after.get(..length).filter(|_| length <= 69_632) else { break };
        if judge(frame, &policy) == Verdict::Pass {
            wanted.extend_from_slice(&rest[..4 + length]);
        }
        rest = &after[length..];
    }
    let (world, _) = user::relay(&policy, &pieces).expect("two pairs of sockets");
    assert_eq!(world, wanted);
    let (world, answers) = user::relay(&policy, &[whole]).expect("two pairs of sockets");
    assert_eq!(world, wanted);
    let mut rest = answers.as_slice();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let frame = &after[..u32::from_be_bytes(*length) as usize];
        assert_eq!(frame[..6], policy.guest_mac.0, "an answer for somebody else");
        rest = &after[frame.len()..];
    }
    assert!(rest.is_empty(), "half an answer");
}
