//! The facts about one sandbox (or one uplink) that stand in the table as set elements.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use super::IfName;
use crate::name::{InstallId, MacAddr, Mark, TapName};

/// A sandbox's place in the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Whose it is.
    pub mark: Mark,
    /// The device it sends through.
    pub tap: TapName,
    /// The Ethernet address it sends from.
    pub mac: MacAddr,
    /// The address it sends from.
    pub address: Ipv4Addr,
}

impl Guest {
    /// The element that lets this guest send.
    pub fn key(&self) -> ElementKey {
        ElementKey::Source { tap: self.tap.clone(), mac: self.mac, address: self.address }
    }
}

/// The sets of the table that have elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetName {
    /// Which guest may send from which addresses through which TAP.
    Sources,
    /// Uplinks on which smolvm switched forwarding on.
    Opened,
}

impl SetName {
    /// Both, in the order they stand in the table.
    pub const ALL: [Self; 2] = [Self::Sources, Self::Opened];

    /// The name nft knows it by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sources => "sources",
            Self::Opened => "opened",
        }
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One element, by what makes it unique. Its text form (`source <tap> <mac> <address>`, `opened <name>`)
/// is its key in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ElementKey {
    /// A guest may send from here.
    Source {
        /// Through this device,
        tap: TapName,
        /// from this Ethernet address,
        mac: MacAddr,
        /// and this address.
        address: Ipv4Addr,
    },
    /// Forwarding on this uplink was switched on by smolvm.
    Opened {
        /// The uplink.
        uplink: IfName,
    },
}

/// The text is not the key of an element of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the key of an element of smolvm's table")]
pub struct ElementKeyError;

impl ElementKey {
    /// The set it stands in.
    pub fn set(&self) -> SetName {
        match self {
            Self::Source { .. } => SetName::Sources,
            Self::Opened { .. } => SetName::Opened,
        }
    }

    /// The key as nft writes it.
    pub(super) fn nft(&self) -> String {
        match self {
            Self::Source { tap, mac, address } => format!("\"{tap}\" . {mac} . {address}"),
            Self::Opened { uplink } => format!("\"{uplink}\""),
        }
    }
}

impl fmt::Display for ElementKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source { tap, mac, address } => write!(f, "source {tap} {mac} {address}"),
            Self::Opened { uplink } => write!(f, "opened {uplink}"),
        }
    }
}

impl FromStr for ElementKey {
    type Err = ElementKeyError;

    fn from_str(text: &str) -> Result<Self, ElementKeyError> {
        let words: Vec<&str> = text.split(' ').collect();
        match words.as_slice() {
            ["source", tap, mac, address] => Ok(Self::Source {
                tap: tap.parse().map_err(|_| ElementKeyError)?,
                mac: mac.parse().map_err(|_| ElementKeyError)?,
                address: address.parse().map_err(|_| ElementKeyError)?,
            }),
            ["opened", uplink] => Ok(Self::Opened { uplink: uplink.parse().map_err(|_| ElementKeyError)? }),
            _ => Err(ElementKeyError),
        }
    }
}

/// Whose an element is, by its comment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ElementOwner {
    /// One sandbox's.
    Sandbox(Mark),
    /// Shared by all sandboxes of an installation.
    Install(InstallId),
    /// Nobody's whom smolvm knows: no comment, or one that is no mark.
    Unknown,
}

impl ElementOwner {
    /// Reads a comment; what is no mark belongs to nobody.
    pub fn of_comment(comment: Option<&str>) -> Self {
        let Some(comment) = comment else { return Self::Unknown };
        if let Ok(mark) = comment.parse() {
            return Self::Sandbox(mark);
        }
        comment.strip_prefix("smolvm:").and_then(|id| id.parse().ok()).map_or(Self::Unknown, Self::Install)
    }
}

/// The elements among `present` that would let a guest send from another address than it has now:
/// left over by an earlier life of the same TAP name, to be removed in the transaction that adds the guest.
pub fn displaced<'a>(present: impl IntoIterator<Item = &'a ElementKey>, guests: &[Guest]) -> Vec<ElementKey> {
    let by = |guest: &Guest, key: &ElementKey| matches!(key, ElementKey::Source { tap, .. } if *tap == guest.tap) && *key != guest.key();
    present.into_iter().filter(|key| guests.iter().any(|guest| by(guest, key))).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_and_refuse_what_could_end_a_rule() {
        for text in ["source svtaaaaaaaaaaaa 02:00:00:00:00:01 10.0.0.2", "opened eth0"] {
            assert_eq!(text.parse::<ElementKey>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "source",
            "opened",
            "opened all",
            "opened \"eth0\"",
            "opened eth0 }; flush ruleset;",
            "source svtaaaaaaaaaaaa 02:00:00:00:00:01 10.0.0.2/0",
            "source svtaaaaaaaaaaa* 02:00:00:00:00:01 10.0.0.2",
        ] {
            assert!(bad.parse::<ElementKey>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn comments() {
        let id: InstallId = "0123456789".parse().unwrap();
        assert_eq!(ElementOwner::of_comment(Some("smolvm:0123456789")), ElementOwner::Install(id.clone()));
        let mark = Mark::new(id, "vm-a".parse().unwrap());
        assert_eq!(ElementOwner::of_comment(Some("smolvm:0123456789:vm-a")), ElementOwner::Sandbox(mark));
        for other in [None, Some(""), Some("smolvm:"), Some("smolvm:0123456789:"), Some("docker")] {
            assert_eq!(ElementOwner::of_comment(other), ElementOwner::Unknown);
        }
    }

    #[test]
    fn an_earlier_binding_of_the_same_tap_is_displaced() {
        let key = |text: &str| text.parse::<ElementKey>().unwrap();
        let guest = Guest {
            mark: "smolvm:0123456789:vm-a".parse().unwrap(),
            tap: "svtaaaaaaaaaaaa".parse().unwrap(),
            mac: MacAddr::local([0; 5]),
            address: Ipv4Addr::new(10, 0, 0, 2),
        };
        let old = key("source svtaaaaaaaaaaaa 02:00:00:00:00:00 10.0.0.9");
        let present = [guest.key(), old.clone(), key("source svtbbbbbbbbbbbb 02:00:00:00:00:00 10.0.0.9"), key("opened eth0")];
        assert_eq!(displaced(&present, &[guest]), [old]);
    }
}
