//! Netlink messages as bytes: written with all lengths right, read with all lengths checked.
//!
//! ```text
//!   nlmsghdr   len u32 · type u16 · flags u16 · seq u32 · pid u32
//!   body       a fixed head per message type, then attributes
//!   attribute  len u16 · type u16 · value · padding to 4
//! ```
//! All numbers are in the host's byte order.

/// A message or an attribute whose lengths do not fit into what holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;

/// A request being written.
#[derive(Debug)]
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// Starts a message of this type and these flags with the fixed head of its body.
    pub(super) fn new(kind: u16, flags: u16, head: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | super::NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(head);
        pad(&mut bytes);
        Self { bytes }
    }

    /// Adds an attribute; values here are names, marks and addresses, far below the 64 KiB a length can say.
    pub(super) fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        let value = &value[..value.len().min(4096)];
        let len = u16::try_from(value.len() + ATTRIBUTE_HEADER).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        pad(&mut self.bytes);
        self
    }

    /// Adds a text attribute, ended by a NUL.
    pub(super) fn attr_str(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// The finished message.
    pub(super) fn finish(mut self, seq: u32, extra_flags: u16) -> Vec<u8> {
        let len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        let flags = u16_at(&self.bytes, 6).unwrap_or(0) | extra_flags;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&seq.to_ne_bytes());
        self.bytes
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// One message, as received.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) seq: u32,
    pub(super) body: &'a [u8],
}

/// The messages of one datagram.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Malformed>> {
    pieces(datagram, |rest| {
        let len = usize::try_from(u32_at(rest, 0)?).map_err(|_| Malformed)?;
        let whole = rest.get(..len).filter(|_| len >= HEADER).ok_or(Malformed)?;
        Ok((len, Message { kind: u16_at(whole, 4)?, flags: u16_at(whole, 6)?, seq: u32_at(whole, 8)?, body: &whole[HEADER..] }))
    })
}

/// The attributes in the rest of a body; the top bits of a type (nested, byte order) are taken off.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), Malformed>> {
    pieces(bytes, |rest| {
        let len = usize::from(u16_at(rest, 0)?);
        let whole = rest.get(..len).filter(|_| len >= ATTRIBUTE_HEADER).ok_or(Malformed)?;
        Ok((len, (u16_at(whole, 2)? & 0x3fff, &whole[ATTRIBUTE_HEADER..])))
    })
}

/// Cuts pieces that start with their length and are padded to four bytes; ends at the first bad one.
fn pieces<'a, T: 'a>(
    bytes: &'a [u8],
    cut: impl Fn(&'a [u8]) -> Result<(usize, T), Malformed> + 'a,
) -> impl Iterator<Item = Result<T, Malformed>> + 'a {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        Some(match cut(rest) {
            Ok((len, piece)) => {
                // The last piece may lack its padding.
                rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
                Ok(piece)
            }
            Err(bad) => {
                rest = &[];
                Err(bad)
            }
        })
    })
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    array_at(bytes, at).map(u16::from_ne_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    array_at(bytes, at).map(u32::from_ne_bytes)
}

pub(super) fn i32_at(bytes: &[u8], at: usize) -> Result<i32, Malformed> {
    array_at(bytes, at).map(i32::from_ne_bytes)
}

pub(super) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Malformed> {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(Malformed)
}

/// A text value up to its NUL; broken bytes are replaced, so such a text equals no name or mark of ours.
pub(super) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&b| b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        Request::new(16, 0, &[1, 2, 3, 4]).attr_str(3, "eth0").attr(27, &7_u32.to_ne_bytes()).finish(9, 4)
    }

    #[test]
    fn written_messages_read_back() {
        let mut bytes = sample();
        bytes.extend(sample());
        let read: Vec<_> = messages(&bytes).collect::<Result<_, _>>().unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!((read[1].kind, read[1].flags, read[1].seq), (16, 5, 9));
        let attrs: Vec<_> = attributes(&read[1].body[4..]).collect::<Result<_, _>>().unwrap();
        assert_eq!((attrs[0].0, text(attrs[0].1)), (3, "eth0".to_owned()));
        assert_eq!((attrs[1].0, u32_at(attrs[1].1, 0)), (27, Ok(7)));
    }

    #[test]
    fn every_cut_is_noticed_and_no_length_leads_outside() {
        let whole = sample();
        for len in 1..whole.len() {
            assert!(messages(&whole[..len]).any(|m| m.is_err()), "cut at {len}");
        }
        for bad in [0_u32, 15, 16_000, u32::MAX] {
            let mut bytes = whole.clone();
            bytes[..4].copy_from_slice(&bad.to_ne_bytes());
            assert!(messages(&bytes).any(|m| m.is_err()), "length {bad}");
        }
        for bad in [0_u16, 3, 600, u16::MAX] {
            let mut bytes = whole.clone();
            bytes[20..22].copy_from_slice(&bad.to_ne_bytes());
            assert!(attributes(&bytes[20..]).any(|a| a.is_err()), "attribute length {bad}");
        }
        assert_eq!(attributes(&[]).count(), 0);
    }
}
