//! Makes the TAP for one start, and its rules.

use std::os::fd::OwnedFd;

use smolvm_host::effect::{Permit, perform};
use smolvm_host::image::Digest;
use smolvm_host::net::nft::{self, NftError};
use smolvm_host::net::tap::{self, TapError, TapSpec};
use smolvm_host::store::Store;
use smolvm_model::effect::Effect;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::{Entry, Kind};
use smolvm_model::name::SandboxId;
use smolvm_model::network::{
    AddressPool, Base, ElementKey, Guest, add, add_table, base, base_anew, displaced, open_uplinks, rebuild, remove, rules_of,
};

use super::look::Look;
use super::shared::{self, Opened, Table};
use crate::error::Error;
use crate::installation::Smolvm;
use crate::monitor::MonitorNetwork;

/// What a monitor needs to know of the device that the reserved names promise.
pub(crate) fn promised(vm: &Smolvm, store: &mut Store, id: &SandboxId, entries: &[Entry]) -> Result<MonitorNetwork, Error> {
    let (pool, guest) = (vm.address_pool(store)?, guest_of(vm, id, entries)?);
    Ok(MonitorNetwork::Tap { tap: guest.tap.to_string(), mac: guest.mac.to_string(), address: guest.address, gateway: pool.gateway() })
}

/// Makes the device that the reserved names promise, which the hypervisor gets. The intents are recorded by the caller before.
///
/// Before the guest runs there are rules for it, too ([`admit`]): a device without an element is silent, but one without a table is free.
pub(crate) fn raise(vm: &Smolvm, store: &mut Store, id: &SandboxId, entries: &[Entry]) -> Result<OwnedFd, Error> {
    let pool = vm.address_pool(store)?;
    let guest = guest_of(vm, id, entries)?;
    let owner_uid = key(entries, Kind::Uid).and_then(|u| u.parse().ok()).unwrap_or_else(|| rustix::process::geteuid().as_raw());
    let spec = TapSpec {
        name: guest.tap.clone(),
        mark: guest.mark.clone(),
        owner_uid,
        gateway: pool.gateway(),
        guest_address: guest.address,
        guest_mac: guest.mac,
    };
    perform(Effect::Tap, |permit| tap::make(permit, &spec).map_err(tap_error))
}

/// Makes the rules for it. The intents are recorded by the caller before.
pub(crate) fn admit(vm: &Smolvm, store: &mut Store, id: &SandboxId, entries: &[Entry], look: Look) -> Result<(), Error> {
    let pool = vm.address_pool(store)?;
    let guest = guest_of(vm, id, entries)?;
    // Its end comes before the lock, which others wait for.
    let seen = look.end(vm);
    let _lock = vm.network_lock()?;
    let opened = shared::open(vm, store)?;
    let seen = match opened.table {
        Table::Noted(_) => seen.or_else(|_| nft::table(&vm.install)).map_err(nft_error)?,
        Table::NotNoted => None,
    };
    let left = perform(Effect::Filter, |permit| admit_guest(permit, vm, pool, &guest, &opened, seen.as_ref()))?;
    left.map_or(Ok(()), |frame| shared::note_frame(vm, store, frame))
}

/// Lets the guest send. Gives how the table was left, if that is not what is noted.
///
/// The table is made, or made again, unless it is as an earlier start left it: replacing its chains under running guests is harmless, but
/// `nft` then waits until every processor has forgotten the old ones, some 15 ms.
fn admit_guest(
    permit: &Permit,
    vm: &Smolvm,
    pool: AddressPool,
    guest: &Guest,
    opened: &Opened,
    seen: Option<&nft::Table>,
) -> Result<Option<String>, Error> {
    let shape = Base { install: vm.install.clone(), pool };
    let one = std::slice::from_ref(guest);
    let open = open_uplinks(&vm.install, &opened.uplinks) + &add(&vm.install, one);
    let mut made = None;
    if opened.table == Table::NotNoted {
        match nft::apply(permit, &(base_anew(&shape) + &open)) {
            Ok(()) => return frame_of(vm, &shape),
            // It is there all the same: what stands in it is looked at below.
            Err(NftError::Exists { .. }) => made = nft::table(&vm.install).map_err(nft_error)?,
            Err(e) => return Err(nft_error(e)),
        }
    }
    let listed = seen.or(made.as_ref());
    // After a lost database an earlier life of the same device may still be allowed an address that is another's now.
    let present: Vec<ElementKey> = listed.into_iter().flat_map(|table| &table.elements).map(|e| e.key.clone()).collect();
    let stale = remove(&vm.install, &displaced(&present, one));
    let frame = listed.and_then(|table| framed(&shape, table));
    let is_as_left = frame.is_some_and(|frame| opened.table == Table::Noted(Some(frame)));
    if is_as_left {
        // The first word wakes one that somebody has put to sleep.
        match nft::apply(permit, &(add_table(&vm.install) + &stale + &open)) {
            // It went after it was seen.
            Err(NftError::NoSuchObject { .. }) => {}
            other => return other.map(|()| None).map_err(nft_error),
        }
    }
    match nft::apply(permit, &(base(&shape) + &stale + &open)) {
        Err(NftError::Exists { .. }) => {
            // An older smolvm made the table in another shape: made anew in one transaction with all that stands in it.
            let (mut guests, uplinks) = shared::present(vm)?;
            guests.retain(|g| g.tap != guest.tap);
            guests.push(guest.clone());
            nft::apply(permit, &rebuild(&shape, &guests, &uplinks)).map_err(nft_error)?;
        }
        other => other.map_err(nft_error)?,
    }
    frame_of(vm, &shape)
}

/// How the table is, just made.
fn frame_of(vm: &Smolvm, shape: &Base) -> Result<Option<String>, Error> {
    Ok(nft::table(&vm.install).map_err(nft_error)?.and_then(|table| framed(shape, &table)))
}

/// A table's frame, and what it was made from: another version of smolvm makes another. None if there are more or fewer rules.
fn framed(shape: &Base, table: &nft::Table) -> Option<String> {
    (table.rules == rules_of(shape)).then(|| Digest::of(&[base(shape).as_bytes(), table.frame.to_string().as_bytes()]).to_string())
}

fn guest_of(vm: &Smolvm, id: &SandboxId, entries: &[Entry]) -> Result<Guest, Error> {
    let broken =
        || Error::new(ErrorCode::StateCorrupt, format!("the network of \"{id}\" is not in the ledger")).hint(format!("smolvm delete {id}"));
    Ok(Guest {
        mark: vm.mark(id),
        tap: key(entries, Kind::Tap).and_then(|k| k.parse().ok()).ok_or_else(broken)?,
        mac: key(entries, Kind::Mac).and_then(|k| k.parse().ok()).ok_or_else(broken)?,
        address: key(entries, Kind::Address).and_then(|k| k.parse().ok()).ok_or_else(broken)?,
    })
}

fn key(entries: &[Entry], kind: Kind) -> Option<&str> {
    entries.iter().find(|e| e.kind == kind).map(|e| e.key.as_str())
}

pub(super) fn nft_error(e: NftError) -> Error {
    let error = match &e {
        NftError::Missing => {
            Error::new(ErrorCode::MissingDependency, "the packet filter cannot be set").hint("apt-get install nftables, or use --net user")
        }
        NftError::NoRights => {
            Error::new(ErrorCode::PermissionDenied, "the packet filter cannot be set").hint("run it as root, or use --net user")
        }
        NftError::NoSuchObject { .. }
        | NftError::Exists { .. }
        | NftError::Refused { .. }
        | NftError::Tool(_)
        | NftError::Unreadable { .. } => Error::new(ErrorCode::Internal, "the packet filter cannot be set").hint("see: smolvm doctor"),
    };
    error.because(e)
}

fn tap_error(e: TapError) -> Error {
    let error = match &e {
        TapError::NoDriver { .. } => {
            Error::new(ErrorCode::MissingDependency, "no network device can be made").hint("modprobe tun, or use --net user")
        }
        TapError::NoRights => {
            Error::new(ErrorCode::PermissionDenied, "no network device can be made").hint("run it as root, or use --net user")
        }
        TapError::Foreign { .. } | TapError::InUse { .. } => Error::new(ErrorCode::Refused, "the sandbox's network device is not free"),
        TapError::RouteTaken { .. } | TapError::Tun { .. } | TapError::Netlink(_) | TapError::Sysctl(_) => {
            Error::new(ErrorCode::Internal, "the network device cannot be made").hint("see: smolvm doctor")
        }
    };
    error.because(e)
}
