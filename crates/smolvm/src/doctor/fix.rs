//! `doctor --fix`: drops what is no valid sandbox from the ledger, sets one aside that is damaged as a whole, and
//! touches nothing else.

use smolvm_host::effect::perform_once;
use smolvm_host::store::{BrokenPlace, Store, StoreError, Table, set_aside};
use smolvm_model::effect::{Commit, Effect};
use smolvm_model::name::SandboxId;

use crate::error::Error;
use crate::installation::Smolvm;

impl Smolvm {
    /// Mends the ledger. Deletes no file, and touches no process and no device. Returns what it did.
    pub fn doctor_fix(&self) -> Result<Vec<String>, Error> {
        let read = || -> Result<Option<(Store, Table)>, StoreError> {
            let Some(store) = Store::open_existing(&self.paths().database())? else { return Ok(None) };
            let table = store.table()?;
            Ok(Some((store, table)))
        };
        match read() {
            Ok(None) => Ok(Vec::new()),
            Ok(Some((store, table))) => self.drop_broken(store, table),
            Err(e) if e.is_damage() => self.set_ledger_aside(),
            Err(e) => Err(e.into()),
        }
    }

    /// A ledger that cannot be read says of no sandbox that it is there; by their marks all of them are found.
    fn set_ledger_aside(&self) -> Result<Vec<String>, Error> {
        let aside = perform_once(Effect::SetAside, |permit| set_aside(permit, &self.paths().database()).map_err(Error::from))?;
        Ok(vec![format!(
            "set the damaged ledger aside as {}; what it knew is found by its marks: smolvm cleanup --all --dry-run",
            aside.display()
        )])
    }

    fn drop_broken(&self, mut store: Store, table: Table) -> Result<Vec<String>, Error> {
        let mut done = Vec::new();
        for row in table.broken {
            store.write(Commit::Repair, |w| w.drop_broken(&row))?;
            done.push(match &row.place {
                BrokenPlace::Sandbox => self.account(&row.raw_id),
                BrokenPlace::Entry { kind, key } => {
                    let (kind, key): (String, String) = (kind.chars().take(30).collect(), key.chars().take(60).collect());
                    format!("dropped the ledger's entry {kind:?} {key:?}; nothing on the host was touched")
                }
            });
        }
        Ok(done)
    }

    /// What was dropped, and where what it may have held is found.
    fn account(&self, raw: &str) -> String {
        let shown: String = raw.chars().take(60).collect();
        match raw.parse::<SandboxId>() {
            // A valid name may have had things on the host. They carry its mark, and are orphans now.
            Ok(id) => format!(
                "dropped the rows of {shown:?}; its disk, if it had one, stays in {} until: smolvm cleanup --prefix {id}",
                self.paths().sandbox(&id).display()
            ),
            Err(_) => format!("dropped the rows of {shown:?}; no file was touched"),
        }
    }
}
