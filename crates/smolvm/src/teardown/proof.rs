//! Looks at the host once more, each kind in one look, after everything was done.

use smolvm_host::net::{nft, tap};
use smolvm_model::ledger::{Entry, Kind, Status};
use smolvm_model::network::ElementKey;

use super::dirs;
use super::effects::HostEffects;

impl HostEffects<'_> {
    /// What is still there of each entry.
    pub(super) fn look_again(&self, entries: &[&Entry]) -> Vec<Option<String>> {
        let taps = self.taps(entries);
        let elements = self.elements(entries);
        entries
            .iter()
            .map(|entry| match entry.kind {
                Kind::Process | Kind::Monitor => self.process_still_there(entry),
                Kind::NftElements => {
                    elements.as_ref().and_then(|keys| keys.iter().find(|k| **k == entry.key)).map(|k| format!("nft element {k}"))
                }
                Kind::Tap => taps.iter().find(|name| **name == entry.key).map(|name| format!("network device {name}")),
                Kind::RunDir | Kind::StateDir => dirs::still_there(self.vm, entry),
                Kind::Address | Kind::Mac | Kind::Uid => None,
            })
            .collect()
    }

    fn taps(&self, entries: &[&Entry]) -> Vec<String> {
        if entries.iter().all(|e| e.kind != Kind::Tap) {
            return Vec::new();
        }
        // The removal listed the same devices a moment ago; a failure now would have shown there.
        tap::find_marked(&self.vm.install).map(|links| links.into_iter().map(|l| l.name.to_string()).collect()).unwrap_or_default()
    }

    fn elements(&self, entries: &[&Entry]) -> Option<Vec<String>> {
        let touched = |e: &&Entry| e.kind == Kind::NftElements && e.status != Status::Reserved;
        if !entries.iter().any(touched) {
            return None;
        }
        let present = nft::elements(&self.vm.install).ok().flatten()?;
        Some(present.into_iter().map(|e| e.key).filter(|k| matches!(k, ElementKey::Source { .. })).map(|k| k.to_string()).collect())
    }
}
