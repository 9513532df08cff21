//! Names that cannot hold a bad value.
//!
//! ```text
//!   SandboxId  vm-calm-otter-7f3k     what people type; also the guest's hostname
//!   InstallId  3f9a0c21d4             which state directory of which user on which machine
//!   Mark       smolvm:3f9a0c21d4:vm-calm-otter-7f3k   what every host resource carries
//!   LaunchToken 8c1f…                 one start of one hypervisor
//! ```
//!
//! A `Mark` is the proof of ownership on the host; it can be built only from valid parts, so a
//! mark read back from the host that does not parse is by definition not ours.

mod device;
mod hex;
mod install;
mod mark;
mod sandbox;
mod token;

pub use device::{MacAddr, MacAddrError, TapName, TapNameError};
pub use install::{InstallId, InstallIdError};
pub use mark::{Mark, MarkError};
pub use sandbox::{IdPrefix, IdPrefixError, SandboxId, SandboxIdError};
pub use token::{LaunchToken, LaunchTokenError};
