//! IPv4 on links: addresses, routes, neighbours.

use std::net::Ipv4Addr;

use smolvm_model::name::MacAddr;
use smolvm_model::network::Ipv4Net;

use super::wire::{self, Malformed, Request};
use super::{Netlink, NetlinkError};

const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const AF_INET: u8 = 2;
const RT_TABLE_MAIN: u8 = 254;
const RT_TABLE_LOCAL: u32 = 255;
/// Who made a route: ours are static, as an administrator's would be.
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;

/// What a route does with what it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends it on.
    Unicast,
    /// Takes it in: an address of this host.
    Local,
    /// Anything else: broadcast, unreachable, prohibit.
    Other,
}

/// One IPv4 route of any table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// What it matches.
    pub to: Ipv4Net,
    /// What it does.
    pub kind: RouteKind,
    /// The table it stands in.
    pub table: u32,
    /// The links it sends through; several for a multipath route.
    pub links: Vec<u32>,
    /// Whether a router stands between.
    pub gateway: bool,
}

impl Netlink {
    /// Puts an address with this prefix length on a link; one that is there already stays.
    pub fn add_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> Result<(), NetlinkError> {
        // family, prefix length, flags, scope (0: global), index
        let mut head = vec![AF_INET, prefix, 0, 0];
        head.extend(index.to_ne_bytes());
        let request = Request::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &head)
            .attr(IFA_LOCAL, &address.octets())
            .attr(IFA_ADDRESS, &address.octets());
        self.change("add an address", request)
    }

    /// Makes the route to one address through a link; a route that exists is an error (`EXIST`).
    pub fn add_host_route(&mut self, index: u32, to: Ipv4Addr, from: Ipv4Addr) -> Result<(), NetlinkError> {
        // family, destination bits, source bits, tos, table, protocol, scope, type, flags
        let mut head = vec![AF_INET, 32, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_LINK, RTN_UNICAST];
        head.extend([0; 4]);
        let request = Request::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &head)
            .attr(RTA_DST, &to.octets())
            .attr(RTA_PREFSRC, &from.octets())
            .attr(RTA_OIF, &index.to_ne_bytes());
        self.change("add a route", request)
    }

    /// Says for good which Ethernet address an IPv4 address has on a link.
    pub fn add_neighbour(&mut self, index: u32, address: Ipv4Addr, mac: MacAddr) -> Result<(), NetlinkError> {
        // family, padding, index, state, flags, type
        let mut head = vec![AF_INET, 0, 0, 0];
        head.extend(index.to_ne_bytes());
        head.extend(NUD_PERMANENT.to_ne_bytes());
        head.extend([0; 2]);
        let request =
            Request::new(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &head).attr(NDA_DST, &address.octets()).attr(NDA_LLADDR, &mac.0);
        self.change("add a neighbour", request)
    }

    /// All IPv4 routes of all tables.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut head = [0; 12];
        head[0] = AF_INET;
        self.dump("list the routes", || Request::new(RTM_GETROUTE, 0, &head), read_route)
    }
}

impl Route {
    /// Whether the kernel keeps it for its own addresses.
    pub fn is_in_local_table(&self) -> bool {
        self.table == RT_TABLE_LOCAL
    }
}

pub(super) fn read_route(body: &[u8]) -> Result<Option<Route>, Malformed> {
    let head: [u8; 12] = wire::array_at(body, 0)?;
    let [family, bits, _, _, table, _, _, kind, ..] = head;
    if family != AF_INET {
        return Ok(None);
    }
    let mut to = Ipv4Addr::UNSPECIFIED;
    let mut route = Route {
        to: Ipv4Net::around(to, 0).map_err(|_| Malformed)?,
        kind: match kind {
            RTN_UNICAST => RouteKind::Unicast,
            RTN_LOCAL => RouteKind::Local,
            _ => RouteKind::Other,
        },
        table: table.into(),
        links: Vec::new(),
        gateway: false,
    };
    for attribute in wire::attributes(&body[12..]) {
        let (kind, value) = attribute?;
        match kind {
            RTA_DST => to = Ipv4Addr::from(wire::array_at::<4>(value, 0)?),
            RTA_OIF => route.links.push(wire::u32_at(value, 0)?),
            RTA_GATEWAY | RTA_VIA => route.gateway = true,
            RTA_TABLE => route.table = wire::u32_at(value, 0)?,
            RTA_MULTIPATH => read_hops(value, &mut route)?,
            _ => {}
        }
    }
    route.to = Ipv4Net::around(to, bits).map_err(|_| Malformed)?;
    Ok(Some(route))
}

/// `struct rtnexthop`: len u16, flags u8, hops u8, index i32, then attributes up to len.
fn read_hops(mut rest: &[u8], route: &mut Route) -> Result<(), Malformed> {
    while !rest.is_empty() {
        let len = usize::from(wire::u16_at(rest, 0)?);
        let hop = rest.get(..len).filter(|_| len >= 8).ok_or(Malformed)?;
        route.links.push(wire::u32_at(hop, 4)?);
        for attribute in wire::attributes(&hop[8..]) {
            let (kind, _) = attribute?;
            route.gateway |= kind == RTA_GATEWAY || kind == RTA_VIA;
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(())
}
