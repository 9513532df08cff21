//! Kernel modules, in the order the initramfs lists them.

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use super::failed;
use crate::serve::BootFailure;

const DIR: &str = "/modules";

/// When a module is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// At once: the line to the host, and the disks.
    Base,
    /// Before the root is put together.
    Root,
    /// By those with a network.
    Net,
}

impl Group {
    fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Root => "root",
            Self::Net => "net",
        }
    }
}

/// Loads a group. One that is in the kernel already is no error: another kernel may have it built in.
pub(super) fn load(group: Group) -> Result<(), BootFailure> {
    for file in listed(&order()?, group) {
        let path = format!("{DIR}/{file}");
        let module = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed("modules", &path))?;
        match rustix::system::finit_module(&module, c"", 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("modules", &path)(errno)),
        }
    }
    Ok(())
}

/// Gives the memory of the files back; what is loaded stays.
pub(super) fn forget() {
    let Ok(order) = order() else { return };
    for file in [Group::Base, Group::Root, Group::Net].into_iter().flat_map(|group| listed(&order, group)) {
        let _ = rustix::fs::unlink(format!("{DIR}/{file}"));
    }
}

fn order() -> Result<String, BootFailure> {
    std::fs::read_to_string(format!("{DIR}/order")).map_err(|e| BootFailure { step: "modules", message: format!("{DIR}/order: {e}") })
}

/// The files of a group: lines of `<group> <file.ko>`, others are passed over.
fn listed(order: &str, group: Group) -> impl Iterator<Item = &str> {
    order.lines().filter_map(move |line| line.split_once(' ')).filter(move |(name, _)| *name == group.name()).map(|(_, file)| file.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_their_order() {
        let order = "base a.ko\nnet n.ko\n\n# note\nbase b.ko\n";
        assert_eq!(listed(order, Group::Base).collect::<Vec<_>>(), ["a.ko", "b.ko"]);
        assert_eq!(listed(order, Group::Net).collect::<Vec<_>>(), ["n.ko"]);
    }
}
