//! What a setting can be, and what is wrong with one that cannot.

use std::str::FromStr;

use crate::engine::AcceleratorRequestError;
use crate::quantity::QuantityError;
use crate::reference::ReferenceError;
use crate::spec::SpecError;

/// Why something cannot be settled like that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is no such key.
    #[error("there is no setting {0:?}")]
    UnknownKey(String),
    /// The value is none for this key.
    #[error("{key} cannot be {value:?}")]
    Value {
        /// The key.
        key: String,
        /// What was given, shortened.
        value: String,
        /// What is wrong with it.
        #[source]
        source: ValueError,
    },
    /// `KEY=VALUE` was expected.
    #[error("{0:?} has no '=': write KEY=VALUE")]
    NoEquals(String),
}

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not an amount.
    #[error(transparent)]
    Quantity(#[from] QuantityError),
    /// Not a name or a mode.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Not an accelerator.
    #[error(transparent)]
    Accelerator(#[from] AcceleratorRequestError),
    /// Not a registry.
    #[error(transparent)]
    Registry(#[from] ReferenceError),
    /// Not a size of a pool.
    #[error("a pool has 0 to {} sandboxes", PoolSize::MOST)]
    PoolSize,
}

/// How many sandboxes of a kind wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PoolSize(u8);

impl PoolSize {
    /// Each is a process with a guest's memory: more than this is a mistake in typing.
    const MOST: u8 = 64;

    /// The number.
    pub fn get(self) -> usize {
        usize::from(self.0)
    }
}

impl FromStr for PoolSize {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(size) if digits && size <= Self::MOST => Ok(Self(size)),
            Ok(_) | Err(_) => Err(ValueError::PoolSize),
        }
    }
}

/// As much of a bad text as is told.
pub(super) fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}
