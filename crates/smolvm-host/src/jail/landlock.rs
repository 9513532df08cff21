//! The Landlock domain: read what is listed, execute what is marked, no other file, no TCP, no signal
//! to the outside. Best effort: an older kernel enforces less, and the ABI's number says how much.

use std::os::fd::OwnedFd;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    Scope,
};

use super::child::landlock_abi;
use super::spawn::JailSpec;

/// The newest ABI whose rights are asked for.
const NEWEST: ABI = ABI::V6;

/// Makes the ruleset; `None` where the kernel has no Landlock.
pub(super) fn ruleset(spec: &JailSpec) -> Result<Option<OwnedFd>, landlock::RulesetError> {
    if landlock_abi().is_none() {
        return Ok(None);
    }
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for file in &spec.files {
        let access = if file.executable { AccessFs::ReadFile | AccessFs::Execute } else { AccessFs::ReadFile.into() };
        rules = allow(rules, &file.source, access)?;
    }
    for device in &spec.devices {
        rules = allow(rules, device, AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev)?;
    }
    Ok(rules.into())
}

fn allow(
    rules: landlock::RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<landlock::RulesetCreated, landlock::RulesetError> {
    // A file that is not there fails a moment later, at its mount, with a better message.
    match PathFd::new(path) {
        Ok(fd) => rules.add_rule(PathBeneath::new(fd, access)),
        Err(_) => Ok(rules),
    }
}
