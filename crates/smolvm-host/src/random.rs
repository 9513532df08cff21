//! Random bytes from the kernel.

/// `N` bytes from `getrandom(2)`.
pub fn bytes<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut buffer = [0; N];
    getrandom::fill(&mut buffer)
        .map_err(|e| e.raw_os_error().map_or_else(|| std::io::Error::other("no random source"), std::io::Error::from_raw_os_error))?;
    Ok(buffer)
}
