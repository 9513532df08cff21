//! The network of sandboxes on the host.
//!
//! ```text
//!   netlink/  the routing socket: links, addresses, routes       nft       the packet filter's table
//!   tap       one TAP per sandbox, made and found by its mark    sysctl    forwarding, per interface
//!   links     many TAPs deleted in one step                      uplink    where replies come back
//!   dns       name service for guests, inside the monitor        routes    what a pool must not overlap
//!   user      the network of an ordinary user (passt)            accounts  what a uid range must not overlap
//!   rights    may we make TAPs at all?                           firewall  who else drops forwarded packets
//! ```
//!
//! Invariants: everything acts in the calling thread's network namespace; nothing is changed or deleted
//! that does not carry the installation's mark; what is gone already is no error.

pub mod accounts;
mod bind_device;
pub mod dns;
pub mod firewall;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod links;
pub mod netlink;
pub mod nft;
pub mod rights;
pub mod routes;
pub mod sysctl;
pub mod tap;
mod tun;
pub mod uplink;
pub mod user;
