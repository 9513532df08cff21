//! Names of network devices.

use std::fmt;
use std::str::FromStr;

use super::{InstallId, SandboxId};

/// A TAP's interface name: `svt` and twelve characters of base 32, 15 bytes (IFNAMSIZ less the NUL).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TapName(String);

/// The text is not the name of a TAP of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a TAP name of smolvm: svt and twelve characters of a-z, 2-7")]
pub struct TapNameError;

const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const DIGITS: usize = 12;

impl TapName {
    /// Derives the name from installation and sandbox, so that it can be told without the ledger.
    ///
    /// Sixty bits of FNV-1a: not a secret and not a proof of ownership (the alias is), only a
    /// short name; the ledger's uniqueness decides should two ever meet.
    pub fn derive(install: &InstallId, sandbox: &SandboxId) -> Self {
        let text = format!("{install}:{sandbox}");
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let digits = (0..DIGITS).map(|i| {
            let index = usize::try_from((hash >> (i * 5)) & 31).unwrap_or(0);
            char::from(BASE32[index])
        });
        Self(std::iter::once("svt".to_owned()).chain(digits.map(String::from)).collect())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TapName {
    type Err = TapNameError;

    fn from_str(text: &str) -> Result<Self, TapNameError> {
        let rest = text.strip_prefix("svt").ok_or(TapNameError)?;
        if rest.len() == DIGITS && rest.bytes().all(|b| BASE32.contains(&b)) { Ok(Self(text.to_owned())) } else { Err(TapNameError) }
    }
}

impl fmt::Display for TapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

/// The text is not an Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an Ethernet address: six pairs of hex digits joined by colons")]
pub struct MacAddrError;

impl MacAddr {
    /// A locally administered unicast address from five bytes of the caller (first byte `02`).
    pub fn local(bytes: [u8; 5]) -> Self {
        Self([0x02, bytes[0], bytes[1], bytes[2], bytes[3], bytes[4]])
    }
}

impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, MacAddrError> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit())).ok_or(MacAddrError)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacAddrError)?;
        }
        if parts.next().is_some() { Err(MacAddrError) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if i == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tap_names_fit_the_kernel_and_differ() {
        let install = "0123456789".parse().unwrap();
        let a = TapName::derive(&install, &"vm-a".parse().unwrap());
        let b = TapName::derive(&install, &"vm-b".parse().unwrap());
        assert_eq!(a.as_str().len(), 15);
        assert_ne!(a, b);
        assert_eq!(a.as_str().parse::<TapName>(), Ok(a.clone()));
        assert!("eth0".parse::<TapName>().is_err());
    }

    #[test]
    fn mac_round_trip() {
        let mac = MacAddr::local([1, 2, 3, 4, 255]);
        assert_eq!(mac.to_string(), "02:01:02:03:04:ff");
        assert_eq!("02:01:02:03:04:ff".parse(), Ok(mac));
        assert!("02:01:02:03:04".parse::<MacAddr>().is_err());
        assert!("02:01:02:03:04:ff:00".parse::<MacAddr>().is_err());
        assert!("02:+1:02:03:04:ff".parse::<MacAddr>().is_err(), "a sign is no digit");
    }
}
