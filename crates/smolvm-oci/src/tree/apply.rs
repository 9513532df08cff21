//! One member of a layer, put into the tree.
//!
//! What a layer says about itself wins over its own whiteouts, in whatever order they come: a whiteout hides what layers below had, so each
//! name knows which layer spoke of it last.

use std::collections::BTreeMap;

use super::error::TreeError;
use super::path::{Way, components};
use super::{Child, Content, MAX_ENTRIES, MAX_NAME_BYTES, Node, NodeId, Source, Tree};
use crate::layer::{EntryName, Kind, Member, Meta};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What only aufs itself understood.
const FOREIGN: &[u8] = b".wh..wh.";
/// As ext4 has it.
const MAX_LINKS: u32 = 65_000;
/// Looks of whiteouts at names, in all layers together: more is a layer that wants to cost time.
const MAX_LOOKS: usize = 64_000_000;
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
        if self.looks > MAX_LOOKS { Err(TreeError::TooMany { entry: entry.clone() }) } else { Ok(None) }
    }

    fn apply_root(&mut self, member: Member, entry: &EntryName) -> Result<Option<NodeId>, TreeError> {
        if member.kind != Kind::Directory {
            return Err(TreeError::Root { entry: entry.clone() });
        }
        self.node_mut(Self::ROOT).meta = member.meta;
        Ok(None)
    }

    /// The directory at the end of a way; what is missing is made, as nobody's with nothing but the usual rights.
    fn make_way(&mut self, way: &[&[u8]], layer: u32, entry: &EntryName) -> Result<NodeId, TreeError> {
        match self.follow(way) {
            Way::There(directory) => Ok(directory),
            Way::Blocked => Err(TreeError::NotInDirectory { entry: entry.clone() }),
            Way::Out => Err(TreeError::Escape { entry: entry.clone() }),
            Way::Missing(mut directory, names) => {
                for name in names.iter().filter(|name| !name.is_empty() && ***name != *b".") {
                    let meta = Meta { mode: 0o755, ..Meta::default() };
                    let node = Node { meta, content: Content::Directory(BTreeMap::new()), links: 1 };
                    directory = self.insert(directory, name, node, layer, entry)?;
                }
                Ok(directory)
            }
        }
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
            self.node_mut(id).meta = member.meta;
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
            return self.link(directory, name, target, layer, entry).map(|()| None);
        }
        let content = content(member.kind, source, entry)?;
        let is_file = matches!(content, Content::File { .. });
        let id = self.insert(directory, name, Node { meta: member.meta, content, links: 1 }, layer, entry)?;
        Ok(is_file.then_some(id))
    }

    fn link_target(&self, target: &[u8], entry: &EntryName) -> Result<NodeId, TreeError> {
        let bad = || TreeError::LinkTarget { entry: entry.clone(), target: EntryName::of(target) };
        let parts = components(target, &EntryName::of(target)).map_err(|_| bad())?;
        let (name, way) = parts.split_last().ok_or_else(bad)?;
        let Way::There(directory) = self.follow(way) else { return Err(bad()) };
        let id = self.child(directory, name).ok_or_else(bad)?;
        if matches!(self.node(id).content, Content::Directory(_)) { Err(bad()) } else { Ok(id) }
    }

    fn link(&mut self, directory: NodeId, name: &[u8], target: NodeId, layer: u32, entry: &EntryName) -> Result<(), TreeError> {
        let node = self.node_mut(target);
        if node.links >= MAX_LINKS {
            return Err(TreeError::TooManyLinks { entry: entry.clone() });
        }
        node.links += 1;
        self.name(directory, name, target, layer, entry)
    }

    fn insert(&mut self, directory: NodeId, name: &[u8], node: Node, layer: u32, entry: &EntryName) -> Result<NodeId, TreeError> {
        if self.nodes.len() >= MAX_ENTRIES {
            return Err(TreeError::TooMany { entry: entry.clone() });
        }
        let id = NodeId(u32::try_from(self.nodes.len()).map_err(|_| TreeError::TooMany { entry: entry.clone() })?);
        self.nodes.push(node);
        self.name(directory, name, id, layer, entry).map(|()| id)
    }

    fn name(&mut self, directory: NodeId, name: &[u8], id: NodeId, layer: u32, entry: &EntryName) -> Result<(), TreeError> {
        self.entries += 1;
        self.name_bytes += name.len();
        if self.entries > MAX_ENTRIES || self.name_bytes > MAX_NAME_BYTES {
            return Err(TreeError::TooMany { entry: entry.clone() });
        }
        match &mut self.node_mut(directory).content {
            Content::Directory(children) => {
                children.insert(Box::from(name), Child { id, layer });
                Ok(())
            }
            _ => Err(TreeError::NotInDirectory { entry: entry.clone() }),
        }
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

    /// Hides what layers below had in a directory.
    fn hide_children(&mut self, directory: NodeId, layer: u32) {
        let Content::Directory(children) = &self.node(directory).content else { return };
        let names: Vec<Box<[u8]>> = children.keys().cloned().collect();
        for name in names {
            self.hide(directory, &name, layer);
            if self.looks > MAX_LOOKS {
                return;
            }
        }
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

    /// Takes a name away; a file without names is dropped from the walk by having none.
    fn unlink(&mut self, directory: NodeId, name: &[u8]) {
        let Content::Directory(children) = &mut self.node_mut(directory).content else { return };
        let Some(child) = children.remove(name) else { return };
        let mut gone = vec![child.id];
        while let Some(id) = gone.pop() {
            let node = self.node_mut(id);
            node.links = node.links.saturating_sub(1);
            if let Content::Directory(children) = &mut node.content {
                gone.extend(std::mem::take(children).into_values().map(|child| child.id));
            }
        }
    }
}

fn content(kind: Kind, source: Source, entry: &EntryName) -> Result<Content, TreeError> {
    let device = |major, minor| {
        if major > MAX_MAJOR || minor > MAX_MINOR { Err(TreeError::Device { entry: entry.clone() }) } else { Ok((major, minor)) }
    };
    Ok(match kind {
        Kind::File { size, .. } => Content::File { size, data: Vec::new(), source },
        Kind::Symlink { target } => Content::Symlink(target.into()),
        Kind::Directory => Content::Directory(BTreeMap::new()),
        Kind::Char { major, minor } => device(major, minor).map(|(major, minor)| Content::Char { major, minor })?,
        Kind::Block { major, minor } => device(major, minor).map(|(major, minor)| Content::Block { major, minor })?,
        Kind::Fifo => Content::Fifo,
        Kind::Link { target } => return Err(TreeError::LinkTarget { entry: entry.clone(), target: EntryName(target) }),
    })
}
