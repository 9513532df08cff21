//! Names of members as components, and the way to them through the tree.

use super::error::TreeError;
use super::{Content, NodeId, Tree};
use crate::layer::EntryName;

/// Symbolic links on one way, as the kernel counts them.
const MAX_HOPS: usize = 40;
const MAX_NAME: usize = 255;
const MAX_PATH: usize = 4096;
/// Directories within directories: what walks the tree may call itself this often.
const MAX_DEPTH: usize = 1024;
/// Looks at names, in all layers together: more is a layer that wants to cost time.
pub(super) const MAX_LOOKS: usize = 64_000_000;
/// As many bytes of a link's target cost as much as a look.
const TARGET_BYTES: usize = 8;

/// A member's name, split and judged: nothing upwards, and the root is the image's own, whether it is said or not. Empty for that.
pub(super) fn components<'a>(path: &'a [u8], entry: &EntryName) -> Result<Vec<&'a [u8]>, TreeError> {
    let bad = || TreeError::Path { entry: entry.clone() };
    if path.is_empty() || path.len() > MAX_PATH || path.contains(&0) {
        return Err(bad());
    }
    let components: Vec<&[u8]> = split(path).collect();
    if components.iter().any(|part| *part == b".." || part.len() > MAX_NAME) { Err(bad()) } else { Ok(components) }
}

/// What counts of a path.
fn split(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".")
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
    /// After more looks than are taken.
    Endless,
}

impl Tree {
    /// Follows a way, and the symbolic links on it as they are within the image. Counts every step.
    pub(super) fn follow<'a>(&'a self, components: &[&'a [u8]], looks: &mut usize) -> Way {
        // The next one is the last.
        let mut waiting: Vec<&[u8]> = components.iter().rev().copied().collect();
        let mut stack = vec![Self::ROOT];
        let mut hops = 0;
        while let Some(name) = waiting.pop() {
            *looks += 1;
            if *looks > MAX_LOOKS {
                return Way::Endless;
            }
            if stack.len() + waiting.len() > MAX_DEPTH {
                return Way::Out;
            }
            if name == b".." {
                if stack.len() == 1 {
                    return Way::Out;
                }
                stack.pop();
                continue;
            }
            let here = stack.last().copied().unwrap_or(Self::ROOT);
            let Some(next) = self.child(here, name) else {
                waiting.push(name);
                // A missing directory cannot be left upwards again.
                let out = waiting.contains(&&b".."[..]);
                return if out { Way::Out } else { Way::Missing(here, waiting.into_iter().rev().map(Box::from).collect()) };
            };
            match &self.node(next).content {
                Content::Directory(_) => stack.push(next),
                Content::Symlink(target) => {
                    hops += 1;
                    if hops > MAX_HOPS {
                        return Way::Out;
                    }
                    *looks += target.len() / TARGET_BYTES;
                    if target.first() == Some(&b'/') {
                        stack.truncate(1);
                    }
                    waiting.extend(split(target).rev());
                }
                Content::File { .. } | Content::Char { .. } | Content::Block { .. } | Content::Fifo => return Way::Blocked,
            }
        }
        Way::There(stack.last().copied().unwrap_or(Self::ROOT))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Source, TreeError};
    use super::*;
    use crate::layer::{Kind, Member, Meta};

    fn add(tree: &mut Tree, path: &str, kind: Kind) -> Result<Option<NodeId>, TreeError> {
        tree.apply(Source { layer: 0, member: 0 }, Member { path: path.as_bytes().to_vec(), meta: Meta::default(), kind })
    }

    /// Links that lead to each other by targets that are as long as can be.
    fn chain() -> Tree {
        let mut tree = Tree::new();
        add(&mut tree, "end/d", Kind::Directory).unwrap();
        for n in 0..39 {
            let next = if n == 38 { "end".to_owned() } else { format!("l{}", n + 1) };
            add(&mut tree, &format!("l{n}"), Kind::Symlink { target: format!("{}{next}", "./".repeat(1000)).into() }).unwrap();
        }
        tree
    }

    #[test]
    fn every_step_of_a_way_is_counted_and_so_is_the_length_of_targets() {
        let mut tree = chain();
        let before = tree.looks;
        add(&mut tree, "l0/d", Kind::Directory).unwrap();
        let one = tree.looks - before;
        // Forty names, and 39 targets of 2,000 bytes.
        assert!((40 + 39 * 250..10_000).contains(&one), "{one}");
        // The same way again is no way, and another one is.
        let before = tree.looks;
        add(&mut tree, "l0/e", Kind::Directory).unwrap();
        assert_eq!(tree.looks, before);
        add(&mut tree, "l0/../l0/f", Kind::Directory).unwrap_err();
        add(&mut tree, "l1/f", Kind::Directory).unwrap();
        assert!(tree.looks > before + 9000);
    }

    #[test]
    fn a_layer_that_wants_to_cost_time_is_refused() {
        let mut tree = chain();
        tree.looks = MAX_LOOKS - 100_000;
        // No two ways after each other are the same.
        let error = (0..100).find_map(|n| add(&mut tree, &format!("l{}/d", n % 2), Kind::Directory).err());
        assert_eq!(error, Some(TreeError::TooSlow { entry: EntryName::of(b"l0/d") }));
        tree.looks = MAX_LOOKS - 100_000;
        let target = || Kind::Link { target: b"l0/none".to_vec() };
        let error =
            (0..100).find_map(|n| add(&mut tree, &format!("h{n}"), target()).err().filter(|e| matches!(e, TreeError::TooSlow { .. })));
        assert_eq!(error, Some(TreeError::TooSlow { entry: EntryName::of(b"h10") }));
    }
}
