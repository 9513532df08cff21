//! Which accelerator runs guest code.

use std::fmt;
use std::str::FromStr;

/// What runs guest code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AcceleratorRequest {
    /// KVM where it is proven to run guest code natively, else TCG.
    #[default]
    Auto,
    /// KVM, whatever the proof says.
    Kvm,
    /// TCG.
    Tcg,
}

impl Accelerator {
    /// The word users see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl AcceleratorRequest {
    /// The word users type.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// The word is not an accelerator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an accelerator: auto, kvm or tcg")]
pub struct AcceleratorError;

impl FromStr for AcceleratorRequest {
    type Err = AcceleratorError;

    fn from_str(text: &str) -> Result<Self, AcceleratorError> {
        [Self::Auto, Self::Kvm, Self::Tcg].into_iter().find(|a| a.as_str() == text).ok_or(AcceleratorError)
    }
}
