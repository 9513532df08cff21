//! Who builds: root, or a user who is root in a user namespace of their own.

use std::path::Path;
use std::time::Duration;

use crate::proc::tool::{Tool, ToolError};

/// As what the tools of a build run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    /// As root.
    Root,
    /// As uid 0 of a namespace whose other uids are the user's subordinate ones.
    User,
}

impl Identity {
    /// Ours.
    pub(super) fn current() -> Self {
        if rustix::process::geteuid().is_root() { Self::Root } else { Self::User }
    }

    /// A run of `program` as that identity.
    pub(super) fn tool(self, program: &str) -> Tool {
        match self {
            Self::Root => Tool::new(program),
            Self::User => Tool::new("unshare").args(["--map-root-user", "--map-auto", "--", program]),
        }
    }
}

/// Removes a tree in which files belong to subordinate uids, which the user alone cannot.
pub(super) fn remove_mapped(tree: &Path) -> Result<(), ToolError> {
    let rm = Identity::User.tool("rm").args(["-rf", "--one-file-system", "--"]).arg(tree);
    rm.timeout(Duration::from_mins(2)).run_ok().map(drop)
}
