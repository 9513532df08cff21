//! Packages of the system: which are missing, and installing them when that was asked for.

use std::path::PathBuf;

use smolvm_host::effect::perform_once;
use smolvm_host::image::{self, BuiltIn, PackageError, Progress, Requirement, When};
use smolvm_model::effect::Effect;
use smolvm_model::error_code::ErrorCode;

use super::StepOutcome;
use crate::error::Error;

/// What to do about packages that are missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Packages {
    /// Install them, if this is root; otherwise name the command and stop.
    #[default]
    Install,
    /// Name the command and stop, whoever this is.
    OnlyReport,
}

/// Where a program is, if it is anywhere.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<PathBuf>;

/// What is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Without these nothing can be prepared.
    required: Vec<&'static str>,
    /// Without these sandboxes run, but have no network.
    network: Vec<&'static str>,
}

/// Decides what is missing for building `images` here.
pub(super) fn plan(images: &[BuiltIn], own_hypervisor: bool, root: bool, find: Lookup<'_>) -> Plan {
    let debian = images.contains(&BuiltIn::Debian);
    let needed = |requirement: &Requirement| match requirement.when {
        When::Always => !(own_hypervisor && requirement.package == HYPERVISOR),
        When::DebianImage => debian,
        When::DebianImageWithoutRoot => debian && !root,
    };
    let mut required: Vec<&'static str> =
        image::required_tools().iter().filter(|r| needed(r) && find(r.tool).is_none()).map(|r| r.package).collect();
    required.dedup();
    // Root's sandboxes have TAPs and rules, everybody else's a helper; root may ask for the helper too.
    let network = [("nft", "nftables", root), ("passt", "passt", true)];
    let missing = network.into_iter().filter(|(tool, _, wanted)| *wanted && find(tool).is_none()).map(|(_, package, _)| package);
    Plan { required, network: missing.collect() }
}

/// Debian's package of the hypervisor.
pub(crate) const HYPERVISOR: &str = "qemu-system-x86";

impl Plan {
    /// Everything that would be installed.
    pub(super) fn wanted(&self) -> Vec<&'static str> {
        self.required.iter().chain(&self.network).copied().collect()
    }

    /// What stays missing although the work can go on.
    pub(super) fn notes(&self, root: bool) -> Vec<String> {
        if root || self.network.is_empty() {
            return Vec::new();
        }
        vec![format!("sandboxes will have no network without {}: {}", self.network.join(" "), command(&self.network, root))]
    }
}

/// Installs what is missing, or says how.
pub(super) fn carry_out(plan: &Plan, packages: Packages, root: bool, report: &mut dyn FnMut(Progress)) -> Result<StepOutcome, Error> {
    match (packages, root) {
        (Packages::Install, true) if plan.wanted().is_empty() => Ok(StepOutcome::Already),
        (Packages::Install, true) => {
            let wanted = plan.wanted();
            perform_once(Effect::InstallPackages, |permit| {
                image::install_packages(permit, &wanted, report).map_err(|e| failed(e, &wanted))
            })?;
            Ok(StepOutcome::Done)
        }
        (Packages::OnlyReport, _) | (Packages::Install, false) if plan.required.is_empty() => Ok(StepOutcome::Already),
        (Packages::OnlyReport, _) | (Packages::Install, false) => {
            Err(Error::new(ErrorCode::MissingDependency, format!("packages of the system are missing: {}", plan.required.join(" ")))
                .hint(command(&plan.wanted(), root)))
        }
    }
}

/// The command that installs packages.
pub(crate) fn command(packages: &[&str], root: bool) -> String {
    let sudo = if root { "" } else { "sudo " };
    format!("{sudo}apt-get install --no-install-recommends {}", packages.join(" "))
}

fn failed(e: PackageError, packages: &[&str]) -> Error {
    let code = match &e {
        PackageError::NeedsRoot { .. } => ErrorCode::PermissionDenied,
        PackageError::BadName { .. } | PackageError::Apt(_) => ErrorCode::MissingDependency,
    };
    Error::new(code, format!("the packages {} could not be installed", packages.join(" ")))
        // An apt that was killed leaves packages half configured, and the next one refuses to go on.
        .hint(format!("dpkg --configure -a && apt-get update && {}", command(packages, true)))
        .because(e)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_all_but<'a>(missing: &'a [&str]) -> impl Fn(&str) -> Option<PathBuf> + 'a {
        |tool| (!missing.contains(&tool)).then(|| PathBuf::from("/usr/bin").join(tool))
    }

    #[test]
    fn only_what_the_chosen_images_need_is_missed() {
        let find = has_all_but(&["mmdebstrap"]);
        assert_eq!(plan(&[BuiltIn::Minimal], false, true, &find).wanted(), Vec::<&str>::new());
        assert_eq!(plan(&BuiltIn::ALL, false, true, &find).wanted(), ["mmdebstrap"]);
    }

    #[test]
    fn a_hypervisor_that_is_given_needs_no_package() {
        let find = has_all_but(&["qemu-system-x86_64"]);
        assert_eq!(plan(&[BuiltIn::Minimal], false, true, &find).wanted(), ["qemu-system-x86"]);
        assert_eq!(plan(&[BuiltIn::Minimal], true, true, &find).wanted(), Vec::<&str>::new());
    }

    #[test]
    fn several_tools_of_one_package_are_one_package() {
        let find = has_all_but(&["mke2fs", "debugfs", "e2fsck"]);
        assert_eq!(plan(&[BuiltIn::Minimal], false, true, &find).wanted(), ["e2fsprogs"]);
    }

    #[test]
    fn whoever_cannot_install_is_told_the_command() {
        let find = has_all_but(&["qemu-system-x86_64", "passt"]);
        let plan = plan(&[BuiltIn::Minimal], false, false, &find);
        let error = carry_out(&plan, Packages::Install, false, &mut |_| panic!("nothing is done")).unwrap_err();
        assert_eq!(error.code, ErrorCode::MissingDependency);
        assert_eq!(error.recovery.unwrap(), "sudo apt-get install --no-install-recommends qemu-system-x86 passt");
        let error = carry_out(&plan, Packages::OnlyReport, true, &mut |_| panic!("nothing is done")).unwrap_err();
        assert_eq!(error.recovery.unwrap(), "apt-get install --no-install-recommends qemu-system-x86 passt");
    }

    #[test]
    fn a_missing_network_program_stops_nobody() {
        let find = has_all_but(&["passt", "nft"]);
        let plan = plan(&[BuiltIn::Minimal], false, false, &find);
        assert_eq!(carry_out(&plan, Packages::Install, false, &mut |_| {}).unwrap(), StepOutcome::Already);
        assert_eq!(plan.notes(false), ["sandboxes will have no network without passt: sudo apt-get install --no-install-recommends passt"]);
    }
}
