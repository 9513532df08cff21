//! The interfaces through which guests reach the world, and replies come back.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use smolvm_model::network::{IfName, Ipv4Net};

use super::netlink::{Link, Netlink, NetlinkError, Route, RouteKind};

/// The uplinks of a host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uplinks {
    /// Those smolvm can work with.
    pub names: Vec<IfName>,
    /// Names with characters that smolvm does not put into rules and paths.
    pub unusable: Vec<String>,
}

/// Finds the interfaces of all default routes; without any, those with a network of their own.
pub fn find() -> Result<Uplinks, NetlinkError> {
    let mut netlink = Netlink::open()?;
    let routes = netlink.routes()?;
    Ok(choose(&routes, &netlink.links()?))
}

pub(super) fn choose(routes: &[Route], links: &[Link]) -> Uplinks {
    let sending = || routes.iter().filter(|route| route.kind == RouteKind::Unicast && !route.is_in_local_table());
    let mut indices: BTreeSet<u32> = sending().filter(|route| route.to.prefix() == 0).flat_map(|route| route.links.clone()).collect();
    if indices.is_empty() {
        let connected = |route: &&Route| !route.gateway && !is_link_local(route.to);
        indices = sending().filter(connected).flat_map(|route| route.links.clone()).collect();
    }
    let mut uplinks = Uplinks::default();
    // A TAP of any installation is where guests are, not where the world is.
    for link in links.iter().filter(|link| indices.contains(&link.index) && link.kind.as_deref() != Some("tun") && link.name != "lo") {
        match link.name.parse() {
            Ok(name) => uplinks.names.push(name),
            Err(_) => uplinks.unusable.push(link.name.clone()),
        }
    }
    uplinks
}

fn is_link_local(net: Ipv4Net) -> bool {
    Ipv4Net::new(Ipv4Addr::new(169, 254, 0, 0), 16).is_ok_and(|local| local.overlaps(&net))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(to: &str, link: u32, gateway: bool) -> Route {
        Route { to: to.parse().unwrap(), kind: RouteKind::Unicast, table: 254, links: vec![link], gateway }
    }

    fn link(index: u32, name: &str, kind: Option<&str>) -> Link {
        Link { index, name: name.into(), alias: None, group: 0, kind: kind.map(Into::into), up: true }
    }

    #[test]
    fn default_routes_decide_and_without_one_the_connected_networks_do() {
        let links = [link(1, "lo", None), link(2, "eth0", None), link(3, "we\"ird", None), link(4, "svtaaaaaaaaaaaa", Some("tun"))];
        let connected = [
            route("192.0.2.0/24", 2, false),
            route("203.0.113.0/24", 3, false),
            route("10.0.0.2/32", 4, false),
            route("127.0.0.0/8", 1, false),
        ];
        let found = choose(&connected, &links);
        assert_eq!((found.names[0].as_str(), found.names.len(), found.unusable), ("eth0", 1, vec!["we\"ird".to_owned()]));
        let mut with_default = connected.to_vec();
        with_default.push(route("0.0.0.0/0", 3, true));
        assert!(choose(&with_default, &links).names.is_empty());
        assert_eq!(choose(&[], &links), Uplinks::default());
    }
}
