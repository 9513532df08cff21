//! QEMU's argument vector for one microvm.
//!
//! Fixed places, read back from `/proc/PID/cmdline` by whoever looks for our processes:
//! `argv[1..5] = -name MARK -uuid TOKEN`.

use std::num::{NonZeroU8, NonZeroU32};

use serde::{Deserialize, Serialize};

use super::{Accelerator, cmdline::kernel_command_line, fd};
use crate::name::{LaunchToken, MacAddr, Mark};

/// Where the kernel image is mounted in the jail.
pub const KERNEL: &str = "/kernel";
/// Where the initramfs is mounted in the jail.
pub const INITRD: &str = "/initrd";
/// What the hypervisor calls the file with the guest's memory.
pub const MEMORY: &str = "/memory";
/// The virtio-serial port's name, by which the agent finds it.
pub const AGENT_PORT: &str = "smolvm.agent";
/// QEMU's own seccomp filter: everything it offers is denied.
pub const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The translated processor: x86-64-v2, what current distributions ask for at most, with the
/// protections a kernel uses against its own programs and a source of random numbers.
///
/// `max` costs 8 % more at boot and 15 % more per process: wider registers to save and five-level page
/// tables, for vector instructions that are slower translated than the narrow ones.
///
/// `arat` says that the local timer goes on while the processor sleeps, as an emulated one does. Without that word the
/// kernel wants another timer to wake it, finds none on this machine, and ticks 250 times a second for ever: an idle
/// guest then uses 6 % of a processor of the host instead of 1 %.
const TCG_CPU: &str = "qemu64,-svm,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes,+rdrand,+smep,+smap,+umip,+fsgsbase,+arat";

/// What a template and every fork of it share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MachineShape {
    /// Virtual processors.
    pub cpus: NonZeroU8,
    /// Memory in MiB.
    pub memory_mib: NonZeroU32,
    /// What runs guest code.
    pub accelerator: Accelerator,
}

/// Where the guest's memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GuestMemory {
    /// Its own, empty: the machine boots.
    Anonymous,
    /// A file that will hold a template's memory: the machine boots, and is then parked.
    Parked,
    /// A template's file, mapped privately: the machine waits for the state that goes with it.
    Forked,
    /// The same with the file of a machine that ran: the state was saved without what a migration begins with.
    Restored,
}

/// What carries the guest's Ethernet frames on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetKind {
    /// An open TAP queue.
    Tap,
    /// A connected stream socket: each frame after its length in four bytes, big end first.
    Stream,
}

/// The guest's network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NetDevice {
    /// What is behind it.
    pub kind: NetKind,
    /// Its address.
    pub mac: MacAddr,
}

/// Everything an argument vector depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchArgs {
    /// Whose process it is.
    pub mark: Mark,
    /// Which start it is.
    pub token: LaunchToken,
    /// The machine.
    pub shape: MachineShape,
    /// Where its memory comes from.
    pub memory: GuestMemory,
    /// How many layers lie below the one of the data disk that is written to.
    pub layers: u8,
    /// The network device, if it has one.
    pub net: Option<NetDevice>,
    /// The host's time stamp counter frequency, where it is known.
    pub tsc_khz: Option<u32>,
}

/// Builds the argument vector; `argv0` is the hypervisor's path.
pub fn qemu_argv(argv0: &str, launch: &LaunchArgs) -> Vec<String> {
    let mut argv = Argv(vec![argv0.to_owned()]);
    argv.pair("-name", launch.mark.to_string());
    argv.pair("-uuid", launch.token.as_str());
    argv.flags(&["-nodefaults", "-no-user-config", "-no-reboot"]);
    argv.pair("-display", "none");
    argv.pair("-sandbox", SANDBOX);
    machine(&mut argv, launch.shape, launch.memory);
    argv.pair("-kernel", KERNEL);
    argv.pair("-initrd", INITRD);
    argv.pair("-append", kernel_command_line(launch.shape.accelerator, launch.tsc_khz));
    control(&mut argv);
    disks(&mut argv, launch.layers);
    network(&mut argv, launch.net);
    argv.0
}

/// The words that a template and its forks have in common: without mark, token, address, the layers of the disk, which no
/// guest sees, and the counter's rate, of which each measurement is a little different.
pub fn common_argv(shape: MachineShape, network: Option<NetKind>) -> Vec<String> {
    let mut argv = Argv(Vec::new());
    machine(&mut argv, shape, GuestMemory::Forked);
    argv.pair("-append", kernel_command_line(shape.accelerator, None));
    control(&mut argv);
    disks(&mut argv, 0);
    self::network(&mut argv, network.map(|kind| NetDevice { kind, mac: MacAddr([0; 6]) }));
    argv.0
}

fn machine(argv: &mut Argv, shape: MachineShape, memory: GuestMemory) {
    // ACPI announces the virtio-mmio devices: the kernel has no other way to find them. Guest memory
    // is neither merged with other guests' (KSM is a side channel) nor part of a core dump. Without a
    // second interrupt controller there are 8 of those transports instead of 24, of which a guest has
    // four in use: 2 ms less at start, and 2 MiB less that each hypervisor has to itself.
    let mut common = "microvm,acpi=on,ioapic2=off,pcie=off,usb=off,rtc=on,isa-serial=on,auto-kernel-cmdline=off,mem-merge=off,\
                      dump-guest-core=off"
        .to_owned();
    let mapping = match memory {
        GuestMemory::Anonymous => None,
        GuestMemory::Parked => Some("on"),
        GuestMemory::Forked | GuestMemory::Restored => Some("off"),
    };
    if let Some(mapping) = mapping {
        common += ",memory-backend=ram";
        // Nothing of that name is in the jail: whoever starts the hypervisor answers when it opens it.
        argv.pair("-object", format!("memory-backend-file,id=ram,size={}M,mem-path={MEMORY},share={mapping}", shape.memory_mib));
    }
    match shape.accelerator {
        // The paravirtual clock and the local APIC replace both timers and the legacy controller.
        Accelerator::Kvm => {
            argv.pair("-machine", format!("{common},pit=off,pic=off"));
            argv.pair("-accel", "kvm");
            argv.pair("-cpu", "host");
        }
        // Here both stay: without them a kernel that was not told the counter's frequency (see
        // cmdline) never boots, and leaving them out saved nothing that could be measured.
        Accelerator::Tcg => {
            argv.pair("-machine", common);
            argv.pair("-accel", "tcg,thread=multi");
            argv.pair("-cpu", TCG_CPU);
        }
    }
    argv.pair("-smp", format!("{0},sockets=1,cores={0},threads=1", shape.cpus));
    argv.pair("-m", format!("size={}M", shape.memory_mib));
    argv.pair("-global", "virtio-mmio.force-legacy=false");
    match memory {
        GuestMemory::Anonymous | GuestMemory::Parked => {}
        GuestMemory::Forked | GuestMemory::Restored => {
            argv.pair("-incoming", "defer");
            // Otherwise it makes its guest tell all neighbours that it has moved, by the address that it is about to lose.
            argv.pair("-global", "migration.announce-rounds=0");
        }
    }
    if memory == GuestMemory::Restored {
        argv.pair("-global", "migration.send-configuration=off");
    }
}

fn control(argv: &mut Argv) {
    argv.pair("-chardev", format!("socket,id=qmp,fd={}", fd::QMP));
    argv.pair("-mon", "chardev=qmp,mode=control");
    argv.pair("-chardev", format!("socket,id=console,fd={}", fd::CONSOLE));
    argv.pair("-serial", "chardev:console");
    argv.pair("-chardev", format!("socket,id=agent,fd={}", fd::AGENT));
    // Port 0 is reserved for a console, so two ports are the fewest. With an id, QMP tells when the guest opens it.
    argv.pair("-device", "virtio-serial-device,max_ports=2");
    argv.pair("-device", format!("virtserialport,id=agent,nr=1,chardev=agent,name={AGENT_PORT}"));
}

/// The data disk is one file, or a stack of them: the lowest has the disk's bytes as they are, each other one what was
/// written over those below.
///
/// Nothing is opened because a file says so: what lies below a layer is named here. The one that is written to has two
/// descriptors, for QEMU opens it for reading first, and for writing once the guest's disk is on it; that way it lets go of
/// the second when another layer is put on top. Who else reads a lower layer locks nothing that matters here.
fn disks(argv: &mut Argv, layers: u8) {
    argv.pair("-add-fd", format!("fd={},set=1", fd::ROOT));
    argv.pair("-blockdev", "driver=file,node-name=root,filename=/dev/fdset/1,read-only=on");
    argv.pair("-device", "virtio-blk-device,drive=root,serial=root");
    for below in 0..u32::from(layers) {
        let layer = DiskNode(below);
        argv.pair("-add-fd", format!("fd={},set={}", fd::LAYERS + i32::try_from(below).unwrap_or(0), layer.set()));
        let protocol = format!("driver=file,filename=/dev/fdset/{},read-only=on,locking=off", layer.set());
        match below.checked_sub(1) {
            None => argv.pair("-blockdev", format!("{protocol},node-name={layer}")),
            Some(lower) => {
                argv.pair("-blockdev", format!("{protocol},node-name={}", layer.file()));
                argv.pair(
                    "-blockdev",
                    format!("driver=qcow2,node-name={layer},file={},backing={},read-only=on", layer.file(), DiskNode(lower)),
                );
            }
        }
    }
    let top = DiskNode(layers.into());
    argv.pair("-add-fd", format!("fd={},set={}", fd::DATA, top.set()));
    argv.pair("-add-fd", format!("fd={},set={}", fd::DATA_READ, top.set()));
    let protocol = format!("driver=file,filename=/dev/fdset/{},discard=unmap,auto-read-only=on", top.set());
    match u32::from(layers).checked_sub(1) {
        None => argv.pair("-blockdev", format!("{protocol},node-name={top}")),
        Some(lower) => {
            argv.pair("-blockdev", format!("{protocol},node-name={}", top.file()));
            argv.pair("-blockdev", format!("driver=qcow2,node-name={top},file={},backing={},discard=unmap", top.file(), DiskNode(lower)));
        }
    }
    argv.pair("-device", format!("virtio-blk-device,drive={top},serial=data"));
}

/// A layer of the data disk as the hypervisor knows it: counted from the lowest at its start, then on as layers come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskNode(pub u32);

impl DiskNode {
    /// The number of the set in which its descriptors are.
    pub fn set(self) -> u32 {
        // 1 is the root image's.
        if self.0 == 0 { 2 } else { LAYER_SETS.saturating_add(self.0) }
    }

    /// What its file is called, where that is not the layer itself.
    pub fn file(self) -> String {
        format!("file-{}", self.0)
    }
}

/// Above every other set: 1 and 2 are the disks', 9 is for the state of devices.
const LAYER_SETS: u32 = 100;

impl std::fmt::Display for DiskNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => f.write_str("data"),
            n => write!(f, "data-{n}"),
        }
    }
}

fn network(argv: &mut Argv, net: Option<NetDevice>) {
    let Some(net) = net else { return };
    let netdev = match net.kind {
        NetKind::Tap => format!("tap,id=net,fd={},vhost=off", fd::NET),
        NetKind::Stream => format!("stream,id=net,server=off,addr.type=fd,addr.str={}", fd::NET),
    };
    argv.pair("-netdev", netdev);
    argv.pair("-device", format!("virtio-net-device,netdev=net,mac={}", net.mac));
}

struct Argv(Vec<String>);

impl Argv {
    fn pair(&mut self, option: &str, value: impl Into<String>) {
        self.0.push(option.to_owned());
        self.0.push(value.into());
    }

    fn flags(&mut self, flags: &[&str]) {
        self.0.extend(flags.iter().map(|f| (*f).to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(accelerator: Accelerator, net: Option<NetDevice>) -> LaunchArgs {
        LaunchArgs {
            mark: "smolvm:0123456789:vm-a".parse().unwrap(),
            token: LaunchToken::from_random([7; 16]),
            shape: MachineShape { cpus: NonZeroU8::MIN, memory_mib: NonZeroU32::new(128).unwrap(), accelerator },
            memory: GuestMemory::Anonymous,
            layers: 0,
            net,
            tsc_khz: Some(2_596_122),
        }
    }

    /// One line per option, the way a reviewer reads it.
    fn text(argv: &[String]) -> String {
        argv.join(" ").replace(" -", "\n-") + "\n"
    }

    #[test]
    fn golden() {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let tap = || args(Accelerator::Tcg, Some(NetDevice { kind: NetKind::Tap, mac }));
        let cases = [
            (LaunchArgs { memory: GuestMemory::Parked, ..tap() }, include_str!("golden/tcg_tap_parked.txt"), "tcg_tap_parked"),
            (LaunchArgs { memory: GuestMemory::Forked, ..tap() }, include_str!("golden/tcg_tap_forked.txt"), "tcg_tap_forked"),
            (LaunchArgs { memory: GuestMemory::Restored, ..tap() }, include_str!("golden/tcg_tap_restored.txt"), "tcg_tap_restored"),
            (args(Accelerator::Tcg, None), include_str!("golden/tcg_none.txt"), "tcg_none"),
            (LaunchArgs { layers: 2, ..args(Accelerator::Tcg, None) }, include_str!("golden/tcg_layers.txt"), "tcg_layers"),
            (tap(), include_str!("golden/tcg_tap.txt"), "tcg_tap"),
            (args(Accelerator::Kvm, Some(NetDevice { kind: NetKind::Stream, mac })), include_str!("golden/kvm_stream.txt"), "kvm_stream"),
        ];
        for (args, want, name) in cases {
            assert_eq!(text(&qemu_argv("qemu-system-x86_64", &args)), want, "golden/{name}.txt");
        }
    }

    #[test]
    fn what_a_fork_has_in_common_is_all_of_it_but_whose_it_is() {
        let mac = MacAddr([0; 6]);
        let fork = LaunchArgs {
            memory: GuestMemory::Forked,
            tsc_khz: None,
            ..args(Accelerator::Tcg, Some(NetDevice { kind: NetKind::Tap, mac }))
        };
        let whole = qemu_argv("q", &fork);
        let common = common_argv(fork.shape, Some(NetKind::Tap));
        let own: Vec<&str> = whole.iter().map(String::as_str).filter(|word| !common.iter().any(|c| c == word)).collect();
        let token = LaunchToken::from_random([7; 16]).to_string();
        let fixed =
            ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-sandbox", SANDBOX, "-kernel", KERNEL, "-initrd", INITRD];
        let wanted = [&["q", "-name", "smolvm:0123456789:vm-a", "-uuid", token.as_str()], &fixed[..]].concat();
        assert_eq!(own, wanted);
        assert_ne!(common, common_argv(fork.shape, Some(NetKind::Stream)));
        assert_ne!(common, common_argv(fork.shape, None));
    }

    #[test]
    fn mark_and_token_stand_at_their_places() {
        let argv = qemu_argv("q", &args(Accelerator::Tcg, None));
        assert_eq!(argv[1..5], ["-name", "smolvm:0123456789:vm-a", "-uuid", LaunchToken::from_random([7; 16]).as_str()]);
    }

    #[test]
    fn every_descriptor_named_is_in_the_table() {
        let argv = text(&qemu_argv("q", &args(Accelerator::Tcg, None)));
        for fd in [fd::ROOT, fd::DATA, fd::DATA_READ, fd::QMP, fd::AGENT, fd::CONSOLE] {
            assert!(argv.contains(&format!("fd={fd}")), "{fd}");
        }
        assert!(!argv.contains(&format!("fd={}", fd::NET)));
    }
}
