//! From bytes to frames.

use super::{Frame, FrameError, FrameRef, HEADER_LEN, Header, MAX_PAYLOAD};

/// Room for one largest frame and as much read ahead, so that a reader rarely has to stop short.
const CAPACITY: usize = 2 * (HEADER_LEN + MAX_PAYLOAD);

/// Cuts a byte stream into frames.
///
/// Two ways to feed it: [`push`](Self::push) copies bytes in, or [`space`](Self::space) and
/// [`filled`](Self::filled) let a reader put them in place. Take frames out until `None` before
/// feeding more; then at most one incomplete frame is kept, so memory stays bounded.
///
/// After an error the frame boundary is lost: every later call gives the same error until
/// [`take_rest`](Self::take_rest) hands the unread bytes to a scanner.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    failed: Option<FrameError>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// An empty decoder at a frame boundary.
    pub fn new() -> Self {
        // Zeroed memory of this size comes untouched from the kernel: pages cost when they are used.
        Self { buffer: vec![0; CAPACITY], start: 0, end: 0, failed: None }
    }

    /// Copies bytes in. Grows the buffer only if frames were not taken out before.
    pub fn push(&mut self, bytes: &[u8]) {
        self.compact();
        if self.buffer.len() - self.end < bytes.len() {
            self.buffer.resize(self.end + bytes.len(), 0);
        }
        self.buffer[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// Room to read into; never empty once every complete frame was taken out.
    pub fn space(&mut self) -> &mut [u8] {
        self.compact();
        &mut self.buffer[self.end..]
    }

    /// Says that the first `count` bytes of [`space`](Self::space) hold data now.
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.buffer.len());
    }

    /// The next complete frame, owned.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        Ok(self.next_ref()?.map(|f| f.to_owned()))
    }

    /// The next complete frame, borrowed from the buffer.
    pub fn next_ref(&mut self) -> Result<Option<FrameRef<'_>>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let Some(header) = self.buffer[self.start..self.end].first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let header = match Header::parse(*header) {
            Ok(header) => header,
            Err(error) => {
                self.failed = Some(error);
                return Err(error);
            }
        };
        let body = self.start + HEADER_LEN;
        let next = body + header.len as usize;
        if next > self.end {
            return Ok(None);
        }
        self.start = next;
        Ok(Some(FrameRef { kind: header.kind, flags: header.flags, stream: header.stream, payload: &self.buffer[body..next] }))
    }

    /// Whether the frame boundary is lost, so that [`take_rest`](Self::take_rest) is the way on.
    pub fn next_is_garbage(&mut self) -> bool {
        if self.failed.is_none()
            && let Some(header) = self.buffer[self.start..self.end].first_chunk::<HEADER_LEN>()
        {
            self.failed = Header::parse(*header).err();
        }
        self.failed.is_some()
    }

    /// Takes out all unread bytes, from the header that failed on, and forgets the failure.
    pub fn take_rest(&mut self) -> Vec<u8> {
        let rest = self.buffer[self.start..self.end].to_vec();
        self.clear();
        rest
    }

    /// Drops everything: the next byte is the first of a frame.
    pub fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
        self.failed = None;
    }

    /// Bytes held and not yet given out as a frame.
    pub fn buffered(&self) -> usize {
        self.end - self.start
    }

    fn compact(&mut self) {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.start > 0 && self.buffer.len() - self.end < HEADER_LEN + MAX_PAYLOAD {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.buffer.len() > CAPACITY && self.end <= CAPACITY {
            self.buffer.truncate(CAPACITY);
            self.buffer.shrink_to_fit();
        }
    }
}
