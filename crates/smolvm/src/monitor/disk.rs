//! The layers of the data disk, as the hypervisor has them open.
//!
//! ```text
//!   open_layer ─► put_layer_on ─► layer_is_on        what the guest writes goes into the new layer; the old one is only read
//!   merged     ─► the layer that is written to reads one layer where it read several
//! ```
//!
//! A layer lies beside the others before the hypervisor hears of it, empty: the disk reads the same with it and without, so
//! whoever dies in between leaves a disk that is whole. A hypervisor that refuses goes on with what it has.
//!
//! Descriptors for writing that it was handed are taken back as soon as it runs; what it has open itself it opens again for
//! reading when a layer is put on. Whether it did is asked of the kernel, by whoever gives the file to others.

use std::fs::File;
use std::os::fd::AsFd;

use smolvm_host::disk::{open_layer, open_writable_layer};
use smolvm_host::engine::blocks;
use smolvm_host::engine::migration::Command;
use smolvm_model::engine::DiskNode;
use smolvm_proto::{MonitorErrorCode, MonitorReply};

use super::config::MonitorMemory;
use super::copy::Copying;
use super::pause::Motion;
use super::poll::Loop;
use super::relay::ClientId;
use super::run::note;
use crate::error::Error;

/// What the hypervisor has open.
#[derive(Debug)]
pub(super) struct Disk {
    /// The lowest first.
    layers: Vec<Layer>,
    /// How the next one is called there: no name is used twice.
    next: DiskNode,
    /// One that was opened and is not on yet.
    opened: Option<Opened>,
    /// Layers that are being put in the place of others.
    merging: Option<Merging>,
    /// The commands that take back descriptors it was handed, for when its guest runs.
    lent: Vec<Command>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layer {
    /// Its number among the files.
    number: u32,
    node: DiskNode,
}

#[derive(Debug)]
struct Opened {
    layer: Layer,
    /// What was the highest: it was lent a descriptor, too.
    over: DiskNode,
    /// The first and the last command about it; of those before the last nobody waits for the answer.
    commands: (u64, u64),
    refused: bool,
    /// The command that puts it on, once that was given: then only its answer says what became of it, also if nobody waits.
    putting_on: Option<u64>,
}

#[derive(Debug)]
struct Merging {
    client: ClientId,
    layer: Layer,
    instead_of: Vec<Layer>,
    commands: (u64, u64),
    refused: bool,
}

impl Disk {
    /// The one with which a hypervisor was started.
    pub(super) fn of(numbers: &[u32]) -> Self {
        let layers: Vec<Layer> = numbers.iter().zip(0..).map(|(number, node)| Layer { number: *number, node: DiskNode(node) }).collect();
        let next = DiskNode(u32::try_from(layers.len()).unwrap_or(u32::MAX));
        let lent = layers.last().map(|top| blocks::let_go(top.node)).into_iter().collect();
        Self { layers, next, opened: None, merging: None, lent }
    }

    /// The numbers of its files, the lowest first.
    pub(super) fn numbers(&self) -> Vec<u32> {
        self.layers.iter().map(|layer| layer.number).collect()
    }

    fn name(&mut self, number: u32) -> Layer {
        let node = self.next;
        self.next = DiskNode(node.0.saturating_add(1));
        Layer { number, node }
    }
}

impl Loop<'_> {
    /// Takes back descriptors for writing; only a hypervisor whose guest runs closes them.
    ///
    /// One that is to be parked lets go of its disk when it is, and opens it again for reading: it keeps them, and ends.
    pub(super) fn take_back_descriptors(&mut self) {
        if matches!(self.config.memory, MonitorMemory::Park { .. }) {
            return;
        }
        for command in std::mem::take(&mut self.disk.lent) {
            self.say_of_disk(command);
        }
    }

    /// Takes back with this command what the hypervisor was handed; when the guest runs again, if it stands still: it would be
    /// marked before, and never closed.
    pub(super) fn take_back(&mut self, command: Command) {
        match self.motion {
            Motion::Pausing | Motion::Paused => self.disk.lent.push(command),
            Motion::Running | Motion::Settling { .. } | Motion::Resuming { .. } => {
                self.say_of_disk(command);
            }
        }
    }

    /// Opens the empty layer of that number, which is put on when the guest stands still.
    pub(super) fn open_layer(&mut self, number: u32) {
        self.close_unused_layer();
        let Some(top) = self.disk.layers.last().copied().filter(|top| top.number < number && self.disk.opened.is_none()) else { return };
        match self.hand_over_layer(number, top) {
            Ok(opened) => self.disk.opened = Some(opened),
            Err(e) => note(&format!("layer {number} cannot be put over the disk: {}", e.one_line())),
        }
    }

    fn hand_over_layer(&mut self, number: u32, top: Layer) -> Result<Opened, Error> {
        let (lowest, size) = (self.vm.paths().disk(self.id), self.config.disk_bytes);
        let (write, read) = open_writable_layer(&lowest, number, size)?;
        let old = open_layer(&lowest, top.number, size)?;
        let layer = self.disk.name(number);
        let lent = self.lend_all([(&write, layer.node), (&read, layer.node), (&old, top.node)]);
        let (first, mut last) = lent.inspect_err(|_| self.give_layer_up(layer, top.node))?;
        for command in blocks::add_writable(layer.node) {
            last = self.say_of_disk(command);
        }
        Ok(Opened { layer, over: top.node, commands: (first, last), refused: false, putting_on: None })
    }

    /// Gives the first and the last command.
    fn lend_all(&mut self, [one, two, three]: [(&File, DiskNode); 3]) -> Result<(u64, u64), Error> {
        let first = self.lend(one.0, one.1)?;
        self.lend(two.0, two.1)?;
        Ok((first, self.lend(three.0, three.1)?))
    }

    fn lend(&mut self, file: &File, node: DiskNode) -> Result<u64, Error> {
        let fail = |e: std::io::Error| Error::new(crate::error::io_code(&e), "a layer cannot be handed to the hypervisor").because(e);
        self.vmm.give(file.as_fd()).map_err(fail)?;
        Ok(self.say_of_disk(blocks::take(node)))
    }

    fn say_of_disk(&mut self, (name, arguments): Command) -> u64 {
        self.vmm.ask(name, Some(arguments))
    }

    /// The guest stands still: the layer is put on. `None` if there is none, or the hypervisor would not open it.
    pub(super) fn put_layer_on(&mut self) -> Option<u64> {
        let top = self.disk.layers.last().copied()?;
        let opened = self.disk.opened.as_ref().filter(|opened| !opened.refused && opened.putting_on.is_none())?;
        let node = opened.layer.node;
        let command = self.say_of_disk(blocks::put_on(node, top.node));
        if let Some(opened) = &mut self.disk.opened {
            opened.putting_on = Some(command);
        }
        Some(command)
    }

    /// A layer that was opened in vain is closed again. Its file is in nobody's way.
    pub(super) fn close_unused_layer(&mut self) {
        if let Some(opened) = self.disk.opened.take_if(|opened| opened.putting_on.is_none()) {
            self.give_layer_up(opened.layer, opened.over);
        }
    }

    /// The hypervisor has put it on, or refused to.
    fn layer_is_on(&mut self, on: bool) {
        match self.disk.opened.take() {
            Some(opened) if on => {
                self.disk.layers.push(opened.layer);
                self.disk.lent.push(blocks::let_go(opened.layer.node));
            }
            Some(opened) => self.give_layer_up(opened.layer, opened.over),
            None => {}
        }
    }

    /// A layer does not come over that one: neither keeps what it was lent for it.
    fn give_layer_up(&mut self, layer: Layer, over: DiskNode) {
        self.forget_layer(layer);
        self.take_back(blocks::let_go(over));
    }

    fn forget_layer(&mut self, layer: Layer) {
        for command in blocks::forget(layer.node) {
            self.say_of_disk(command);
        }
        self.take_back(blocks::let_go(layer.node));
    }

    /// A client has merged these layers: they are read as one, whose number is that of the last.
    pub(super) fn merged(&mut self, id: ClientId, numbers: &[u32]) {
        let mine = self.copying.as_ref().is_some_and(Copying::is_located_by(id));
        if !mine || self.disk.merging.is_some() || !matches!(self.motion, Motion::Running | Motion::Paused) {
            return self.refuse(id, MonitorErrorCode::Busy, "the sandbox is not held to be copied");
        }
        match self.hand_over_merged(id, numbers) {
            Ok(Some(merging)) => self.disk.merging = Some(merging),
            Ok(None) => self.refuse(id, MonitorErrorCode::Unsupported, "these are no layers between the lowest and the highest"),
            Err(e) => self.refuse(id, MonitorErrorCode::Engine, &e.one_line()),
        }
    }

    fn hand_over_merged(&mut self, client: ClientId, numbers: &[u32]) -> Result<Option<Merging>, Error> {
        let layers = &self.disk.layers;
        let (Some((lowest, rest)), Some(last)) = (layers.split_first(), numbers.last()) else { return Ok(None) };
        let (Some((top, between)), lowest) = (rest.split_last(), *lowest) else { return Ok(None) };
        if between.iter().map(|layer| &layer.number).ne(numbers) {
            return Ok(None);
        }
        let (top, instead_of) = (*top, between.to_vec());
        let file = open_layer(&self.vm.paths().disk(self.id), *last, self.config.disk_bytes)?;
        let layer = self.disk.name(*last);
        let first = self.lend(&file, layer.node)?;
        for command in blocks::add_below(layer.node, lowest.node) {
            self.say_of_disk(command);
        }
        let last = self.say_of_disk(blocks::put_over(top.node, layer.node));
        Ok(Some(Merging { client, layer, instead_of, commands: (first, last), refused: false }))
    }

    /// Whether the answer was to one of the commands above for which nobody else waits.
    pub(super) fn answered_about_layers(&mut self, command: u64, done: bool) -> bool {
        if self.disk.opened.as_ref().is_some_and(|opened| opened.putting_on == Some(command)) {
            self.layer_is_on(done);
            return false;
        }
        let is_of = |(first, last): (u64, u64)| (first..=last).contains(&command);
        if let Some(opened) = self.disk.opened.as_mut().filter(|opened| is_of(opened.commands)) {
            opened.refused |= !done;
            return true;
        }
        let Some(merging) = self.disk.merging.as_mut().filter(|merging| is_of(merging.commands)) else { return false };
        merging.refused |= !done;
        if command == merging.commands.1 {
            self.end_merging();
        }
        true
    }

    fn end_merging(&mut self) {
        let Some(merging) = self.disk.merging.take() else { return };
        if merging.refused {
            self.forget_layer(merging.layer);
            return self.refuse(merging.client, MonitorErrorCode::Engine, "the hypervisor would not read the merged layer");
        }
        // Those above first: each keeps the one below it in use.
        for layer in merging.instead_of.iter().rev() {
            self.forget_layer(*layer);
        }
        self.disk.layers.retain(|layer| !merging.instead_of.contains(layer));
        let place = self.disk.layers.len().min(1);
        self.disk.layers.insert(place, merging.layer);
        self.reply(merging.client, &MonitorReply::Merged);
    }
}
