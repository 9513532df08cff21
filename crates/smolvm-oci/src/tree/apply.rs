//! One member of a layer, put into the tree.
//!
//! What a layer says about itself wins over its own whiteouts, in whatever order they come: a whiteout hides what layers below had, so each
//! name knows which layer spoke of it last.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::error::TreeError;
use super::path::{MAX_LOOKS, Way, components};
use super::{Child, Content, Data, MAX_ENTRIES, Node, NodeId, Source, Tree, held};
use crate::layer::{Attributes, EntryName, Kind, Member, Meta};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What only aufs itself understood.
const FOREIGN: &[u8] = b".wh..wh.";
/// As ext4 has it.
const MAX_LINKS: u32 = 65_000;
/// Longest file with blocks of 4 KiB: the last of 2^32 has no number of its own.
const MAX_FILE: u64 = (1 << 44) - 4096;
const MAX_MAJOR: u32 = 0xfff;
const MAX_MINOR: u32 = 0xf_ffff;

impl Tree {
    /// Puts a member in. Gives back the node whose content follows in the stream.
    pub fn apply(&mut self, source: Source, mut member: Member) -> Result<Option<NodeId>, TreeError> {
        let path = std::mem::take(&mut member.path);
        let entry = EntryName::of(&path);
        let parts = components(&path, &entry)?;
        let Some((name, way)) = parts.split_last() else { return self.apply_root(member, &entry) };
        let directory = self.make_way(way, source.layer, &entry)?;
        if *name == OPAQUE {
            self.hide_children(directory, source.layer);
            return self.checked(&entry);
        }
        if name.starts_with(FOREIGN) {
            return Ok(None);
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if hidden.is_empty() || hidden == b"." || hidden == b".." {
                return Err(TreeError::Whiteout { entry });
            }
            self.hide(directory, hidden, source.layer);
            return self.checked(&entry);
        }
        self.put(directory, name, source, member, &entry)
    }

    fn checked(&self, entry: &EntryName) -> Result<Option<NodeId>, TreeError> {
        if self.looks > MAX_LOOKS { Err(TreeError::TooSlow { entry: entry.clone() }) } else { Ok(None) }
    }

    fn apply_root(&mut self, member: Member, entry: &EntryName) -> Result<Option<NodeId>, TreeError> {
        if member.kind != Kind::Directory {
            return Err(TreeError::Root { entry: entry.clone() });
        }
        self.set_meta(Self::ROOT, member.meta, entry).map(|()| None)
    }

    fn set_meta(&mut self, id: NodeId, meta: Meta, entry: &EntryName) -> Result<(), TreeError> {
        self.hold(held::meta(&meta), entry)?;
        let replaced = std::mem::replace(&mut self.node_mut(id).meta, meta);
        self.release(held::meta(&replaced));
        Ok(())
    }

    /// The directory at the end of a way; what is missing is made, as nobody's with nothing but the usual rights.
    fn make_way(&mut self, way: &[&[u8]], layer: u32, entry: &EntryName) -> Result<NodeId, TreeError> {
        let joined = way.join(&b'/');
        if let Some((last, directory)) = &self.last_way
            && *last == joined
        {
            return Ok(*directory);
        }
        let directory = self.make_way_anew(way, layer, entry)?;
        self.last_way = Some((joined, directory));
        Ok(directory)
    }

    fn make_way_anew(&mut self, way: &[&[u8]], layer: u32, entry: &EntryName) -> Result<NodeId, TreeError> {
        match self.looked_up(way) {
            Way::There(directory) => Ok(directory),
            Way::Blocked => Err(TreeError::NotInDirectory { entry: entry.clone() }),
            Way::Out => Err(TreeError::Escape { entry: entry.clone() }),
            Way::Endless => Err(TreeError::TooSlow { entry: entry.clone() }),
            Way::Missing(mut directory, names) => {
                for name in &names {
                    let meta = Meta { mode: 0o755, ..Meta::default() };
                    let node = Node { meta, content: Content::Directory(BTreeMap::new()), links: 1 };
                    directory = self.insert(directory, name, node, layer, entry)?;
                }
                Ok(directory)
            }
        }
    }

    fn looked_up(&mut self, way: &[&[u8]]) -> Way {
        let mut looks = self.looks;
        let found = self.follow(way, &mut looks);
        self.looks = looks;
        found
    }

    fn put(
        &mut self,
        directory: NodeId,
        name: &[u8],
        source: Source,
        member: Member,
        entry: &EntryName,
    ) -> Result<Option<NodeId>, TreeError> {
        let layer = source.layer;
        let there = self.child(directory, name);
        if let (Kind::Directory, Some(id)) = (&member.kind, there)
            && matches!(self.node(id).content, Content::Directory(_))
        {
            self.set_meta(id, member.meta, entry)?;
            return self.name(directory, name, id, layer, entry).map(|()| None);
        }
        // A link is looked up before what it replaces goes.
        let linked = match &member.kind {
            Kind::Link { target } => Some(self.link_target(target, entry)?),
            _ => None,
        };
        // Of two members of one name in a layer the last one counts, as with everything else that unpacks layers.
        if there.is_some() {
            self.unlink(directory, name);
        }
        if let Some(target) = linked {
            return self.name(directory, name, target, layer, entry).map(|()| None);
        }
        let content = content(member.kind, source, entry)?;
        let is_file = matches!(content, Content::File { .. });
        let id = self.insert(directory, name, Node { meta: member.meta, content, links: 1 }, layer, entry)?;
        Ok(is_file.then_some(id))
    }

    /// What a link leads to, with one name more: it may be what the link replaces.
    fn link_target(&mut self, target: &[u8], entry: &EntryName) -> Result<NodeId, TreeError> {
        let bad = || TreeError::LinkTarget { entry: entry.clone(), target: EntryName::of(target) };
        let parts = components(target, &EntryName::of(target)).map_err(|_| bad())?;
        let (name, way) = parts.split_last().ok_or_else(bad)?;
        let directory = match self.looked_up(way) {
            Way::There(directory) => directory,
            Way::Endless => return Err(TreeError::TooSlow { entry: entry.clone() }),
            Way::Missing(..) | Way::Blocked | Way::Out => return Err(bad()),
        };
        let id = self.child(directory, name).ok_or_else(bad)?;
        let node = self.node_mut(id);
        if matches!(node.content, Content::Directory(_)) {
            return Err(bad());
        }
        if node.links >= MAX_LINKS {
            return Err(TreeError::TooManyLinks { entry: entry.clone() });
        }
        node.links += 1;
        Ok(id)
    }

    fn insert(&mut self, directory: NodeId, name: &[u8], node: Node, layer: u32, entry: &EntryName) -> Result<NodeId, TreeError> {
        if self.nodes.len() >= MAX_ENTRIES {
            return Err(TreeError::TooMany { entry: entry.clone() });
        }
        self.hold(held::node(&node), entry)?;
        let id = NodeId(u32::try_from(self.nodes.len()).map_err(|_| TreeError::TooMany { entry: entry.clone() })?);
        self.nodes.push(node);
        self.name(directory, name, id, layer, entry).map(|()| id)
    }

    fn name(&mut self, directory: NodeId, name: &[u8], id: NodeId, layer: u32, entry: &EntryName) -> Result<(), TreeError> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(TreeError::TooMany { entry: entry.clone() });
        }
        let Content::Directory(children) = &mut self.node_mut(directory).content else {
            return Err(TreeError::NotInDirectory { entry: entry.clone() });
        };
        if children.insert(Box::from(name), Child { id, layer }).is_some() { Ok(()) } else { self.hold(held::name(name), entry) }
    }

    /// Hides what layers below had under a name.
    fn hide(&mut self, directory: NodeId, name: &[u8], layer: u32) {
        self.looks += 1;
        let Some(id) = self.child(directory, name) else { return };
        if !self.spoke(directory, name, layer) {
            self.unlink(directory, name);
        } else if matches!(self.node(id).content, Content::Directory(_)) {
            self.hide_children(id, layer);
        }
    }

    /// Hides what layers below had in a directory. One name is copied at a time: all of them may be half of what a tree may hold.
    fn hide_children(&mut self, directory: NodeId, layer: u32) {
        let mut last: Option<Box<[u8]>> = None;
        while let Some(name) = self.next_name(directory, last.as_deref()) {
            self.hide(directory, &name, layer);
            if self.looks > MAX_LOOKS {
                return;
            }
            last = Some(name);
        }
    }

    fn next_name(&self, directory: NodeId, last: Option<&[u8]>) -> Option<Box<[u8]>> {
        let Content::Directory(children) = &self.node(directory).content else { return None };
        children.range::<[u8], _>((last.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)).next().map(|(name, _)| name.clone())
    }

    /// Whether this layer said anything of a name, or of what is beneath it.
    fn spoke(&mut self, directory: NodeId, name: &[u8], layer: u32) -> bool {
        let mut looks = 0;
        let spoke = match &self.node(directory).content {
            Content::Directory(children) => children.get(name).is_some_and(|child| self.spoken(*child, layer, &mut looks)),
            _ => false,
        };
        self.looks += looks;
        spoke
    }

    fn spoken(&self, child: Child, layer: u32, looks: &mut usize) -> bool {
        *looks += 1;
        let within = || match &self.node(child.id).content {
            Content::Directory(children) => Some(children),
            _ => None,
        };
        child.layer == layer || within().is_some_and(|children| children.values().any(|child| self.spoken(*child, layer, looks)))
    }

    /// Takes a name away; a file without names is dropped from the walk by having none, and gives back what it held.
    fn unlink(&mut self, directory: NodeId, name: &[u8]) {
        let Content::Directory(children) = &mut self.node_mut(directory).content else { return };
        let Some(child) = children.remove(name) else { return };
        self.last_way = None;
        let mut freed = held::name(name);
        let mut gone = vec![child.id];
        while let Some(id) = gone.pop() {
            let node = self.node_mut(id);
            node.links = node.links.saturating_sub(1);
            if let Content::Directory(children) = &mut node.content {
                for (name, child) in std::mem::take(children) {
                    freed += held::name(&name);
                    gone.push(child.id);
                }
            }
            if node.links == 0 {
                freed += held::meta(&node.meta) + held::content(&node.content);
                node.meta.xattrs = Attributes::default();
                node.content = Content::Fifo;
            }
        }
        self.release(freed);
    }
}

fn content(kind: Kind, source: Source, entry: &EntryName) -> Result<Content, TreeError> {
    let device = |major, minor| {
        if major > MAX_MAJOR || minor > MAX_MINOR { Err(TreeError::Device { entry: entry.clone() }) } else { Ok((major, minor)) }
    };
    Ok(match kind {
        Kind::File { size, .. } if size > MAX_FILE => return Err(TreeError::FileSize { entry: entry.clone(), size }),
        Kind::File { size, .. } => Content::File { size, data: Data::Nothing, source },
        Kind::Symlink { target } => Content::Symlink(target.into()),
        Kind::Directory => Content::Directory(BTreeMap::new()),
        Kind::Char { major, minor } => device(major, minor).map(|(major, minor)| Content::Char { major, minor })?,
        Kind::Block { major, minor } => device(major, minor).map(|(major, minor)| Content::Block { major, minor })?,
        Kind::Fifo => Content::Fifo,
        Kind::Link { target } => return Err(TreeError::LinkTarget { entry: entry.clone(), target: EntryName(target) }),
    })
}
