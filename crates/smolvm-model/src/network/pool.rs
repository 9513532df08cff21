//! Guest addresses: one private network per installation, clear of what the host can reach already.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use super::{Ipv4Net, Ipv4NetError};
use crate::name::InstallId;

/// The addresses of one installation: a network whose first address is the gateway's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressPool(Ipv4Net);

/// Why there is no pool, or no address in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Every private network overlaps a route of the host.
    #[error("every private address range overlaps one of the host's {routes} routes")]
    NoFreeNetwork {
        /// Routes that were looked at.
        routes: usize,
    },
    /// The text (of a record) is not a network.
    #[error(transparent)]
    NotANetwork(#[from] Ipv4NetError),
    /// A network outside the private ranges, or too large or too small to be a pool.
    #[error("{net} cannot be a pool of guest addresses")]
    NotAPool {
        /// The network that was given.
        net: Ipv4Net,
    },
    /// All addresses are taken.
    #[error("all {capacity} guest addresses are taken")]
    Full {
        /// Addresses the pool has for guests.
        capacity: u32,
    },
}

/// Private ranges by how rarely they are in use where nobody expects them: RFC 1918, then the
/// carrier-grade range, which some clouds and overlay networks use behind the kernel's back.
const PRIVATE: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
];
/// Sizes to try: 16,381 guests, then what may still fit between the routes of a crowded host.
const PREFIXES: [u8; 3] = [18, 22, 24];
/// A route shorter than this is a default route or a part of one (VPNs use two halves), not a neighbour.
const SHORTEST_ROUTE: u8 = 8;
const WIDEST_POOL: u8 = 16;

impl AddressPool {
    /// Chooses the pool of an installation; `known` are the networks the host has routes to.
    ///
    /// The place to begin is derived from the installation, so two installations rarely choose the same
    /// and one chooses the same again while the host does not change.
    pub fn choose(install: &InstallId, known: &[Ipv4Net]) -> Result<Self, PoolError> {
        let taken: Vec<&Ipv4Net> = known.iter().filter(|net| net.prefix() >= SHORTEST_ROUTE).collect();
        for prefix in PREFIXES {
            for (start, range) in PRIVATE {
                let count = 1_u32 << (prefix - range);
                // Mixed, because the low bits of ids that differ in one place differ in one place.
                let seed = u32::try_from((install.as_u64().wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 32).unwrap_or(0);
                let first = seed % count;
                let nets = (0..count).map(|i| (first + i) % count).filter_map(|i| {
                    let network = u32::from(start) + (i << (32 - prefix));
                    Ipv4Net::new(Ipv4Addr::from(network), prefix).ok()
                });
                for net in nets {
                    if !taken.iter().any(|known| known.overlaps(&net)) {
                        return Ok(Self(net));
                    }
                }
            }
        }
        Err(PoolError::NoFreeNetwork { routes: known.len() })
    }

    /// Takes a network for a pool, as it was recorded before.
    pub fn from_net(net: Ipv4Net) -> Result<Self, PoolError> {
        let private = PRIVATE.iter().any(|&(start, range)| Ipv4Net::new(start, range).is_ok_and(|all| all.contains(net.network())));
        if private && (WIDEST_POOL..=30).contains(&net.prefix()) { Ok(Self(net)) } else { Err(PoolError::NotAPool { net }) }
    }

    /// The network.
    pub fn net(&self) -> Ipv4Net {
        self.0
    }

    /// The host's address on every TAP: the first after the network's own.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.0.network()) + 1)
    }

    /// How many guests there are addresses for: all but the network's, the gateway's and the broadcast's.
    pub fn capacity(&self) -> u32 {
        u32::from(self.0.broadcast()) - u32::from(self.0.network()) - 2
    }

    /// The `n`th guest address, from 0.
    pub fn nth(&self, n: u32) -> Option<Ipv4Addr> {
        (n < self.capacity()).then(|| Ipv4Addr::from(u32::from(self.gateway()) + 1 + n))
    }

    /// The first guest address that is not taken.
    pub fn allocate(&self, taken: &BTreeSet<Ipv4Addr>) -> Result<Ipv4Addr, PoolError> {
        (0..self.capacity())
            .filter_map(|n| self.nth(n))
            .find(|address| !taken.contains(address))
            .ok_or(PoolError::Full { capacity: self.capacity() })
    }
}

impl FromStr for AddressPool {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Self, PoolError> {
        Self::from_net(text.parse()?)
    }
}

impl fmt::Display for AddressPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn install(n: u8) -> InstallId {
        InstallId::from_digest([n; 32])
    }

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn a_default_route_and_its_halves_take_nothing() {
        let free = AddressPool::choose(&install(1), &[]).unwrap();
        let known = ["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1"].map(net);
        assert_eq!(AddressPool::choose(&install(1), &known), Ok(free));
        assert_eq!(free.net().prefix(), 18);
        assert_eq!(free.to_string().parse(), Ok(free));
    }

    #[test]
    fn crowded_hosts_get_another_range_then_a_smaller_pool_then_an_error() {
        let ten = AddressPool::choose(&install(2), &[net("10.0.0.0/8")]).unwrap();
        assert!(net("172.16.0.0/12").contains(ten.gateway()));
        // All but one /24 of the private world is routed.
        let mut known = ["172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"].map(net).to_vec();
        let hole = net("10.11.12.0/24");
        let mut rest = net("10.0.0.0/8");
        while rest != hole {
            let half = |bit: u32| Ipv4Net::new(Ipv4Addr::from(u32::from(rest.network()) + bit), rest.prefix() + 1).unwrap();
            let (low, high) = (half(0), half(1 << (31 - rest.prefix())));
            let (keep, route) = if low.overlaps(&hole) { (low, high) } else { (high, low) };
            known.push(route);
            rest = keep;
        }
        assert_eq!(AddressPool::choose(&install(3), &known).unwrap().net(), hole);
        known.push(net("10.11.12.77/32"));
        assert_eq!(AddressPool::choose(&install(3), &known), Err(PoolError::NoFreeNetwork { routes: known.len() }));
    }

    #[test]
    fn only_private_networks_of_a_fitting_size_are_pools() {
        for bad in ["8.8.8.0/24", "10.0.0.0/8", "10.0.0.0/15", "10.0.0.0/31", "0.0.0.0/0"] {
            assert!(bad.parse::<AddressPool>().is_err(), "{bad}");
        }
        let pool: AddressPool = "10.0.0.0/30".parse().unwrap();
        assert_eq!((pool.capacity(), pool.nth(0), pool.nth(1)), (1, Some(Ipv4Addr::new(10, 0, 0, 2)), None));
    }

    proptest! {
        #[test]
        fn a_pool_overlaps_no_known_route(seed: [u8; 32], routes in proptest::collection::vec((any::<u32>(), 8_u8..=32), 0..40)) {
            let known: Vec<Ipv4Net> = routes.into_iter().map(|(a, p)| Ipv4Net::around(Ipv4Addr::from(a), p).unwrap()).collect();
            if let Ok(pool) = AddressPool::choose(&InstallId::from_digest(seed), &known) {
                prop_assert!(known.iter().all(|n| !n.overlaps(&pool.net())));
                prop_assert!(AddressPool::from_net(pool.net()).is_ok());
            }
        }

        #[test]
        fn no_address_is_given_twice_and_none_is_the_hosts(order in proptest::collection::vec(any::<bool>(), 1..400)) {
            let pool: AddressPool = "10.9.8.0/25".parse().unwrap();
            let mut taken = BTreeSet::new();
            for give in order {
                if give {
                    match pool.allocate(&taken) {
                        Ok(address) => {
                            prop_assert!(address != pool.gateway() && address != pool.net().network() && address != pool.net().broadcast());
                            prop_assert!(pool.net().contains(address));
                            prop_assert!(taken.insert(address));
                        }
                        Err(e) => prop_assert_eq!((e, taken.len()), (PoolError::Full { capacity: 125 }, 125)),
                    }
                } else if let Some(&first) = taken.iter().next() {
                    taken.remove(&first);
                }
            }
        }
    }
}
