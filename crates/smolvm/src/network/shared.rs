//! What all sandboxes of an installation share on the host: its nftables table and forwarding on uplinks.
//!
//! A switch of forwarding is noted before it is thrown, with the value it had. It is put back when the
//! last sandbox that needed it is gone, unless somebody else changed it since, or another
//! installation's table says that it needs it too. Then that one puts it back: it noted "was off",
//! because a switch that a smolvm holds open was off before.

use smolvm_host::effect::perform;
use smolvm_host::net::nft;
use smolvm_host::net::sysctl::{self, Switch};
use smolvm_host::net::uplink;
use smolvm_host::store::{SharedPart, Store};
use smolvm_model::effect::{Commit, Effect};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::Kind;
use smolvm_model::name::InstallId;
use smolvm_model::network::{ElementKey, ElementOwner, Guest, IfName, SetName, table_name};

use super::look::Look;
use super::raise::nft_error;
use crate::error::Error;
use crate::installation::Smolvm;

/// Why a table stays that somebody without a record still uses; `cleanup` says so, and `list` and `doctor` show who.
const STILL_USED: &str = "elements that are in no record stand in it";
const TABLE: &str = "nft_table";
const FORWARDING: &str = "forwarding";
const OFF: &str = "0";
const ON: &str = "1";

/// What the first sandbox finds, and later ones share.
#[derive(Debug)]
pub(super) struct Opened {
    /// Uplinks on which this installation holds forwarding open.
    pub(super) uplinks: Vec<IfName>,
    pub(super) table: Table,
}

/// What the ledger said of the table before this start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Table {
    /// Made by an earlier start, which noted how it left it, if it came so far.
    Noted(Option<String>),
    /// Most likely there is none; after a lost ledger there may be.
    NotNoted,
}

/// What became of one shared part when the last sandbox went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SharedOutcome {
    /// `nft_table` or `forwarding`.
    pub(crate) kind: String,
    /// Which one.
    pub(crate) key: String,
    /// `released`, `already_gone`, `kept: …`, or the failure.
    pub(crate) result: Result<&'static str, String>,
}

/// What could not be put back, as an error; it stays on record, and whoever releases next tries again.
pub(crate) fn unreleased(outcomes: &[SharedOutcome]) -> Result<(), Error> {
    let failed = outcomes.iter().find_map(|part| part.result.as_ref().err().filter(|why| *why != STILL_USED).map(|why| (part, why)));
    failed.map_or(Ok(()), |(SharedOutcome { kind, key, .. }, why)| {
        Err(Error::new(ErrorCode::Internal, format!("what no sandbox needs any more could not be put back: {kind} {key}: {why}"))
            .hint("when the cause is gone: smolvm cleanup --force"))
    })
}

/// Notes the table and switches forwarding on where replies come back. Under the network lock.
pub(super) fn open(vm: &Smolvm, store: &mut Store) -> Result<Opened, Error> {
    let found = uplink::find().map_err(|e| Error::new(ErrorCode::Internal, "the host's uplinks cannot be found").because(e))?;
    let parts = store.shared_parts()?;
    let table = parts.iter().find(|p| p.kind == TABLE).map_or(Table::NotNoted, |p| Table::Noted(p.after.clone()));
    let noted: Vec<String> = parts.into_iter().filter(|p| p.kind == FORWARDING).map(|p| p.key).collect();
    let mut needed = Vec::new();
    for name in found.names {
        let on = sysctl::forwarding(&name).map_err(sysctl_error)? == Switch::On;
        if !on || noted.contains(&name.to_string()) || held_by_another(vm, &name)? {
            needed.push(name);
        }
    }
    // What is noted already costs no fsync again.
    if table == Table::NotNoted || needed.iter().any(|name| !noted.contains(&name.to_string())) {
        store.write(Commit::Share, |w| -> Result<(), Error> {
            w.note_shared(&table_part(vm, None))?;
            for name in &needed {
                let (before, after) = (Some(OFF.to_owned()), Some(ON.to_owned()));
                w.note_shared(&SharedPart { kind: FORWARDING.to_owned(), key: name.to_string(), before, after })?;
            }
            Ok(())
        })?;
    }
    for name in &needed {
        perform(Effect::Forwarding, |permit| sysctl::set_forwarding(permit, name, Switch::On).map_err(sysctl_error))?;
    }
    Ok(Opened { uplinks: needed, table })
}

/// Notes how the table was left, so that later starts need not make it again. Under the network lock.
pub(super) fn note_frame(vm: &Smolvm, store: &mut Store, frame: String) -> Result<(), Error> {
    store.write(Commit::Share, |w| -> Result<(), Error> { Ok(w.note_shared_after(&table_part(vm, Some(frame)))?) })
}

fn table_part(vm: &Smolvm, after: Option<String>) -> SharedPart {
    SharedPart { kind: TABLE.to_owned(), key: table_name(&vm.install), before: None, after }
}

/// The guests and uplinks that stand in this installation's table now.
pub(super) fn present(vm: &Smolvm) -> Result<(Vec<Guest>, Vec<IfName>), Error> {
    let (mut guests, mut uplinks) = (Vec::new(), Vec::new());
    for element in nft::elements(&vm.install).map_err(nft_error)?.unwrap_or_default() {
        match (element.key, element.owner) {
            (ElementKey::Source { tap, mac, address }, ElementOwner::Sandbox(mark)) => guests.push(Guest { mark, tap, mac, address }),
            (ElementKey::Source { .. }, ElementOwner::Install(_) | ElementOwner::Unknown) => {}
            (ElementKey::Opened { uplink }, _) => uplinks.push(uplink),
        }
    }
    Ok((guests, uplinks))
}

/// Puts the host back once no sandbox has, or is getting, a device or an element.
pub(crate) fn release_shared(vm: &Smolvm, store: &mut Store) -> Result<Vec<SharedOutcome>, Error> {
    if store.shared_parts()?.is_empty() || in_use(store)? {
        return Ok(Vec::new());
    }
    let _lock = vm.network_lock()?;
    // Somebody may have started one while this waited for the lock.
    if in_use(store)? {
        return Ok(Vec::new());
    }
    let mut outcomes = Vec::new();
    // Under the lock nobody adds to it before its turn comes.
    let mut look = Some(Look::begin(vm));
    for part in store.shared_parts()? {
        let result = match part.kind.as_str() {
            TABLE => release_table(vm, look.take().unwrap_or_else(|| Look::begin(vm))),
            FORWARDING => release_forwarding(vm, &part),
            other => Err(format!("a shared part of an unknown kind: {other}")),
        };
        if result.is_ok() {
            store.write(Commit::Unshare, |w| w.forget_shared(&part))?;
        }
        outcomes.push(SharedOutcome { kind: part.kind, key: part.key, result });
    }
    Ok(outcomes)
}

fn in_use(store: &Store) -> Result<bool, Error> {
    Ok(store.has_in_use(Kind::Tap)? || store.has_in_use(Kind::NftElements)?)
}

fn release_table(vm: &Smolvm, look: Look) -> Result<&'static str, String> {
    let has_guests = |elements: &[nft::MarkedElement]| elements.iter().any(|e| e.key.set() == SetName::Sources);
    let seen = match look.end(vm) {
        Ok(None) => return Ok("already_gone"),
        Ok(Some(table)) => table.elements,
        Err(e) => return Err(e.to_string()),
    };
    // Elements without a record are orphans: reported, and removed only when they were asked for; perhaps just now, by somebody else.
    if has_guests(&seen) && has_guests(&nft::elements(&vm.install).map_err(|e| e.to_string())?.unwrap_or_default()) {
        return Err(STILL_USED.to_owned());
    }
    perform(Effect::DropTable, |permit| nft::drop_table(permit, &vm.install).map_err(nft_error))
        .map(|()| "released")
        .map_err(|e| e.one_line())
}

fn release_forwarding(vm: &Smolvm, part: &SharedPart) -> Result<&'static str, String> {
    let name: IfName = part.key.parse().map_err(|_| "not the name of an interface".to_owned())?;
    match sysctl::forwarding(&name) {
        Err(sysctl::SysctlError::Missing { .. }) | Ok(Switch::Off) => return Ok("already_gone"),
        Err(e) => return Err(e.to_string()),
        Ok(Switch::On) => {}
    }
    if held_by_another(vm, &name).map_err(|e| e.one_line())? {
        return Ok("kept: another installation uses it");
    }
    // Since then somebody made the whole host a router, which switched every interface on: theirs now.
    if sysctl::ip_forward().map_err(|e| e.to_string())? == Switch::On {
        return Ok("kept: forwarding was switched on for the whole host since");
    }
    perform(Effect::CloseForwarding, |permit| sysctl::set_forwarding(permit, &name, Switch::Off).map_err(sysctl_error))
        .map(|()| "released")
        .map_err(|e| e.one_line())
}

fn held_by_another(vm: &Smolvm, uplink: &IfName) -> Result<bool, Error> {
    let others: Vec<InstallId> = nft::list_tables().map_err(nft_error)?.into_iter().filter(|id| *id != vm.install).collect();
    for other in others {
        let elements = nft::elements(&other).map_err(nft_error)?.unwrap_or_default();
        if elements.iter().any(|e| matches!(&e.key, ElementKey::Opened { uplink: u } if u == uplink)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn sysctl_error(e: sysctl::SysctlError) -> Error {
    Error::new(ErrorCode::PermissionDenied, "forwarding cannot be switched on").hint("run it as root, or use --net user").because(e)
}
