//! Links: list, change, delete.

use rustix::io::Errno;

use super::wire::{self, Malformed, Request};
use super::{Netlink, NetlinkError};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_GROUP: u16 = 27;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_INFO_KIND: u16 = 1;
/// Leaves the statistics out of a list, which are most of its bytes.
const RTEXT_FILTER_SKIP_STATS: u32 = 8;
const IFF_UP: u32 = 1;
const IFINFOMSG: usize = 16;

/// One network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it; not used again while the kernel runs, unlike the name.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its alias, where smolvm writes its mark.
    pub alias: Option<String>,
    /// Its group.
    pub group: u32,
    /// The kind of virtual device, such as `tun`; real ones have none.
    pub kind: Option<String>,
    /// Whether it is switched on.
    pub up: bool,
}

/// What to change on a link; what is `None` stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkChange<'a> {
    /// The alias.
    pub alias: Option<&'a str>,
    /// The group.
    pub group: Option<u32>,
    /// The Ethernet address.
    pub address: Option<[u8; 6]>,
    /// Switched on.
    pub up: Option<Up>,
}

/// Switches a link on; nothing here ever switches one off.
#[derive(Debug, Clone, Copy)]
pub struct Up;

impl Netlink {
    /// All links of this network namespace.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let request = || Request::new(RTM_GETLINK, 0, &[0; IFINFOMSG]).attr(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
        self.dump("list the network devices", request, |body| read_link(body).map(Some))
    }

    /// The link of this name, if there is one.
    pub fn link_named(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        const ACTION: &str = "look up a network device";
        let request = Request::new(RTM_GETLINK, 0, &[0; IFINFOMSG])
            .attr(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes())
            .attr_str(IFLA_IFNAME, name);
        match self.ask(ACTION, request, read_link) {
            Ok(link) => Ok(Some(link)),
            Err(e) if e.errno() == Some(Errno::NODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Changes one link.
    pub fn change_link(&mut self, index: u32, change: LinkChange<'_>) -> Result<(), NetlinkError> {
        self.change("change a network device", change_request(index, change))
    }

    /// Moves links into a group, each answered for itself.
    pub fn regroup(&mut self, indices: &[u32], group: u32) -> Result<Vec<Result<(), NetlinkError>>, NetlinkError> {
        let change = LinkChange { group: Some(group), ..LinkChange::default() };
        self.change_all("regroup network devices", indices.iter().map(|&index| change_request(index, change)).collect())
    }

    /// Deletes one link.
    pub fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.change("delete a network device", Request::new(RTM_DELLINK, 0, &ifinfomsg(index, 0, 0)))
    }

    /// Deletes all links of a group in one step of the kernel's; group 0 is everybody's and is refused by the kernel.
    pub fn delete_group(&mut self, group: u32) -> Result<(), NetlinkError> {
        let request = Request::new(RTM_DELLINK, 0, &ifinfomsg(0, 0, 0)).attr(IFLA_GROUP, &group.to_ne_bytes());
        self.change("delete a group of network devices", request)
    }
}

fn change_request(index: u32, change: LinkChange<'_>) -> Request {
    let flags = if change.up.is_some() { IFF_UP } else { 0 };
    let mut request = Request::new(RTM_NEWLINK, 0, &ifinfomsg(index, flags, flags));
    if let Some(alias) = change.alias {
        // Without the NUL: the kernel stores what it is given.
        request = request.attr(IFLA_IFALIAS, alias.as_bytes());
    }
    if let Some(group) = change.group {
        request = request.attr(IFLA_GROUP, &group.to_ne_bytes());
    }
    if let Some(address) = change.address {
        request = request.attr(IFLA_ADDRESS, &address);
    }
    request
}

/// `struct ifinfomsg`: family u8, pad u8, type u16, index i32, flags u32, change mask u32.
fn ifinfomsg(index: u32, flags: u32, mask: u32) -> [u8; IFINFOMSG] {
    let mut head = [0; IFINFOMSG];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..16].copy_from_slice(&mask.to_ne_bytes());
    head
}

pub(super) fn read_link(body: &[u8]) -> Result<Link, Malformed> {
    let index = u32::try_from(wire::i32_at(body, 4)?).map_err(|_| Malformed)?;
    let flags = wire::u32_at(body, 8)?;
    let mut link = Link { index, name: String::new(), alias: None, group: 0, kind: None, up: flags & IFF_UP != 0 };
    for attribute in wire::attributes(body.get(IFINFOMSG..).ok_or(Malformed)?) {
        let (kind, value) = attribute?;
        match kind {
            IFLA_IFNAME => link.name = wire::text(value),
            IFLA_IFALIAS => link.alias = Some(wire::text(value)).filter(|alias| !alias.is_empty()),
            IFLA_GROUP => link.group = wire::u32_at(value, 0)?,
            IFLA_LINKINFO => {
                for inner in wire::attributes(value) {
                    let (kind, value) = inner?;
                    if kind == IFLA_INFO_KIND {
                        link.kind = Some(wire::text(value));
                    }
                }
            }
            _ => {}
        }
    }
    if link.name.is_empty() { Err(Malformed) } else { Ok(link) }
}
