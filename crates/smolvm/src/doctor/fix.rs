//! `doctor --fix`: drops what is no valid sandbox from the ledger, and touches nothing else.

use std::collections::BTreeSet;

use smolvm_model::name::SandboxId;

use crate::error::Error;
use crate::installation::Smolvm;

impl Smolvm {
    /// Drops broken rows from the ledger. Touches no file, process or device. Returns what it did.
    pub fn doctor_fix(&self) -> Result<Vec<String>, Error> {
        let Some(mut store) = self.store_if_any()? else { return Ok(Vec::new()) };
        let table = store.table()?;
        let sound: BTreeSet<&str> = table.sandboxes.iter().map(|record| record.id.as_str()).collect();
        let mut done = Vec::new();
        let broken: BTreeSet<&str> = table.broken.iter().map(|row| row.raw_id.as_str()).collect();
        for raw in broken {
            let shown = shown(raw);
            if sound.contains(raw) {
                // Its other entries are sound, and with the row they would be lost.
                done.push(format!("kept sandbox {raw}: one of its entries is broken; smolvm delete {raw} --ignore-missing, then smolvm doctor --fix"));
                continue;
            }
            store.write(|w| w.drop_broken(raw))?;
            done.push(match raw.parse::<SandboxId>() {
                // A valid name may have had things on the host; they carry its mark.
                Ok(id) => format!("dropped the rows of {shown}; what it left on the host, if anything: smolvm cleanup --prefix {id} --dry-run"),
                Err(_) => format!("dropped the rows of {shown}; no file was touched"),
            });
        }
        Ok(done)
    }
}

/// A stranger's text, escaped and cut.
fn shown(raw: &str) -> String {
    let cut: String = raw.chars().take(60).collect();
    format!("{cut:?}")
}
