//! Names of members as components, and the way to them through the tree.

use std::collections::VecDeque;

use super::error::TreeError;
use super::{Content, NodeId, Tree};
use crate::layer::EntryName;

/// Symbolic links on one way, as the kernel counts them.
const MAX_HOPS: usize = 40;
const MAX_NAME: usize = 255;
const MAX_PATH: usize = 4096;
/// Directories within directories: what walks the tree may call itself this often.
const MAX_DEPTH: usize = 1024;

/// A member's name, split and judged: no root of a host, nothing upwards. Empty for the root of the image.
pub(super) fn components<'a>(path: &'a [u8], entry: &EntryName) -> Result<Vec<&'a [u8]>, TreeError> {
    let bad = || TreeError::Path { entry: entry.clone() };
    if path.is_empty() || path.len() > MAX_PATH || path[0] == b'/' || path.contains(&0) {
        return Err(bad());
    }
    let components: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if components.iter().any(|part| *part == b".." || part.len() > MAX_NAME) { Err(bad()) } else { Ok(components) }
}

/// Where the way to a directory ends.
pub(super) enum Way {
    /// At a directory that is there.
    There(NodeId),
    /// At one in which these are still missing.
    Missing(NodeId, Vec<Box<[u8]>>),
    /// At something else.
    Blocked,
    /// Above the root, or nowhere.
    Out,
}

impl Tree {
    /// Follows a way, and the symbolic links on it as they are within the image.
    pub(super) fn follow(&self, components: &[&[u8]]) -> Way {
        let mut waiting: VecDeque<Box<[u8]>> = components.iter().map(|part| Box::from(*part)).collect();
        let mut stack = vec![Self::ROOT];
        let mut hops = 0;
        while let Some(name) = waiting.pop_front() {
            if stack.len() + waiting.len() > MAX_DEPTH {
                return Way::Out;
            }
            let here = stack.last().copied().unwrap_or(Self::ROOT);
            match &*name {
                b"." | b"" => continue,
                b".." => {
                    if stack.len() == 1 {
                        return Way::Out;
                    }
                    stack.pop();
                    continue;
                }
                _ => {}
            }
            let Some(next) = self.child(here, &name) else {
                waiting.push_front(name);
                // A missing directory cannot be left upwards again.
                return if waiting.iter().any(|part| **part == *b"..") { Way::Out } else { Way::Missing(here, waiting.into()) };
            };
            match &self.node(next).content {
                Content::Directory(_) => stack.push(next),
                Content::Symlink(target) => {
                    hops += 1;
                    if hops > MAX_HOPS {
                        return Way::Out;
                    }
                    if target.first() == Some(&b'/') {
                        stack.truncate(1);
                    }
                    for part in target.split(|b| *b == b'/').rev() {
                        waiting.push_front(Box::from(part));
                    }
                }
                Content::File { .. } | Content::Char { .. } | Content::Block { .. } | Content::Fifo => return Way::Blocked,
            }
        }
        Way::There(stack.last().copied().unwrap_or(Self::ROOT))
    }
}
