//! `doctor --fix`: drops what is no valid sandbox from the ledger, and touches nothing else.

use smolvm_host::store::BrokenPlace;
use smolvm_model::effect::Commit;
use smolvm_model::name::SandboxId;

use crate::error::Error;
use crate::installation::Smolvm;

impl Smolvm {
    /// Drops broken rows from the ledger. Touches no file, process or device. Returns what it did.
    pub fn doctor_fix(&self) -> Result<Vec<String>, Error> {
        let Some(mut store) = self.store_if_any()? else { return Ok(Vec::new()) };
        let mut done = Vec::new();
        for row in store.table()?.broken {
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
