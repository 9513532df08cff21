//! The network of sandboxes as values: who gets which address, which uid, which rules.
//!
//! ```text
//!   InstallId ──► AddressPool  10.37.64.0/18 ──► gateway 10.37.64.1 (one, on every TAP)
//!            │                               └─► a guest address per sandbox
//!            ├──► UidRange     65,536 uids    ──► a hypervisor uid per sandbox
//!            ├──► LinkGroup    the group all TAPs of this installation are in
//!            └──► table inet smolvm_<install>: fixed chains, sandboxes are set elements
//! ```
//!
//! Invariants: everything is derived from the installation and what is taken already, so the same
//! input gives the same answer; nothing that reaches the text of a rule is a free string.

mod element;
mod frame;
mod group;
mod ifname;
mod ipv4net;
mod pool;
mod ruleset;
mod uid;

pub use element::{ElementKey, ElementKeyError, ElementOwner, Guest, SetName, displaced};
pub use frame::{FramePolicy, MAX_NAME_REPLY, Verdict, judge, name_reply};
pub use group::LinkGroup;
pub use ifname::{IfName, IfNameError};
pub use ipv4net::{Ipv4Net, Ipv4NetError};
pub use pool::{AddressPool, PoolError};
pub use ruleset::{Base, add, add_table, base, base_anew, drop_table, open_uplinks, rebuild, remove, rules_of, table_name};
pub use uid::{IdRange, UidRange, UidRangeError};

use crate::name::MacAddr;

/// The Ethernet address of the host's end of every TAP.
///
/// One for all, because each TAP is a wire of its own; fixed, so that a guest forked from a
/// template meets the gateway it already knows, and so that udev has no address to make up.
pub const GATEWAY_MAC: MacAddr = MacAddr([0x02, 0x73, 0x6d, 0x6f, 0x6c, 0x01]);
