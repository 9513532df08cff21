//! The relay between a guest and passt.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use smolvm_model::network::FramePolicy;

use super::relay::Relay;

/// Lets a guest say `chunks`, one turn of the relay after each; gives what reaches the world, and what comes back.
pub fn relay(policy: &FramePolicy, chunks: &[&[u8]]) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let ((mut hypervisor, guest), (world, mut passt)) = (UnixStream::pair()?, UnixStream::pair()?);
    // No name server: every question is answered at once, by the relay itself.
    let mut relay = Relay::new(guest, world, policy.clone(), Path::new("/dev/null"))?;
    for chunk in chunks {
        // A relay that has closed this end takes no more.
        let _ = hypervisor.write_all(chunk);
        relay.turn(Instant::now());
    }
    drop(relay);
    let (mut out, mut back) = (Vec::new(), Vec::new());
    passt.read_to_end(&mut out)?;
    hypervisor.read_to_end(&mut back)?;
    Ok((out, back))
}
