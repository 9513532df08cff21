//! One blob into a file: from where an earlier try ended, and hashed on the way.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use super::client::Client;
use super::error::{Cause, RegistryError};
use super::transport::{TRIES, backoff};
use crate::Digest;
use crate::digest::Hashing;

const CHUNK: usize = 128 << 10;
/// What a connection brings on at least, for its registry to be one that gives.
const PROGRESS: u64 = 16 << 10;

impl Client {
    /// Gets a blob into a file that may have its beginning already; at the end the file has all of it, or the call fails.
    /// What is in the file then is good to go on from, unless it was wrong.
    pub fn blob(&self, digest: &Digest, size: u64, file: &mut File, watch: &mut dyn FnMut(u64)) -> Result<(), RegistryError> {
        let began = file.metadata().map_err(|source| self.cannot_write(source))?.len();
        match self.whole(digest, size, file, watch) {
            // What was there may be what is wrong with it: somebody else may have sent it.
            Err(RegistryError::Digest { .. }) if began > 0 => self.whole(digest, size, file, watch),
            done => done,
        }
    }

    /// Gets what is missing; a file that is wrong then is empty again.
    fn whole(&self, digest: &Digest, size: u64, file: &mut File, watch: &mut dyn FnMut(u64)) -> Result<(), RegistryError> {
        let (mut hash, mut have) = begin(file, size).map_err(|source| self.cannot_write(source))?;
        let mut tries = 0;
        while have < size {
            watch(have);
            let before = have;
            match self.stretch(digest, size, file, &mut hash, &mut have, watch) {
                Ok(()) => {}
                Err(Broken::Connection(cause)) => {
                    // A connection that brought something on counts as a new beginning; one of some bytes could go on for ever.
                    tries = if have.saturating_sub(before) >= PROGRESS { 1 } else { tries + 1 };
                    if tries >= TRIES {
                        return Err(self.unreachable(cause));
                    }
                    std::thread::sleep(backoff(tries));
                }
                Err(Broken::Final(error)) => return Err(error),
            }
        }
        watch(have);
        let (actual, _) = hash.finish();
        if actual == *digest {
            return Ok(());
        }
        // Nothing can be built on it.
        file.set_len(0).map_err(|source| self.cannot_write(source))?;
        Err(RegistryError::Digest { registry: self.registry.clone(), expected: digest.clone(), actual })
    }

    /// One connection's worth.
    fn stretch(
        &self,
        digest: &Digest,
        size: u64,
        file: &mut File,
        hash: &mut Hashing<io::Sink>,
        have: &mut u64,
        watch: &mut dyn FnMut(u64),
    ) -> Result<(), Broken> {
        let write = |source| Broken::Final(self.cannot_write(source));
        let mut response = self.get(&format!("blobs/{digest}"), *have)?;
        if *have > 0 && !continues(&response, *have) {
            // It cannot go on, or does not want to: from the beginning.
            file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).map_err(write)?;
            (*hash, *have) = (Hashing::new(io::sink()), 0);
            if response.status().as_u16() != 200 {
                response = self.get(&format!("blobs/{digest}"), 0)?;
            }
        }
        let mut body = response.body_mut().as_reader();
        let mut chunk = vec![0; CHUNK];
        while *have < size {
            let n = match body.read(&mut chunk) {
                Ok(0) => return Err(Broken::Connection(Cause::Connection(io::ErrorKind::UnexpectedEof.into()))),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Broken::Connection(Cause::Connection(e))),
            };
            let actual = *have + n as u64;
            if actual > size {
                let registry = self.registry.clone();
                return Err(Broken::Final(RegistryError::Length { registry, digest: digest.clone(), expected: size, actual }));
            }
            file.write_all(&chunk[..n]).map_err(write)?;
            hash.write_all(&chunk[..n]).map_err(write)?;
            *have = actual;
            watch(*have);
        }
        Ok(())
    }

    fn cannot_write(&self, source: io::Error) -> RegistryError {
        RegistryError::Write { registry: self.registry.clone(), source }
    }
}

/// Hashes what is there; more than there should be is nothing.
fn begin(file: &mut File, size: u64) -> io::Result<(Hashing<io::Sink>, u64)> {
    let mut hash = Hashing::new(io::sink());
    if file.metadata()?.len() > size {
        file.set_len(0)?;
    }
    file.seek(SeekFrom::Start(0))?;
    let have = io::copy(file, &mut hash)?;
    Ok((hash, have))
}

/// Whether an answer begins where we are.
fn continues(response: &ureq::http::Response<ureq::Body>, have: u64) -> bool {
    let range = response.headers().get("content-range").and_then(|value| value.to_str().ok());
    response.status().as_u16() == 206 && range.is_some_and(|range| range.trim().starts_with(&format!("bytes {have}-")))
}

enum Broken {
    /// It can be taken up again.
    Connection(Cause),
    /// It cannot.
    Final(RegistryError),
}

impl From<RegistryError> for Broken {
    fn from(error: RegistryError) -> Self {
        Self::Final(error)
    }
}
