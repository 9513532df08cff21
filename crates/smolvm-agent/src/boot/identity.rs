//! The files that say which guest this is.

use std::fs::{File, Metadata};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, fstat, open, openat, statx};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use smolvm_proto::BootConfig;

use super::failed;
use super::mounts::make_directory;
use super::overlay::{IDENTITY, LOWER, UPPER};
use crate::serve::BootFailure;

const STEP: &str = "identity";

/// No file of these is longer in a guest that means well.
const MAX_TEXT: u64 = 1024 * 1024;

/// Gives the kernel the hostname.
pub(super) fn set_hostname(name: &str) -> Result<(), BootFailure> {
    rustix::system::sethostname(name.as_bytes()).map_err(failed("hostname", name))
}

/// Whether the files could be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placed {
    /// They are in a layer of their own between image and disk.
    Layer,
    /// `/etc` is no directory of one of the layers: a link leads somewhere only once the root is put together.
    Refused,
}

/// Puts the files where the root will show them, before it is put together: into a layer in memory, under the disk's.
///
/// So the disk is not written to for what every start says anew; and a file that the guest changed lies on the disk, over the layer. Only what would then say something
/// wrong is corrected there.
pub(super) fn place(config: &BootConfig) -> Result<Placed, BootFailure> {
    let [disk, layer, image] = [UPPER, IDENTITY, LOWER].map(|root| format!("{root}/etc"));
    let (changed, shipped) = (look(&disk)?, look(&image)?);
    if [&changed, &shipped].into_iter().flatten().any(|found| !found.is_dir()) {
        return Ok(Placed::Refused);
    }
    make_directory(IDENTITY).map_err(failed(STEP, IDENTITY))?;
    make_directory(&layer).map_err(failed(STEP, &layer))?;
    if let Some(shipped) = shipped {
        // The overlay shows owner and mode of the uppermost.
        adopt(&layer, &shipped)?;
    }
    for (name, text, mode) in files(config) {
        let (on_disk, in_layer) = (format!("{disk}/{name}"), format!("{layer}/{name}"));
        let changed = if changed.is_some() { look(&on_disk)? } else { None };
        match (changed, name) {
            (None, HOSTS) if names(&text_of(&format!("{image}/{name}")), &config.hostname) => {}
            (None, _) => put(&in_layer, &text, mode)?,
            (Some(_), HOSTS) if names(&text_of(&on_disk), &config.hostname) => {}
            (Some(_), _) => put(&on_disk, &text, mode)?,
        }
    }
    Ok(Placed::Layer)
}

/// The layer in memory between image and disk, of a root that was put together before it was known who the guest is.
///
/// The kernel leaves open what an overlay shows of changes below it. These are made before anybody has asked for the
/// names: so they are found when they are looked for first, as on a file system that was mounted with them.
///
/// Whoever is told who it is for the first time, or again as a copy, finds them open: walking to a file is most of what
/// writing a line into it costs a machine that has just begun to run.
pub(super) struct Layer {
    etc: OwnedFd,
    files: Vec<Line>,
}

/// A file of the layer that was written.
struct Line {
    name: &'static str,
    file: File,
    len: usize,
}

impl Layer {
    /// Makes it, with files that say nothing yet; the image's `/etc` must be a directory for it to lie over.
    pub(super) fn make(network: bool) -> Result<Self, BootFailure> {
        let (layer, image) = (format!("{IDENTITY}/etc"), format!("{LOWER}/etc"));
        let shipped = look(&image)?.filter(Metadata::is_dir);
        let shipped = shipped.ok_or_else(|| BootFailure { step: STEP, message: format!("{image} is no directory") })?;
        make_directory(IDENTITY).map_err(failed(STEP, IDENTITY))?;
        make_directory(&layer).map_err(failed(STEP, &layer))?;
        adopt(&layer, &shipped)?;
        let mut layer = Self::open()?;
        blanks(network).try_for_each(|(name, text, mode)| layer.put(name, text, mode))?;
        Ok(layer)
    }

    /// The layer that was filled before the root was put together.
    pub(super) fn open() -> Result<Self, BootFailure> {
        let layer = format!("{IDENTITY}/etc");
        let etc = open(&layer, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed(STEP, &layer))?;
        Ok(Self { etc, files: Vec::new() })
    }

    /// Says who the guest is.
    pub(super) fn fill(&mut self, config: &BootConfig) -> Result<(), BootFailure> {
        files(config).try_for_each(|(name, text, mode)| self.put(name, &text, mode))
    }

    /// Whether all that says who the guest is can be said here, without a name that nobody has looked for yet.
    pub(super) fn has_all(&self, config: &BootConfig) -> bool {
        files(config).all(|(name, ..)| self.files.iter().any(|line| line.name == name))
    }

    fn put(&mut self, name: &'static str, text: &str, mode: u32) -> Result<(), BootFailure> {
        let failure = |e: std::io::Error| BootFailure { step: STEP, message: format!("{name}: {e}") };
        if let Some(line) = self.files.iter_mut().find(|line| line.name == name) {
            return line.say(text).map_err(failure);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.etc, name, flags, Mode::from_raw_mode(mode)).map_err(failed(STEP, name))?;
        let mut line = Line { name, file: file.into(), len: 0 };
        line.say(text).map_err(failure)?;
        self.files.push(line);
        Ok(())
    }
}

impl Line {
    fn say(&mut self, text: &str) -> std::io::Result<()> {
        self.file.write_all_at(text.as_bytes(), 0)?;
        if std::mem::replace(&mut self.len, text.len()) > text.len() {
            self.file.set_len(text.len() as u64)?;
        }
        Ok(())
    }
}

/// Writes the files into the root as it stands.
pub(super) fn write(config: &BootConfig) -> Result<(), BootFailure> {
    make_directory("/etc").map_err(failed(STEP, "/etc"))?;
    for (name, text, mode) in files(config) {
        let path = format!("/etc/{name}");
        if name != HOSTS || !names(&text_of(&path), &config.hostname) {
            put(&path, &text, mode)?;
        }
    }
    Ok(())
}

/// Says in a copy of the guest `before` who it is; what a user added to its hosts file is kept.
///
/// Into the layer, if there is one, which costs no write to the disk. What a user changed lies over it and is changed there.
pub(super) fn rewrite(config: &BootConfig, before: &str, mut layer: Option<&mut Layer>) -> Result<(), BootFailure> {
    for (name, text, mode) in files(config) {
        let path = format!("/etc/{name}");
        let text = if name == HOSTS { renamed(&text_of(&path), before, &text) } else { text };
        if let Some(layer) = &mut layer {
            layer.put(name, &text, mode)?;
        }
        put(&path, &text, mode)?;
    }
    Ok(())
}

/// A hosts file in which the guest `before` has the name and the address that it has in `fresh`, and all else stays.
fn renamed(hosts: &str, before: &str, fresh: &str) -> String {
    let own = fresh.lines().last().unwrap_or_default();
    let others: Vec<&str> = hosts.lines().filter(|line| !names(line, before)).collect();
    if others.is_empty() {
        return fresh.to_owned();
    }
    others.into_iter().chain([own]).fold(String::new(), |text, line| text + line + "\n")
}

/// A file that lies over the kernel's boot id, which that draws once and a copy has, too.
///
/// Only in a copy: who forks a template draws its own. And a `/proc` of which something is covered is one that the kernel lets no user without
/// rights mount again, in a namespace of their own.
pub(super) struct BootId {
    file: File,
    /// The file as a mount that is nowhere yet.
    tree: Option<OwnedFd>,
    /// Where it belongs, as long as everybody stands still.
    target: Option<OwnedFd>,
}

impl BootId {
    const KERNEL: &str = "/proc/sys/kernel/random/boot_id";
    /// Where it is if it could not be made ready.
    const OURS: &str = "/run/boot_id";

    /// Makes it ready. In the initramfs, where it is in nobody's way.
    pub(super) fn prepare() -> Result<Self, BootFailure> {
        let mut id = Self::make("/boot_id")?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        id.tree = Some(open_tree(rustix::fs::CWD, "/boot_id", flags).map_err(failed(STEP, "/boot_id"))?);
        Ok(id)
    }

    fn make(path: &str) -> Result<Self, BootFailure> {
        let failure = |e: std::io::Error| BootFailure { step: STEP, message: format!("{path}: {e}") };
        // Whatever the guest has put there.
        let _ = std::fs::remove_file(path);
        let id =
            Self { file: File::options().write(true).create_new(true).mode(0o444).open(path).map_err(failure)?, tree: None, target: None };
        id.say(&[0; 16]).map_err(failure)?;
        Ok(id)
    }

    /// Looks where it belongs, which is asked while everybody stands still. None: it is to be laid by its name.
    pub(super) fn found(mut self) -> Option<Self> {
        let target = open(Self::KERNEL, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).ok()?;
        // One that was laid and is not what is seen there was taken away or covered.
        if self.tree.is_none() && !is_same(&target, &self.file) {
            return None;
        }
        self.target = Some(target);
        Some(self)
    }

    /// Gives the guest another, from where everybody stood still on.
    pub(super) fn renew(held: Option<Self>) -> Result<Self, BootFailure> {
        if let Some(mut id) = held.filter(|id| id.target.is_some()) {
            id.draw()?;
            let Some((tree, target)) = id.tree.take().zip(id.target.take()) else { return Ok(id) };
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
            if move_mount(&tree, "", &target, "", flags).is_ok() {
                return Ok(id);
            }
        }
        let id = Self::make(Self::OURS)?;
        id.draw()?;
        rustix::mount::mount_bind(Self::OURS, Self::KERNEL).map_err(failed(STEP, Self::KERNEL))?;
        Ok(id)
    }

    fn draw(&self) -> Result<(), BootFailure> {
        let mut id = [0; 16];
        rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty()).map_err(failed(STEP, "boot id"))?;
        self.say(&id).map_err(|e| BootFailure { step: STEP, message: format!("boot id: {e}") })
    }

    fn say(&self, id: &[u8; 16]) -> std::io::Result<()> {
        self.file.write_all_at((uuid(*id) + "\n").as_bytes(), 0)
    }
}

/// Whether two descriptors are of one file.
fn is_same(one: impl AsFd, other: impl AsFd) -> bool {
    let place = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    matches!((fstat(one), fstat(other)), (Ok(one), Ok(other)) if place(one) == place(other))
}

/// As a random one of version 4 is written.
fn uuid(mut bytes: [u8; 16]) -> String {
    use std::fmt::Write as _;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (number, byte) in bytes.iter().enumerate() {
        if matches!(number, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// All that may be written.
const NAMES: [&str; 4] = ["hostname", "machine-id", HOSTS, "resolv.conf"];

/// What a user added to this file is kept from one start to the next, as long as it knows the guest's name.
const HOSTS: &str = "hosts";

/// Name in `/etc`, text and mode.
fn files(config: &BootConfig) -> impl Iterator<Item = (&'static str, String, u32)> {
    let resolv = config.network.as_ref().map(|network| ("resolv.conf", resolv_text(&network.dns), 0o644));
    [
        ("hostname", format!("{}\n", config.hostname), 0o644),
        ("machine-id", format!("{}\n", config.machine_id), 0o444),
        (HOSTS, hosts_text(config), 0o644),
    ]
    .into_iter()
    .chain(resolv)
}

/// The same before it is known who the guest is: what every one of them says, or a line with nothing in it.
fn blanks(network: bool) -> impl Iterator<Item = (&'static str, &'static str, u32)> {
    let resolv = network.then_some(("resolv.conf", "\n", 0o644));
    [("hostname", "\n", 0o644), ("machine-id", "\n", 0o444), (HOSTS, LOCALHOST, 0o644)].into_iter().chain(resolv)
}

/// What stands at a path, links not followed.
fn look(path: &str) -> Result<Option<Metadata>, BootFailure> {
    match std::fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(BootFailure { step: STEP, message: format!("{path}: {error}") }),
    }
}

/// Gives a directory the owner and the mode of another.
fn adopt(path: &str, like: &Metadata) -> Result<(), BootFailure> {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(like.mode() & 0o7777);
    std::os::unix::fs::chown(path, Some(like.uid()), Some(like.gid()))
        .and_then(|()| std::fs::set_permissions(path, mode))
        .map_err(|e| BootFailure { step: STEP, message: format!("{path}: {e}") })
}

/// A file's text, as far as it is worth reading; nothing for what is none.
fn text_of(path: &str) -> String {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options.open(path).and_then(|file| std::io::read_to_string(file.take(MAX_TEXT))).unwrap_or_default()
}

/// The machine id as the guest's root shows it.
pub(super) struct Shown {
    file: File,
}

impl Shown {
    const AT: &str = "/etc/machine-id";

    /// Opens it as a program of the guest would.
    pub(super) fn open() -> Result<Self, BootFailure> {
        File::open(Self::AT).map(|file| Self { file }).map_err(|e| Self::failure(&e))
    }

    /// What it says now.
    pub(super) fn machine_id(&self) -> Result<String, BootFailure> {
        let mut text = [0; 64];
        let len = self.file.read_at(&mut text, 0).map_err(|e| Self::failure(&e))?;
        Ok(String::from_utf8_lossy(&text[..len]).trim_end().to_owned())
    }

    /// Whether its names show what the layers below the disk say: nothing is mounted over them, and this is what is seen there.
    pub(super) fn is_plain(&self) -> bool {
        let mount_of = |path: &str| statx(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID);
        let Ok(root) = mount_of("/") else { return false };
        let is_of_root = |name: &str| match mount_of(&format!("/etc/{name}")) {
            Ok(seen) => seen.stx_mnt_id == root.stx_mnt_id,
            Err(errno) => errno == rustix::io::Errno::NOENT,
        };
        let seen = || open(Self::AT, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        NAMES.into_iter().all(is_of_root) && seen().is_ok_and(|seen| is_same(seen, &self.file))
    }

    fn failure(e: &std::io::Error) -> BootFailure {
        BootFailure { step: STEP, message: format!("{}: {e}", Self::AT) }
    }
}

/// The hostname as the kernel has it.
pub(super) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// How every hosts file begins.
const LOCALHOST: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

fn hosts_text(config: &BootConfig) -> String {
    let own = config.network.as_ref().map_or("127.0.1.1", |n| n.address.as_str());
    format!("{LOCALHOST}{own}\t{}\n", config.hostname)
}

fn resolv_text(servers: &[String]) -> String {
    servers.iter().map(|server| format!("nameserver {server}\n")).collect::<Vec<_>>().concat()
}

/// Whether a hosts file has an address for `name`.
fn names(hosts: &str, name: &str) -> bool {
    hosts.lines().filter_map(|line| line.split('#').next()).any(|line| line.split_whitespace().skip(1).any(|n| n == name))
}

/// Replaces a file's text; one that has it already is left alone.
///
/// A link is replaced itself: images ship some that point to what is not there. So is the overlay's mark
/// of a deleted file, a device that cannot be opened.
fn put(path: &str, text: &str, mode: u32) -> Result<(), BootFailure> {
    if text_of(path) == text {
        return Ok(());
    }
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(mode).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let opened = match options.open(path) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO | libc::ENODEV)) => {
            std::fs::remove_file(path).and_then(|()| options.open(path))
        }
        other => other,
    };
    opened.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|e| BootFailure { step: STEP, message: format!("{path}: {e}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_hosts_file_is_recognised() {
        assert!(names("127.0.0.1 localhost\n10.0.0.2\tvm-a vm-b # me", "vm-b"));
        assert!(!names("10.0.0.2 vm-ab\n# 10.0.0.2 vm-b\nvm-b", "vm-b"));
    }

    #[test]
    fn a_copy_is_found_by_its_name_and_keeps_what_a_user_added() {
        let fresh = "127.0.0.1\tlocalhost\n10.0.0.3\tvm-b\n";
        let kept = "127.0.0.1 localhost\n# mine\n10.9.9.9 db\n10.0.0.2\tvm-a\n";
        assert_eq!(renamed(kept, "vm-a", fresh), "127.0.0.1 localhost\n# mine\n10.9.9.9 db\n10.0.0.3\tvm-b\n");
        assert_eq!(renamed("", "vm-a", fresh), fresh);
    }

    #[test]
    fn an_id_is_written_as_the_kernel_writes_one() {
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid([0; 16]), "00000000-0000-4000-8000-000000000000");
    }

    #[test]
    fn links_are_replaced_not_followed() {
        let dir = std::env::temp_dir().join(format!("smolvm-agent-put-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (link, target) = (dir.join("link"), dir.join("target"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        put(link.to_str().unwrap(), "one\n", 0o644).unwrap();
        put(link.to_str().unwrap(), "2\n", 0o644).unwrap();
        assert_eq!(std::fs::read_to_string(&link).unwrap(), "2\n");
        assert!(!target.exists());
        std::fs::remove_file(link).unwrap();
        std::fs::remove_dir(dir).unwrap();
    }
}
