//! The guest agent this binary carries.
//!
//! One file to install: the agent's static executable is part of `smolvm` and is written into the
//! initramfs by `setup`. Its digest is part of the initramfs' address, so a newer `smolvm` never
//! boots an older agent by accident.

/// The agent's executable; empty when this was built without one (plain `cargo build`), and then
/// the caller says "built without the agent: use cargo xtask build".
pub fn agent() -> &'static [u8] {
    include_bytes!(concat!(env!("OUT_DIR"), "/agent.bin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_is_absent_or_an_executable() {
        assert!(agent().is_empty() || agent().starts_with(b"\x7fELF"));
    }
}
