//! Frames on their way to the host.
//!
//! Invariants: `Data` is taken from a pipe only while [`Outbox::takes_data`], so a host that does
//! not read leaves the rest in the pipes, where it stops the writers. Answers always fit. Bytes are
//! read from a pipe straight behind the header that will announce them.

use std::os::fd::AsFd;

use rustix::io::Errno;
use smolvm_proto::{FrameKind, FrameRef, HEADER_LEN, MAX_PAYLOAD};

/// Bytes waiting beyond which no more `Data` is added.
const DATA_LIMIT: usize = 128 * 1024;

/// Bytes waiting beyond which the host is not listened to either: its questions make answers.
const ANSWER_LIMIT: usize = 512 * 1024;

/// A queue of whole frames, the first of which may be half sent.
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; DATA_LIMIT + 2 * (HEADER_LEN + MAX_PAYLOAD)], start: 0, end: 0 }
    }

    /// Whether a largest `Data` frame may be added.
    pub(crate) fn takes_data(&self) -> bool {
        self.pending() < DATA_LIMIT
    }

    /// Whether there is room for the answers that reading from the host may cause.
    pub(crate) fn takes_answers(&self) -> bool {
        self.pending() < ANSWER_LIMIT
    }

    /// Whether everything was sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending() == 0
    }

    /// Forgets everything, a half-sent frame too: a new host side scans for its reply.
    pub(crate) fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    /// Adds bytes that are no frame: the attach reply.
    pub(crate) fn push_raw(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.bytes[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// Adds a frame.
    pub(crate) fn push(&mut self, frame: FrameRef<'_>) {
        self.push_raw(&frame.header().to_bytes());
        self.push_raw(frame.payload);
    }

    /// Reads at most `most` bytes from `pipe` into a `Data` frame; says how many came, 0 at the end.
    pub(crate) fn fill(&mut self, pipe: impl AsFd, stream: u32, flags: u8, most: usize) -> Result<usize, Errno> {
        self.reserve(HEADER_LEN + MAX_PAYLOAD);
        let body = self.end + HEADER_LEN;
        let count = rustix::io::read(pipe, &mut self.bytes[body..body + most.min(MAX_PAYLOAD)])?;
        if count > 0 {
            let frame = FrameRef { kind: FrameKind::Data, flags, stream, payload: &self.bytes[body..body + count] };
            let header = frame.header().to_bytes();
            self.bytes[self.end..body].copy_from_slice(&header);
            self.end = body + count;
        }
        Ok(count)
    }

    /// Sends as much as the line takes now.
    pub(crate) fn flush(&mut self, line: impl AsFd) -> Result<(), Errno> {
        while !self.is_empty() {
            match rustix::io::write(&line, &self.bytes[self.start..self.end]) {
                Ok(count) => self.start += count,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        // Back to the front: pages that were touched before cost nothing now.
        self.clear();
        Ok(())
    }

    fn pending(&self) -> usize {
        self.end - self.start
    }

    fn reserve(&mut self, count: usize) {
        if self.bytes.len() - self.end >= count {
            return;
        }
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.bytes.len() - self.end < count {
            self.bytes.resize(self.end + count, 0);
        }
    }
}
