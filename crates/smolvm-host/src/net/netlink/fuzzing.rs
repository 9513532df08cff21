//! The kernel's datagrams.

use super::{Link, Route, inet, link, negated, wire};

/// The bodies of the messages in a datagram; nothing where one does not add up.
pub fn bodies(datagram: &[u8]) -> Option<Vec<&[u8]>> {
    wire::messages(datagram).map(|message| message.ok().map(|message| message.body)).collect()
}

/// The error numbers in a datagram's messages, read as answers.
pub fn errors(datagram: &[u8]) -> Vec<i32> {
    wire::messages(datagram).flatten().filter_map(|message| negated(&message).ok()).collect()
}

/// A message about a device.
pub fn link(body: &[u8]) -> Option<Link> {
    link::read_link(body).ok()
}

/// A message about a route.
pub fn route(body: &[u8]) -> Option<Route> {
    inet::read_route(body).ok().flatten()
}
