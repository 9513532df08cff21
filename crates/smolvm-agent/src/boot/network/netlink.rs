//! The few rtnetlink messages that are needed, as bytes.
//!
//! Numbers are the kernel's ABI (rtnetlink(7)); integers are in the machine's order, and every
//! part is padded to four bytes.

use std::net::Ipv4Addr;

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
/// The change is told to who asked for it, as the kernel has it then.
const ECHO: u16 = 0x8;
const CREATE_OR_REPLACE: u16 = 0x400 | 0x100;

const AF_INET: u8 = 2;
const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_AF_SPEC: u16 = 26;
const AF_INET6: u16 = 10;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
/// No address is made up from the hardware's.
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
/// The gateway is on the link, whatever the addresses say.
const RTNH_F_ONLINK: u32 = 4;

/// A change of an interface.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) index: u32,
    /// Its hardware address, and with it that IPv6 makes up none of its own from it.
    pub(super) mac: Option<[u8; 6]>,
    /// Whether it is raised; one that is up stays so in any case.
    pub(super) up: bool,
}

/// Requests that go to the kernel in one call.
pub(super) struct Batch {
    bytes: Vec<u8>,
    count: usize,
    /// The request that takes an address away.
    may_be_gone: Option<usize>,
}

/// What the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    /// 0, or a positive errno.
    Answer(i32),
    Address {
        index: u32,
        address: Ipv4Addr,
    },
    Else,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::with_capacity(256), count: 0, may_be_gone: None }
    }

    pub(super) fn set_link(&mut self, link: Link) {
        // What is not in the mask stays as it is.
        let flags = if link.up { IFF_UP } else { 0 };
        let mut body = vec![0, 0, 0, 0];
        body.extend_from_slice(&link.index.to_ne_bytes());
        body.extend_from_slice(&flags.to_ne_bytes());
        body.extend_from_slice(&flags.to_ne_bytes());
        if let Some(mac) = link.mac {
            attribute(&mut body, IFLA_ADDRESS, &mac);
        }
        self.request(RTM_NEWLINK, 0, &body);
    }

    /// Before a link is up: no IPv6 address is made up for it.
    ///
    /// smolvm's networks carry no IPv6: looking for neighbours and routers that cannot be there is work for nothing,
    /// and a few hundred blocks of code that TCG translates for it.
    pub(super) fn without_ipv6(&mut self, index: u32) {
        let mut body = vec![0, 0, 0, 0];
        body.extend_from_slice(&index.to_ne_bytes());
        body.extend_from_slice(&[0; 8]);
        let (mut family, mut families) = (Vec::new(), Vec::new());
        attribute(&mut family, IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
        attribute(&mut families, AF_INET6, &family);
        attribute(&mut body, IFLA_AF_SPEC, &families);
        self.request(RTM_NEWLINK, 0, &body);
    }

    pub(super) fn add_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) {
        self.request(RTM_NEWADDR, CREATE_OR_REPLACE | ECHO, &address_body(index, address, prefix));
    }

    /// The routes that go out with it as their source go, too.
    pub(super) fn remove_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) {
        self.may_be_gone = Some(self.count);
        self.request(RTM_DELADDR, 0, &address_body(index, address, prefix));
    }

    pub(super) fn add_default_route(&mut self, index: u32, gateway: Ipv4Addr, source: Ipv4Addr) {
        let mut body = vec![AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST];
        body.extend_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
        attribute(&mut body, RTA_GATEWAY, &gateway.octets());
        attribute(&mut body, RTA_OIF, &index.to_ne_bytes());
        attribute(&mut body, RTA_PREFSRC, &source.octets());
        self.request(RTM_NEWROUTE, CREATE_OR_REPLACE, &body);
    }

    /// The bytes, how many answers to wait for, and which of them may be that there is no such address.
    pub(super) fn finish(self) -> (Vec<u8>, usize, Option<usize>) {
        (self.bytes, self.count, self.may_be_gone)
    }

    fn request(&mut self, kind: u16, flags: u16, body: &[u8]) {
        self.count += 1;
        message(&mut self.bytes, kind, REQUEST | ACK | flags, body);
    }
}

fn address_body(index: u32, address: Ipv4Addr, prefix: u8) -> Vec<u8> {
    let mut body = vec![AF_INET, prefix, 0, 0];
    body.extend_from_slice(&index.to_ne_bytes());
    attribute(&mut body, IFA_LOCAL, &address.octets());
    attribute(&mut body, IFA_ADDRESS, &address.octets());
    body
}

/// Takes a datagram of the kernel apart; what does not fit its own length ends it.
pub(super) fn replies(mut bytes: &[u8]) -> impl Iterator<Item = Reply> {
    std::iter::from_fn(move || {
        let len = number(bytes, 0)? as usize;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let body = bytes.get(16..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(match kind {
            NLMSG_ERROR => Reply::Answer(number(body, 0).map_or(libc::EIO, |code| code.cast_signed().saturating_neg())),
            RTM_NEWADDR => address(body).unwrap_or(Reply::Else),
            _ => Reply::Else,
        })
    })
}

fn address(body: &[u8]) -> Option<Reply> {
    let index = number(body, 4)?;
    let mut rest = body.get(8..)?;
    loop {
        let len = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
        let value = rest.get(4..len)?;
        if let (IFA_LOCAL, Ok(octets)) = (kind, <[u8; 4]>::try_from(value)) {
            return Some(Reply::Address { index, address: octets.into() });
        }
        rest = rest.get(len.next_multiple_of(4)..)?;
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

fn message(out: &mut Vec<u8>, kind: u16, flags: u16, body: &[u8]) {
    let len = u32::try_from(16 + body.len()).unwrap_or(0);
    out.extend_from_slice(&len.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).unwrap_or(0);
    out.extend_from_slice(&len.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_padded_and_counted() {
        let mut batch = Batch::new();
        batch.without_ipv6(2);
        batch.set_link(Link { index: 2, mac: Some([2, 0, 0, 0, 0, 1]), up: true });
        batch.add_address(2, Ipv4Addr::new(10, 0, 0, 2), 32);
        let mut other = Batch::new();
        other.add_address(2, Ipv4Addr::new(10, 0, 0, 3), 32);
        other.remove_address(2, Ipv4Addr::new(10, 0, 0, 2), 32);
        assert_eq!(other.finish().2, Some(1), "only who takes one away may find it gone");
        let (bytes, count, may_be_gone) = batch.finish();
        assert_eq!((count, may_be_gone), (3, None));
        // Header, interface, and three nested attributes; header, interface, address; and the last with two addresses.
        let (first, second, third) = (16 + 16 + (4 + 4 + 8), 16 + 16 + 12, 16 + 8 + 8 + 8);
        assert_eq!(bytes.len(), first + second + third);
        assert_eq!(number(&bytes, 0), Some(u32::try_from(first).unwrap()));
        assert_eq!(number(&bytes, first), Some(u32::try_from(second).unwrap()));
        assert_eq!(bytes[first + second + 17], 32, "the prefix of the third request");
    }

    #[test]
    fn replies_that_lie_about_their_length_end_the_list() {
        let mut bytes = Vec::new();
        message(&mut bytes, NLMSG_ERROR, 0, &(-17_i32).to_ne_bytes());
        message(&mut bytes, NLMSG_ERROR, 0, &0_i32.to_ne_bytes());
        assert_eq!(replies(&bytes).collect::<Vec<_>>(), [Reply::Answer(17), Reply::Answer(0)]);
        bytes[20..24].copy_from_slice(&5000_u32.to_ne_bytes());
        assert_eq!(replies(&bytes).collect::<Vec<_>>(), [Reply::Answer(17)]);
        assert_eq!(replies(&[0; 40]).count(), 0);
        assert_eq!(replies(&[255; 3]).count(), 0);
    }

    #[test]
    fn addresses_are_found_among_attributes() {
        let mut body = vec![AF_INET, 32, 0, 0];
        body.extend_from_slice(&7_u32.to_ne_bytes());
        attribute(&mut body, 3, b"eth0\0");
        attribute(&mut body, IFA_LOCAL, &[10, 0, 0, 9]);
        let mut bytes = Vec::new();
        message(&mut bytes, RTM_NEWADDR, 0, &body);
        message(&mut bytes, NLMSG_ERROR, 0, &[0; 4]);
        let expected = Reply::Address { index: 7, address: Ipv4Addr::new(10, 0, 0, 9) };
        assert_eq!(replies(&bytes).collect::<Vec<_>>(), [expected, Reply::Answer(0)]);
    }
}
