//! Extended headers: `length key=value\n`, and what of them counts for a layer.

use std::collections::BTreeMap;

use super::error::{EntryName, LayerError};
use super::member::Time;

pub(super) const XATTR: &str = "SCHILY.xattr.";
/// All attributes of a file are kept in one block of the file system: less its own header, and the four bytes at the end of the list.
const XATTR_ROOM: usize = 4096 - 32 - 4;
/// What each takes there beside its name and its value.
const XATTR_ENTRY: usize = 16;
/// Longest name of one, as the kernel has it.
const MAX_XATTR_NAME: usize = 255;
/// What the kernel's file systems keep. Attributes of other systems (`com.apple.…`) are passed over, as by everything that unpacks layers.
const SPACES: [&str; 3] = ["user.", "trusted.", "security."];
const ACCESS_LISTS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];
/// Attributes of the host that made the layer, and the overlay's own, which would be orders to the guest's overlay.
const DROPPED: [&[u8]; 3] = [b"security.selinux", b"trusted.overlay.", b"user.overlay."];

/// Whether an attribute of this name is one that no layer carries.
pub fn stays_behind(xattr: &[u8]) -> bool {
    DROPPED.iter().any(|dropped| xattr.starts_with(dropped))
}

/// What an extended header says; later ones win.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
    /// What they take in a block.
    xattr_space: usize,
    /// The first of them that cannot be kept; whose it is stands in the header that follows.
    pub(super) unfit: Option<String>,
    /// GNU's sparse files: major and minor version, the real name and size.
    pub(super) sparse: Option<(u64, u64)>,
    pub(super) sparse_name: Option<Vec<u8>>,
    pub(super) sparse_size: Option<u64>,
}

impl Pax {
    /// Reads one header's records.
    pub(super) fn read(&mut self, mut bytes: &[u8], entry: &EntryName) -> Result<(), LayerError> {
        while !bytes.is_empty() {
            let malformed = || LayerError::Pax { entry: entry.clone() };
            let (key, value, rest) = record(bytes).ok_or_else(malformed)?;
            bytes = rest;
            self.take(key, value, entry)?;
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8], entry: &EntryName) -> Result<(), LayerError> {
        let number = |field| decimal(value).ok_or(LayerError::Number { entry: entry.clone(), field });
        // Keys that are no text are nobody's.
        let Ok(key) = std::str::from_utf8(key) else { return Ok(()) };
        match key {
            "path" => self.path = Some(value.to_vec()),
            "linkpath" => self.link = Some(value.to_vec()),
            "size" => self.size = Some(number("size")?),
            "uid" => self.uid = Some(number("owner")?),
            "gid" => self.gid = Some(number("group")?),
            "mtime" => self.mtime = Some(time(value).ok_or(LayerError::Number { entry: entry.clone(), field: "time" })?),
            "GNU.sparse.major" => self.sparse.get_or_insert_default().0 = number("sparse version")?,
            "GNU.sparse.minor" => self.sparse.get_or_insert_default().1 = number("sparse version")?,
            // Of the versions before 1.0, whose maps are not in the stream.
            "GNU.sparse.map" | "GNU.sparse.offset" => return Err(LayerError::Sparse { entry: entry.clone() }),
            "GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
            "GNU.sparse.realsize" | "GNU.sparse.size" => self.sparse_size = Some(number("size")?),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    self.take_xattr(name, value);
                }
            }
        }
        Ok(())
    }

    /// Keeps one; that it does not fit is an error only once it is known whose it is.
    fn take_xattr(&mut self, name: &str, value: &[u8]) {
        let is_list = ACCESS_LISTS.contains(&name);
        let known = is_list || SPACES.iter().any(|space| name.strip_prefix(space).is_some_and(|rest| !rest.is_empty()));
        if !known || stays_behind(name.as_bytes()) {
            return;
        }
        let space = |value: &[u8]| XATTR_ENTRY + name.len().next_multiple_of(4) + value.len().next_multiple_of(4);
        let replaced = self.xattrs.get(name).map_or(0, |value| space(value));
        let total = self.xattr_space - replaced + space(value);
        let good = name.len() <= MAX_XATTR_NAME && !name.contains('\0') && (!is_list || is_access_list(value));
        if !good || total > XATTR_ROOM {
            self.unfit.get_or_insert_with(|| name.chars().take(80).collect());
            return;
        }
        self.xattr_space = total;
        self.xattrs.insert(name.to_owned(), value.to_vec());
    }
}

/// As system calls have it: a version, then entries of eight bytes.
fn is_access_list(value: &[u8]) -> bool {
    value.split_first_chunk::<4>().is_some_and(|(version, entries)| u32::from_le_bytes(*version) == 2 && entries.len() % 8 == 0)
}

/// Key, value and what comes after the first record.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(21).position(|b| *b == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let record = bytes.get(space + 1..length)?;
    let (last, record) = record.split_last()?;
    let equals = record.iter().position(|b| *b == b'=')?;
    (*last == b'\n').then(|| (&record[..equals], &record[equals + 1..], &bytes[length..]))
}

pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) { None } else { text.parse().ok() }
}

/// `-12.5`, as whole seconds and a fraction that counts upwards.
fn time(value: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(value).ok()?;
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = i64::try_from(decimal(whole.as_bytes())?).ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    Some(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds: 0 },
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Pax, LayerError> {
        let mut pax = Pax::default();
        pax.read(bytes, &EntryName::of(b"x")).map(|()| pax)
    }

    #[test]
    fn records_are_read() {
        let pax = read(b"12 path=a\nb\n13 uid=70000\n30 mtime=1700000000.123456789\n28 SCHILY.xattr.user.a=\0\n=b\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a\nb"[..]));
        assert_eq!(pax.uid, Some(70000));
        assert_eq!(pax.mtime, Some(Time { seconds: 1_700_000_000, nanoseconds: 123_456_789 }));
        assert_eq!(pax.xattrs["user.a"], b"\0\n=b");
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for bad in [
            &b"x"[..],
            b"5 a=b",
            b"99 a=b\n",
            b"0 a=b\n",
            b"6 a=bc",
            b"99999999999999999999999 a=b\n",
            b"5 ab\n\n",
            b"10 uid=-1\n",
            b"12 mtime=x1\n",
        ] {
            assert!(read(bad).is_err(), "{:?}", bad.escape_ascii().to_string());
        }
    }

    #[test]
    fn attributes_of_the_overlay_do_not_come_in() {
        assert!(read(b"46 SCHILY.xattr.trusted.overlay.redirect=/etc\n").unwrap().xattrs.is_empty());
    }

    #[test]
    fn attributes_of_other_systems_do_not_come_in() {
        for other in ["odd", "com.apple.provenance", "system.nfs4_acl", "user.", "system."] {
            let pax = read(&xattr(other, b"12")).unwrap();
            assert_eq!((pax.xattrs.len(), pax.unfit), (0, None), "{other}");
        }
        assert_eq!(read(&xattr("user.with blank", b"12")).unwrap().xattrs.len(), 1);
    }

    fn xattr(name: &str, value: &[u8]) -> Vec<u8> {
        let rest = XATTR.len() + name.len() + value.len() + 3;
        let length = (rest..rest + 20).find(|n| n.to_string().len() + rest == *n).unwrap();
        [format!("{length} {XATTR}{name}=").as_bytes(), value, b"\n"].concat()
    }

    #[test]
    fn all_attributes_of_a_file_fit_into_one_block() {
        let name = |n: usize| format!("user.{n:03}");
        let value = [b'v'; 376];
        // 16 for the entry, 8 for the name: 400 each.
        let mut bytes: Vec<u8> = (0..10).flat_map(|n| xattr(&name(n), &value)).collect();
        // One that is said again is kept once.
        bytes.extend((0..10).flat_map(|n| xattr(&name(n), &value)));
        let pax = read(&bytes).unwrap();
        assert_eq!((pax.xattrs.len(), pax.unfit, pax.xattr_space), (10, None, 4000));
        bytes.extend(xattr(&name(10), &value));
        let pax = read(&bytes).unwrap();
        assert_eq!((pax.xattrs.len(), pax.unfit.as_deref()), (10, Some("user.010")));
        let alone = |length| read(&xattr("user.abc", &vec![b'v'; length])).unwrap().unfit;
        assert_eq!((alone(XATTR_ROOM - 24), alone(XATTR_ROOM - 23)), (None, Some("user.abc".to_owned())));
        for bad in [&b""[..], b"\x02\0\0", b"\x01\0\0\0", b"\x02\0\0\0odd"] {
            assert_eq!(read(&xattr(ACCESS_LISTS[0], bad)).unwrap().unfit.as_deref(), Some(ACCESS_LISTS[0]));
        }
    }

    #[test]
    fn times_before_1970() {
        assert_eq!(time(b"-1"), Some(Time { seconds: -1, nanoseconds: 0 }));
        assert_eq!(time(b"-0.25"), Some(Time { seconds: -1, nanoseconds: 750_000_000 }));
        assert_eq!(time(b"1.x"), None);
    }
}
