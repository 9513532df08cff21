//! Takes names, addresses and uids for a new sandbox, inside the transaction that records it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::str::FromStr;

use smolvm_host::net::{accounts, routes};
use smolvm_host::proc::scan;
use smolvm_host::random;
use smolvm_host::store::{Store, StoreError, Writing};
use smolvm_model::effect::Commit;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::{Entry, Kind, Status};
use smolvm_model::name::{MacAddr, SandboxId, TapName};
use smolvm_model::network::{AddressPool, Guest, UidRange};
use smolvm_model::spec::NetworkMode;

use crate::error::Error;
use crate::installation::{Smolvm, is_root};

/// Setting under which the pool is kept once it was chosen: addresses in use must stay in it.
const POOL: &str = "address_pool";
/// Setting under which the first uid of the range is kept.
const UIDS: &str = "uid_range";

/// What the host offers, looked at before the transaction opens.
#[derive(Debug)]
pub(crate) struct Reservation {
    pool: Option<AddressPool>,
    uids: Option<UidRange>,
    /// Uids of the range under which something runs: an orphan's, after a lost ledger, is nobody else's.
    busy: BTreeSet<u32>,
    mac: [u8; 5],
}

impl Smolvm {
    /// Looks at routes and accounts; the first sandbox of an installation settles pool and range.
    pub(crate) fn prepare_reservation(&self, store: &mut Store, mode: NetworkMode) -> Result<Reservation, Error> {
        let mac = random::bytes().map_err(|e| Error::new(ErrorCode::Internal, "no random bytes").because(e))?;
        let uids = if is_root() { Some(self.uid_range(store)?) } else { None };
        let busy = match &uids {
            Some(range) => scan::uids(self.proc(), |uid| range.contains(uid)).map_err(|e| {
                Error::new(ErrorCode::Internal, "the host's processes cannot be listed").hint("/proc must be mounted").because(e)
            })?,
            None => BTreeSet::new(),
        };
        Ok(Reservation {
            uids,
            busy,
            pool: match mode {
                NetworkMode::Tap => Some(self.address_pool(store)?),
                NetworkMode::User | NetworkMode::None => None,
            },
            mac,
        })
    }

    /// The installation's addresses.
    pub(crate) fn address_pool(&self, store: &mut Store) -> Result<AddressPool, Error> {
        if let Some(pool) = store.meta(POOL)?.and_then(|text| text.parse().ok()) {
            return Ok(pool);
        }
        let known = routes::known().map_err(|e| Error::new(ErrorCode::Internal, "the host's routes cannot be read").because(e))?;
        let pool = AddressPool::choose(&self.install, &known).map_err(|e| {
            Error::new(ErrorCode::ResourceExhausted, "no private addresses are free for sandboxes")
                .hint("use --net user or --net none")
                .because(e)
        })?;
        Ok(store.write(Commit::Range, |w| settle(w, POOL, pool, &pool.to_string()))?)
    }

    fn uid_range(&self, store: &mut Store) -> Result<UidRange, Error> {
        if let Some(range) = store.meta(UIDS)?.and_then(|text| text.parse().ok()).and_then(|start| UidRange::from_start(start).ok()) {
            return Ok(range);
        }
        let used = accounts::used_ids().map_err(|e| Error::new(ErrorCode::Internal, "the host's accounts cannot be read").because(e))?;
        let range = UidRange::choose(&self.install, &used)
            .map_err(|e| Error::new(ErrorCode::ResourceExhausted, "no uids are free for hypervisors").because(e))?;
        let start = store.write(Commit::Range, |w| settle(w, UIDS, range.start(), &range.start().to_string()))?;
        UidRange::from_start(start).map_err(|e| Error::new(ErrorCode::StateCorrupt, "the recorded range of uids is none").because(e))
    }
}

/// The choice that stands: the first command of an installation makes it, and another one may have been first since the look.
fn settle<T: FromStr>(w: &Writing<'_>, key: &str, chosen: T, text: &str) -> Result<T, StoreError> {
    if let Some(standing) = w.meta(key)?.and_then(|text| text.parse().ok()) {
        return Ok(standing);
    }
    w.set_meta(key, text)?;
    Ok(chosen)
}

/// The entries of a new sandbox's network and uid, taken from what is free in this transaction.
pub(crate) fn reserve(vm: &Smolvm, w: &Writing<'_>, id: &SandboxId, reservation: &Reservation) -> Result<(), Error> {
    let entry = |kind, key: String| Entry { sandbox: id.clone(), kind, key, status: Status::Reserved, identity: None };
    if let Some(range) = &reservation.uids {
        let recorded = w.taken(Kind::Uid)?;
        let taken = recorded.iter().filter_map(|k| k.parse().ok()).chain(reservation.busy.iter().copied()).collect();
        let uid = range
            .allocate(&taken)
            .map_err(|e| Error::new(ErrorCode::ResourceExhausted, "every uid for hypervisors is taken").because(e))?;
        w.insert_entry(&entry(Kind::Uid, uid.to_string()))?;
    }
    if let Some(pool) = &reservation.pool {
        let taken: BTreeSet<Ipv4Addr> = w.taken(Kind::Address)?.iter().filter_map(|k| k.parse().ok()).collect();
        let address = pool
            .allocate(&taken)
            .map_err(|e| Error::new(ErrorCode::ResourceExhausted, "every address for sandboxes is taken").because(e))?;
        let mac = MacAddr::local(reservation.mac);
        let tap = TapName::derive(&vm.install, id);
        let guest = Guest { mark: vm.mark(id), tap: tap.clone(), mac, address };
        w.insert_entry(&entry(Kind::Address, address.to_string()))?;
        w.insert_entry(&entry(Kind::Mac, mac.to_string()))?;
        w.insert_entry(&entry(Kind::Tap, tap.to_string()))?;
        w.insert_entry(&entry(Kind::NftElements, guest.key().to_string()))?;
    }
    Ok(())
}
