//! So many bytes and no more.

use std::io::{self, ErrorKind, Read, Write};

/// A stream from which, or into which, so many bytes may go: more is [`ErrorKind::FileTooLarge`], whatever they were packed into.
#[derive(Debug)]
pub struct Capped<T> {
    inner: T,
    limit: u64,
    left: u64,
}

impl<T> Capped<T> {
    /// Around a stream.
    pub fn new(inner: T, limit: u64) -> Self {
        Self { inner, limit, left: limit }
    }

    /// How much may pass in all.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// How much may still pass.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// How much has passed.
    pub fn passed(&self) -> u64 {
        self.limit - self.left
    }

    /// The stream.
    pub fn into_inner(self) -> T {
        self.inner
    }

    fn take(&mut self, bytes: usize) -> io::Result<()> {
        self.left = self.left.checked_sub(bytes as u64).ok_or(ErrorKind::FileTooLarge)?;
        Ok(())
    }
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.take(n)?;
        Ok(n)
    }
}

impl<W: Write> Write for Capped<W> {
    /// What does not fit is not written in part either.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(ErrorKind::FileTooLarge.into());
        }
        let n = self.inner.write(bytes)?;
        self.take(n)?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_as_is_taken_passes_and_one_byte_more_does_not() {
        let bytes = [7; 10];
        let read = |limit| io::copy(&mut Capped::new(&bytes[..], limit), &mut io::sink()).map_err(|e| e.kind());
        assert_eq!((read(10), read(9)), (Ok(10), Err(ErrorKind::FileTooLarge)));
        let mut out = Capped::new(Vec::new(), 10);
        out.write_all(&bytes).unwrap();
        assert_eq!(out.write_all(b"x").unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert_eq!((out.left(), out.passed(), out.into_inner()), (0, 10, bytes.to_vec()));
    }
}
