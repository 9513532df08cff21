//! Credit windows: how many bytes a channel may have in flight.
//!
//! ```text
//!   sender   SendWindow     starts with INITIAL_WINDOW, `take` before Data, `grant` on Credit
//!   receiver ReceiveWindow  `received` on Data, `consumed` once the bytes left its memory ─► Credit
//! ```
//!
//! Invariants: a sender never has more in flight than was granted, so a receiver that grants only
//! what it has consumed never holds more than one window per channel. A receiver that has
//! consumed everything has granted at least half a window again, so the two cannot wait for each other.

/// What each channel of a new stream may carry before the first `Credit`.
pub const INITIAL_WINDOW: u32 = 256 * 1024;

/// The most credit a sender may hold: a grant beyond it is a violation, not a gift.
pub const MAX_WINDOW: u32 = 16 * 1024 * 1024;

/// The other side broke the rule of the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// More data came than was granted.
    #[error("{received} bytes came where {granted} were granted")]
    Overrun {
        /// Bytes in the frame.
        received: usize,
        /// Bytes that were allowed.
        granted: u32,
    },
    /// Credit beyond [`MAX_WINDOW`].
    #[error("a grant of {grant} bytes would lift the window of {available} over {MAX_WINDOW}")]
    Overflow {
        /// Bytes granted.
        grant: u32,
        /// Bytes that were already available.
        available: u32,
    },
}

/// The sender's side of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendWindow {
    available: u32,
}

impl Default for SendWindow {
    fn default() -> Self {
        Self { available: INITIAL_WINDOW }
    }
}

impl SendWindow {
    /// Bytes that may be sent now.
    pub fn available(&self) -> usize {
        self.available as usize
    }

    /// Uses up as many of `wanted` bytes as may be sent, and says how many those are.
    pub fn take(&mut self, wanted: usize) -> usize {
        let taken = u32::try_from(wanted).unwrap_or(u32::MAX).min(self.available);
        self.available -= taken;
        taken as usize
    }

    /// Adds what the receiver granted.
    pub fn grant(&mut self, grant: u32) -> Result<(), WindowError> {
        match self.available.checked_add(grant) {
            Some(sum) if sum <= MAX_WINDOW => self.available = sum,
            _ => return Err(WindowError::Overflow { grant, available: self.available }),
        }
        Ok(())
    }
}

/// The receiver's side of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveWindow {
    /// What the sender may still send.
    granted: u32,
    /// Consumed, and not yet granted again.
    owed: u32,
}

impl Default for ReceiveWindow {
    fn default() -> Self {
        Self { granted: INITIAL_WINDOW, owed: 0 }
    }
}

impl ReceiveWindow {
    /// Books data that came in.
    pub fn received(&mut self, len: usize) -> Result<(), WindowError> {
        match u32::try_from(len).ok().and_then(|n| self.granted.checked_sub(n)) {
            Some(left) => self.granted = left,
            None => return Err(WindowError::Overrun { received: len, granted: self.granted }),
        }
        Ok(())
    }

    /// Books data that left the receiver's memory; gives the grant to send, if one is due.
    ///
    /// Grants are held back until half a window is owed: a credit frame per data frame would double
    /// the traffic of a slow line.
    #[must_use = "credit that is not sent stalls the channel"]
    pub fn consumed(&mut self, len: usize) -> Option<u32> {
        let outstanding = INITIAL_WINDOW - self.granted - self.owed;
        self.owed += u32::try_from(len).unwrap_or(u32::MAX).min(outstanding);
        if self.owed < INITIAL_WINDOW / 2 {
            return None;
        }
        let grant = self.owed;
        self.owed = 0;
        self.granted += grant;
        Some(grant)
    }

    /// Bytes that came in and are not consumed yet.
    pub fn held(&self) -> usize {
        (INITIAL_WINDOW - self.granted - self.owed) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A sender with endless data, a receiver that drains at random: nothing is ever overrun, the
        /// receiver's memory is bounded, and once it drains everything the sender can go on.
        #[test]
        fn never_exceeds_and_never_locks(steps in proptest::collection::vec((any::<bool>(), 1_usize..200_000), 1..300)) {
            let (mut send, mut receive) = (SendWindow::default(), ReceiveWindow::default());
            let (mut wire, mut credits) = (VecDeque::new(), VecDeque::new());
            for (sends, amount) in steps {
                if sends {
                    wire.push_back(send.take(amount.min(crate::MAX_PAYLOAD)));
                } else {
                    while let Some(len) = wire.pop_front() {
                        receive.received(len).unwrap();
                    }
                    let drained = amount.min(receive.held());
                    credits.extend(receive.consumed(drained));
                }
                prop_assert!(receive.held() <= INITIAL_WINDOW as usize);
                if amount % 3 == 0 {
                    while let Some(grant) = credits.pop_front() {
                        send.grant(grant).unwrap();
                    }
                }
            }
            while let Some(len) = wire.pop_front() {
                receive.received(len).unwrap();
            }
            let held = receive.held();
            credits.extend(receive.consumed(held));
            while let Some(grant) = credits.pop_front() {
                send.grant(grant).unwrap();
            }
            prop_assert!(send.available() > INITIAL_WINDOW as usize / 2);
        }
    }

    #[test]
    fn violations_are_told() {
        let mut receive = ReceiveWindow::default();
        receive.received(INITIAL_WINDOW as usize).unwrap();
        assert_eq!(receive.received(1), Err(WindowError::Overrun { received: 1, granted: 0 }));
        assert_eq!(receive.consumed(usize::MAX), Some(INITIAL_WINDOW), "consuming more than was held is clamped");
        let mut send = SendWindow::default();
        assert!(send.grant(MAX_WINDOW).is_err());
        assert!(send.grant(u32::MAX).is_err());
        assert_eq!(send.take(usize::MAX), INITIAL_WINDOW as usize);
    }
}
