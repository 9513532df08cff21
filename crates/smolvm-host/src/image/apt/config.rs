//! The configuration of our apt: read after the host's own, so what stands here wins.

use std::path::Path;

/// Whether this path can stand in the file: apt knows no way to write these characters.
pub(super) fn can_hold(directory: &Path) -> bool {
    directory.is_absolute() && directory.to_str().is_some_and(|path| !path.contains(|c: char| c.is_control() || matches!(c, '"' | '\\')))
}

/// The text of `apt.conf`.
///
/// Cleared are the host's hooks, which would run commands of others for our update, and its index
/// targets beyond `Packages`. Pins and extra sources of the host do not count. Downloads run as the
/// caller: the cache is private, so apt's own download user could not reach it.
pub(super) fn text(directory: &Path) -> String {
    let quoted = directory.display();
    format!(
        r#"#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::DEP-11-icons-small;
#clear Acquire::IndexTargets::deb::DEP-11-icons;
#clear Acquire::IndexTargets::deb::DEP-11-icons-hidpi;
#clear Acquire::IndexTargets::deb::CNF;
#clear APT::Architectures;
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "root";
APT::Default-Release "";
APT::Get::AllowUnauthenticated "false";
APT::Get::Show-User-Simulation-Note "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Dir::State::lists "{quoted}/lists";
Dir::Cache "{quoted}/cache";
Dir::Cache::archives "{quoted}/cache/archives";
Dir::Etc::sourcelist "{quoted}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
"#
    )
}
