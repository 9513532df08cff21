//! Which stream of which client is which stream of the agent.
//!
//! Clients number their streams as they like; the agent wants ids that are never used twice. The
//! relay keeps the pairs and nothing else: it holds no data and grants no credit, so the windows
//! reach from end to end and bound what lies in between.

use std::collections::BTreeMap;

/// A client, by the order of its arrival.
pub(super) type ClientId = u64;

/// Streams open at once, over all clients: each may hold a window of data in a client's queue.
const MAX_STREAMS: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Relay {
    to_agent: BTreeMap<(ClientId, u32), u32>,
    to_client: BTreeMap<u32, (ClientId, u32)>,
    last: u32,
}

/// Why a stream was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpenRefused {
    /// The client uses that number already.
    InUse,
    /// Too many streams, or the numbers of this attach are used up.
    TooMany,
}

impl Relay {
    /// Gives a client's new stream a number for the agent.
    pub(super) fn open(&mut self, client: ClientId, stream: u32) -> Result<u32, OpenRefused> {
        if self.to_agent.contains_key(&(client, stream)) {
            return Err(OpenRefused::InUse);
        }
        if self.to_agent.len() >= MAX_STREAMS || self.last == u32::MAX {
            return Err(OpenRefused::TooMany);
        }
        self.last += 1;
        self.to_agent.insert((client, stream), self.last);
        self.to_client.insert(self.last, (client, stream));
        Ok(self.last)
    }

    /// How many streams of a client are open.
    pub(super) fn streams(&self, client: ClientId) -> usize {
        self.to_agent.range((client, 0)..=(client, u32::MAX)).count()
    }

    pub(super) fn has_streams(&self, client: ClientId) -> bool {
        self.to_agent.range((client, 0)..=(client, u32::MAX)).next().is_some()
    }

    pub(super) fn agent_stream(&self, client: ClientId, stream: u32) -> Option<u32> {
        self.to_agent.get(&(client, stream)).copied()
    }

    pub(super) fn client_stream(&self, stream: u32) -> Option<(ClientId, u32)> {
        self.to_client.get(&stream).copied()
    }

    /// Forgets a stream that ended.
    pub(super) fn close(&mut self, stream: u32) {
        if let Some(key) = self.to_client.remove(&stream) {
            self.to_agent.remove(&key);
        }
    }

    /// Forgets every stream; returns whose they were, and under what number.
    pub(super) fn drain(&mut self) -> Vec<(ClientId, u32)> {
        self.to_client.clear();
        std::mem::take(&mut self.to_agent).into_keys().collect()
    }

    /// Forgets a client; returns the agent's numbers of the streams it leaves.
    pub(super) fn drop_client(&mut self, client: ClientId) -> Vec<u32> {
        let left: Vec<u32> = self.to_agent.range((client, 0)..=(client, u32::MAX)).map(|(_, s)| *s).collect();
        for stream in &left {
            self.close(*stream);
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_clients_with_the_same_numbers_do_not_meet() {
        let mut relay = Relay::default();
        let a = relay.open(1, 7).unwrap();
        let b = relay.open(2, 7).unwrap();
        assert_ne!(a, b);
        assert_eq!(relay.open(1, 7), Err(OpenRefused::InUse));
        assert_eq!(relay.client_stream(b), Some((2, 7)));
        assert_eq!(relay.drop_client(1), [a]);
        assert_eq!(relay.client_stream(a), None);
        assert_eq!(relay.agent_stream(2, 7), Some(b));
        let again = relay.open(1, 7).unwrap();
        assert!(again > b, "an id was used twice");
    }

    #[test]
    fn who_has_streams() {
        let mut relay = Relay::default();
        assert!(!relay.has_streams(1));
        let (a, _) = (relay.open(1, 0).unwrap(), relay.open(1, u32::MAX).unwrap());
        relay.open(3, 1).unwrap();
        assert_eq!([1, 2, 3].map(|c| (relay.has_streams(c), relay.streams(c))), [(true, 2), (false, 0), (true, 1)]);
        relay.close(a);
        assert_eq!(relay.streams(1), 1);
        assert_eq!(relay.drain(), [(1, u32::MAX), (3, 1)]);
        assert!(!relay.has_streams(1) && relay.client_stream(2).is_none());
        assert!(relay.open(1, 7).unwrap() > 3, "an id was used twice");
    }

    #[test]
    fn streams_are_bounded() {
        let mut relay = Relay::default();
        for stream in 1..=1024 {
            relay.open(1, stream).unwrap();
        }
        assert_eq!(relay.open(2, 1), Err(OpenRefused::TooMany));
    }
}
