//! Takes the signature off a kernel module.
//!
//! ```text
//!   module ELF │ PKCS#7 signature │ info, 12 bytes, the last 4 the signature's length │ "~Module signature appended~\n"
//! ```
//! (`scripts/sign-file.c` of the kernel.) Checking six signatures costs 95 million guest instructions, about
//! 0.1 s of a boot under TCG. The package they came from was checked on the host; the guest's kernel
//! notes a taint and nothing else.

const MAGIC: &[u8] = b"~Module signature appended~\n";
const INFO: usize = 12;

/// The module without its signature; one that has none, or an odd trailer, as it is.
pub(super) fn strip(module: &[u8]) -> &[u8] {
    let stripped = || {
        let body = module.strip_suffix(MAGIC)?;
        let info = body.len().checked_sub(INFO)?;
        let length = u32::from_be_bytes(body.get(body.len() - 4..)?.try_into().ok()?);
        module.get(..info.checked_sub(usize::try_from(length).ok()?)?)
    };
    stripped().unwrap_or(module)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_trailer_is_taken_off() {
        let trailer = |length: u32| [&[7; 5][..], &[0; 8], &length.to_be_bytes(), MAGIC].concat();
        let signed = [b"\x7fELF module".as_slice(), &trailer(5)].concat();
        assert_eq!(strip(&signed), b"\x7fELF module");
        for odd in [
            b"\x7fELF module".to_vec(),
            MAGIC.to_vec(),
            Vec::new(),
            [b"x".as_slice(), &trailer(u32::MAX)].concat(),
            signed[..signed.len() - 1].to_vec(),
        ] {
            assert_eq!(strip(&odd), odd.as_slice());
        }
    }
}
