//! Extended attributes: behind the inode where they fit, in a block of their own where they do not.

use super::bytes::{low16, low32, put16, put32};
use super::{BLOCK_LEN, INODE_LEN};
use crate::layer::Attributes;

const MAGIC: u32 = 0xea02_0000;
/// Where they begin in an inode: after its 128 bytes and the 32 that came later.
pub(super) const IN_INODE: usize = 160;
const ENTRY: usize = 16;
const BLOCK_HEADER: usize = 32;
const ACL_VERSION: u32 = 2;

/// What the file system calls an attribute, and what it keeps of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Attribute {
    space: u8,
    name: Vec<u8>,
    value: Vec<u8>,
}

/// Where a node's attributes go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Nowhere,
    Inode,
    Block,
}

/// An attribute that cannot be kept: its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unfit(pub(super) String);

/// Where they go, if they go anywhere.
pub(super) fn place(attributes: &Attributes) -> Result<Place, Unfit> {
    if attributes.is_empty() {
        return Ok(Place::Nowhere);
    }
    let list = convert(attributes)?;
    let size: usize = list.iter().map(|a| ENTRY + a.name.len().next_multiple_of(4) + a.value.len().next_multiple_of(4)).sum();
    if 4 + size + 4 <= INODE_LEN - IN_INODE {
        Ok(Place::Inode)
    } else if BLOCK_HEADER + size + 4 <= BLOCK_LEN {
        Ok(Place::Block)
    } else {
        // The longest is the one to blame.
        Err(Unfit(attributes.iter().max_by_key(|(_, value)| value.len()).map(|(name, _)| name.clone()).unwrap_or_default()))
    }
}

/// Into the end of an inode.
pub(super) fn write_inode(inode: &mut [u8], attributes: &Attributes) -> Result<(), Unfit> {
    put32(inode, IN_INODE, MAGIC);
    // Hashes are for blocks that inodes share.
    write(&mut inode[IN_INODE + 4..], &convert(attributes)?, 0, false);
    Ok(())
}

/// Into a block.
pub(super) fn write_block(attributes: &Attributes) -> Result<[u8; BLOCK_LEN], Unfit> {
    let mut block = [0; BLOCK_LEN];
    put32(&mut block, 0, MAGIC);
    put32(&mut block, 4, 1);
    put32(&mut block, 8, 1);
    let hash = write(&mut block, &convert(attributes)?, BLOCK_HEADER, true);
    put32(&mut block, 12, hash);
    Ok(block)
}

/// Entries from `at` upwards, values from the end downwards. Gives back the hash of all entries.
fn write(place: &mut [u8], list: &[Attribute], mut at: usize, hashed: bool) -> u32 {
    let (mut end, mut all) = (place.len(), 0_u32);
    for a in list {
        let hash = if hashed { entry_hash(a) } else { 0 };
        all = all.rotate_left(16) ^ hash;
        end -= a.value.len().next_multiple_of(4);
        place[end..end + a.value.len()].copy_from_slice(&a.value);
        place[at] = u8::try_from(a.name.len()).unwrap_or_default();
        place[at + 1] = a.space;
        // An empty value lies nowhere.
        put16(place, at + 2, if a.value.is_empty() { 0 } else { low16(end as u64) });
        put32(place, at + 8, low32(a.value.len() as u64));
        put32(place, at + 12, hash);
        place[at + ENTRY..at + ENTRY + a.name.len()].copy_from_slice(&a.name);
        at += ENTRY + a.name.len().next_multiple_of(4);
    }
    all
}

fn entry_hash(a: &Attribute) -> u32 {
    let name = a.name.iter().fold(0_u32, |hash, byte| hash.rotate_left(5) ^ u32::from(*byte));
    a.value.chunks(4).fold(name, |hash, chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        hash.rotate_left(16) ^ u32::from_le_bytes(word)
    })
}

/// In the order in which the kernel looks for them.
fn convert(attributes: &Attributes) -> Result<Vec<Attribute>, Unfit> {
    let mut list =
        attributes.iter().map(|(name, value)| one(name, value).ok_or_else(|| Unfit(name.clone()))).collect::<Result<Vec<_>, _>>()?;
    list.sort_by(|a, b| (a.space, a.name.len(), &a.name).cmp(&(b.space, b.name.len(), &b.name)));
    Ok(list)
}

fn one(name: &str, value: &[u8]) -> Option<Attribute> {
    let (space, rest, value) = match name {
        "system.posix_acl_access" => (2, "", acl(value)?),
        "system.posix_acl_default" => (3, "", acl(value)?),
        _ => {
            let (space, rest) = [("user.", 1), ("trusted.", 4), ("security.", 6)]
                .into_iter()
                .find_map(|(prefix, space)| name.strip_prefix(prefix).map(|rest| (space, rest)))?;
            (space, rest, value.to_vec())
        }
    };
    (rest.len() <= 255).then(|| Attribute { space, name: rest.as_bytes().to_vec(), value })
}

/// An access list as system calls have it, in the shorter form in which the file system keeps it.
fn acl(value: &[u8]) -> Option<Vec<u8>> {
    let (version, entries) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != ACL_VERSION || entries.len() % 8 != 0 {
        return None;
    }
    let mut kept = 1_u32.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(8) {
        kept.extend_from_slice(&entry[..4]);
        // Only named users and groups have an id.
        if matches!(u16::from_le_bytes([entry[0], entry[1]]), 0x02 | 0x08) {
            kept.extend_from_slice(&entry[4..]);
        }
    }
    Some(kept)
}
