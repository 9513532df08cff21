//! Messages of the name service, and the list of name servers.

use std::net::{IpAddr, SocketAddr};

use super::{message, resolvers};

/// Whether a guest's message is passed on.
pub fn is_plain_query(query: &[u8]) -> bool {
    message::is_plain_query(query)
}

/// Whether a message answers the question with this id.
pub fn is_reply_to(reply: &[u8], id: [u8; 2]) -> bool {
    message::is_reply_to(reply, id)
}

/// The reply "no server answered".
pub fn failure(query: &[u8]) -> Option<Vec<u8>> {
    message::failure(query)
}

/// The reply "ask over TCP".
pub fn truncated(reply: &[u8]) -> Option<Vec<u8>> {
    message::truncated(reply)
}

/// The servers in a `resolv.conf`.
pub fn name_servers(text: &str, except: IpAddr) -> Vec<SocketAddr> {
    resolvers::parse(text, except)
}
