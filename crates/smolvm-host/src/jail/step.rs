//! The steps of setting up a jail: what a failure is told as.

/// What the child was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Reported when everything is in place that does not come with the order.
    Armed = 1,
    /// Map the caller's ids into the user namespace.
    MapIds,
    /// Cut the mount namespace off from the host's.
    PrivateMounts,
    /// Make and enter an empty root.
    NewRoot,
    /// Make a directory or an empty file to mount on.
    Skeleton,
    /// Bind a file of the host.
    BindFile,
    /// Bind a device node.
    BindDevice,
    /// Let go of the host's file system.
    DetachHost,
    /// Make everything read-only.
    Seal,
    /// Name the host.
    HostName,
    /// Put the descriptors at their numbers and close all others.
    Descriptors,
    /// Set resource limits.
    Limits,
    /// Leave all supplementary groups.
    Groups,
    /// Take the sandbox's user and group id.
    Ids,
    /// Give up capabilities, also those that a later program could get.
    Capabilities,
    /// Forbid new privileges.
    NoNewPrivileges,
    /// Enter the Landlock domain.
    Landlock,
    /// Have its opens held.
    Opens,
    /// Ask the kernel to end this process with its parent.
    Lifeline,
    /// Wait for the parent's order.
    Order,
    /// Start the program.
    Exec,
}

impl Step {
    const ALL: [Self; 21] = [
        Self::Armed,
        Self::MapIds,
        Self::PrivateMounts,
        Self::NewRoot,
        Self::Skeleton,
        Self::BindFile,
        Self::BindDevice,
        Self::DetachHost,
        Self::Seal,
        Self::HostName,
        Self::Descriptors,
        Self::Limits,
        Self::Groups,
        Self::Ids,
        Self::Capabilities,
        Self::NoNewPrivileges,
        Self::Landlock,
        Self::Opens,
        Self::Lifeline,
        Self::Order,
        Self::Exec,
    ];

    /// The step of that number.
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|s| *s as u8 == byte)
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Armed => "report readiness",
            Self::MapIds => "map the user into its namespace",
            Self::PrivateMounts => "make its mounts private",
            Self::NewRoot => "make its root",
            Self::Skeleton => "make its directories",
            Self::BindFile => "mount a file into it",
            Self::BindDevice => "mount a device into it",
            Self::DetachHost => "detach the host's files",
            Self::Seal => "make it read-only",
            Self::HostName => "name it",
            Self::Descriptors => "arrange its descriptors",
            Self::Limits => "set its limits",
            Self::Groups => "drop groups",
            Self::Ids => "change its user",
            Self::Capabilities => "drop capabilities",
            Self::NoNewPrivileges => "forbid new privileges",
            Self::Landlock => "enter its landlock domain",
            Self::Opens => "have its opens held",
            Self::Lifeline => "tie it to its monitor",
            Self::Order => "take its order",
            Self::Exec => "start the program",
        })
    }
}
