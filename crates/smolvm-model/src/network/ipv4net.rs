//! One IPv4 network.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network: an address whose host bits are zero, and a prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Net {
    network: Ipv4Addr,
    prefix: u8,
}

/// The text or the parts are not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an IPv4 network: an address without host bits, a slash and a prefix length up to 32")]
pub struct Ipv4NetError;

impl Ipv4Net {
    /// Joins address and prefix length; host bits must be zero.
    pub fn new(network: Ipv4Addr, prefix: u8) -> Result<Self, Ipv4NetError> {
        let net = Self { network, prefix };
        if prefix <= 32 && u32::from(network) & net.host_mask() == 0 { Ok(net) } else { Err(Ipv4NetError) }
    }

    /// The network that `address` with this prefix length lies in.
    pub fn around(address: Ipv4Addr, prefix: u8) -> Result<Self, Ipv4NetError> {
        if prefix > 32 {
            return Err(Ipv4NetError);
        }
        let mask = Self { network: address, prefix }.host_mask();
        Self::new(Ipv4Addr::from(u32::from(address) & !mask), prefix)
    }

    /// The first address, which names the network.
    pub fn network(&self) -> Ipv4Addr {
        self.network
    }

    /// The last address.
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) | self.host_mask())
    }

    /// Bits of the address that name the network.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether the address lies in this network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (self.network..=self.broadcast()).contains(&address)
    }

    /// Whether any address lies in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.network <= other.broadcast() && other.network <= self.broadcast()
    }

    fn host_mask(self) -> u32 {
        // A shift by 32 is an overflow in Rust, and the mask of a /32 is zero.
        u32::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0)
    }
}

impl FromStr for Ipv4Net {
    type Err = Ipv4NetError;

    fn from_str(text: &str) -> Result<Self, Ipv4NetError> {
        let (network, prefix) = text.split_once('/').ok_or(Ipv4NetError)?;
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Ipv4NetError);
        }
        Self::new(network.parse().map_err(|_| Ipv4NetError)?, prefix.parse().map_err(|_| Ipv4NetError)?)
    }
}

impl fmt::Display for Ipv4Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges() {
        let all: Ipv4Net = "0.0.0.0/0".parse().unwrap();
        let one: Ipv4Net = "255.255.255.255/32".parse().unwrap();
        assert!(all.contains(one.network()) && all.overlaps(&one) && one.overlaps(&all));
        assert_eq!(one.broadcast(), one.network());
        let a: Ipv4Net = "10.0.0.0/18".parse().unwrap();
        let b: Ipv4Net = "10.0.64.0/18".parse().unwrap();
        assert!(!a.overlaps(&b));
        assert_eq!(a.broadcast(), Ipv4Addr::new(10, 0, 63, 255));
        assert_eq!(Ipv4Net::around(Ipv4Addr::new(10, 0, 63, 9), 18), Ok(a));
        for bad in ["", "10.0.0.0", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0/8", "10.0.0.0/8 "] {
            assert!(bad.parse::<Ipv4Net>().is_err(), "{bad:?}");
        }
    }
}
