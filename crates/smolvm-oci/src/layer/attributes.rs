//! Extended attributes of a member.

use std::collections::BTreeMap;

/// Extended attributes with their full names, in the order of the names. A tree keeps these for each file, and most files have none: so it is
/// a list of exactly what there is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes(Box<[(String, Vec<u8>)]>);

impl Attributes {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Vec<u8>)> {
        self.0.iter().map(|(name, value)| (name, value))
    }
}

impl From<BTreeMap<String, Vec<u8>>> for Attributes {
    fn from(all: BTreeMap<String, Vec<u8>>) -> Self {
        Self(all.into_iter().collect())
    }
}
