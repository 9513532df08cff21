//! The packet filter, through the `nft` program: text in, JSON out.
//!
//! The text comes from `smolvm_model::network` alone, one transaction per call. What `nft` lists is read
//! tolerantly: an element that is not of our making has no key or no owner here, and is left alone.

use crate::effect::Permit;
use serde_json::Value;
use smolvm_model::name::InstallId;
use smolvm_model::network::{self, ElementKey, ElementOwner, SetName};

use crate::image::Digest;
use crate::proc::tool::{Output, Tool, ToolError};

/// Why the packet filter was not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// There is no `nft`.
    #[error("the program `nft` is not installed")]
    Missing,
    /// This process may not change the packet filter.
    #[error("changing the packet filter needs CAP_NET_ADMIN")]
    NoRights,
    /// A table, set or element that was named is not there.
    #[error("the packet filter has no such object: {complaint}")]
    NoSuchObject {
        /// What `nft` said.
        complaint: String,
    },
    /// An object of the same name and another shape is there.
    #[error("the packet filter has an object of this name already: {complaint}")]
    Exists {
        /// What `nft` said.
        complaint: String,
    },
    /// `nft` refused for another reason.
    #[error("nft refused: {complaint}")]
    Refused {
        /// What `nft` said.
        complaint: String,
    },
    /// `nft` could not be run to its end.
    #[error(transparent)]
    Tool(ToolError),
    /// `nft` wrote something that is not its JSON.
    #[error("nft's list cannot be read")]
    Unreadable {
        /// Where it went wrong.
        source: serde_json::Error,
    },
}

/// What `nft` says when a set or a chain of the same name has another type or hook. The middle one is also said
/// of what the kernel cannot do at all; a caller that then makes the table anew gets it a second time.
const OTHER_SHAPE: [&str; 3] = ["File exists", "Operation not supported", "datatype mismatch"];

/// An element of an installation's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkedElement {
    /// The set it stands in.
    pub set: SetName,
    /// What it is.
    pub key: ElementKey,
    /// Whose it is.
    pub owner: ElementOwner,
}

/// What a removal found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Afterwards the elements are not there.
    Done,
    /// There was no table, so there were no elements.
    NoTable,
}

/// Applies a text as one transaction: all of it, or nothing.
pub fn apply(_permit: &Permit, text: &str) -> Result<(), NftError> {
    if text.is_empty() {
        return Ok(());
    }
    run(Tool::new("nft").args(["-f", "-"]).stdin(text)).map(drop)
}

/// Checks a text without applying it.
pub fn check(text: &str) -> Result<(), NftError> {
    run(Tool::new("nft").args(["-c", "-f", "-"]).stdin(text)).map(drop)
}

/// Removes elements, whether they are there or not.
pub fn remove(permit: &Permit, install: &InstallId, keys: &[ElementKey]) -> Result<Removal, NftError> {
    match apply(permit, &network::remove(install, keys)) {
        Ok(()) => Ok(Removal::Done),
        // No table, or a table without the set: either way, look for what is left.
        Err(e @ NftError::NoSuchObject { .. }) => match elements(install)? {
            None => Ok(Removal::NoTable),
            Some(left) if left.iter().any(|element| keys.contains(&element.key)) => Err(e),
            Some(_) => Ok(Removal::Done),
        },
        Err(e) => Err(e),
    }
}

/// The elements of an installation's table; `None` when there is no table.
pub fn elements(install: &InstallId) -> Result<Option<Vec<MarkedElement>>, NftError> {
    Ok(table(install)?.map(|table| table.elements))
}

/// An installation's table as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// What stands in its sets.
    pub elements: Vec<MarkedElement>,
    /// A digest of all else, with the kernel's numbers of it: as long as it is the same, nobody has made, moved or removed a chain or a rule.
    pub frame: Digest,
    /// How many rules there are.
    pub rules: usize,
}

/// The table of an installation; `None` when there is none.
pub fn table(install: &InstallId) -> Result<Option<Table>, NftError> {
    let mut listed = match run(Tool::new("nft").args(["-j", "list", "table", "inet", &network::table_name(install)])) {
        Ok(output) => objects(&output.stdout)?,
        Err(NftError::NoSuchObject { .. }) => return Ok(None),
        Err(e) => return Err(e),
    };
    let elements = marked(&listed);
    for set in listed.iter_mut().filter_map(|object| object.get_mut("set")?.as_object_mut()) {
        set.remove("elem");
    }
    let rules = listed.iter().filter(|object| object.get("rule").is_some()).count();
    let frame = Digest::of(&[Value::from(listed).to_string().as_bytes()]);
    Ok(Some(Table { elements, frame, rules }))
}

/// Whether the installation's table is there.
pub fn table_exists(install: &InstallId) -> Result<bool, NftError> {
    Ok(list_tables()?.contains(install))
}

/// The installations that have a table on this host.
pub fn list_tables() -> Result<Vec<InstallId>, NftError> {
    let output = run(Tool::new("nft").args(["-j", "list", "tables"]))?;
    Ok(owners(&objects(&output.stdout)?))
}

/// Removes the installation's table with everything in it, whether it is there or not.
pub fn drop_table(permit: &Permit, install: &InstallId) -> Result<(), NftError> {
    apply(permit, &network::drop_table(install))
}

/// The elements of listed sets that are of our making.
pub(super) fn marked(listed: &[Value]) -> Vec<MarkedElement> {
    let mut found = Vec::new();
    for set in listed.iter().filter_map(|object| object.get("set")) {
        let Some(name) = SetName::ALL.into_iter().find(|name| set["name"] == name.as_str()) else { continue };
        let list = set["elem"].as_array().map(Vec::as_slice).unwrap_or_default();
        found.extend(list.iter().filter_map(|element| read_element(name, element)));
    }
    found
}

/// Whose the listed tables are.
pub(super) fn owners(listed: &[Value]) -> Vec<InstallId> {
    let ours = |object: &Value| {
        let table = object.get("table").filter(|table| table["family"] == "inet")?;
        table["name"].as_str()?.strip_prefix("smolvm_")?.parse().ok()
    };
    listed.iter().filter_map(ours).collect()
}

/// One element as `nft` lists it: the bare key, or `{"elem": {"val": key, "comment": text}}`.
fn read_element(set: SetName, element: &Value) -> Option<MarkedElement> {
    let (value, comment) = match element.get("elem") {
        Some(inner) => (&inner["val"], inner["comment"].as_str()),
        None => (element, None),
    };
    let text = match set {
        SetName::Sources => match value["concat"].as_array()?.as_slice() {
            [tap, mac, address] => format!("source {} {} {}", tap.as_str()?, mac.as_str()?, address.as_str()?),
            _ => return None,
        },
        SetName::Opened => format!("opened {}", value.as_str()?),
    };
    Some(MarkedElement { set, key: text.parse().ok()?, owner: ElementOwner::of_comment(comment) })
}

/// What `nft -j` lists. Another shape is unreadable, never an empty list: nothing would then be taken for gone.
pub(super) fn objects(json: &[u8]) -> Result<Vec<Value>, NftError> {
    let listed: Listed = serde_json::from_slice(json).map_err(|source| NftError::Unreadable { source })?;
    Ok(listed.nftables)
}

#[derive(serde::Deserialize)]
struct Listed {
    nftables: Vec<Value>,
}

pub(super) fn run(tool: Tool) -> Result<Output, NftError> {
    let output = tool.run().map_err(|e| match e {
        ToolError::Missing { .. } => NftError::Missing,
        other => NftError::Tool(other),
    })?;
    if output.status.success() {
        return Ok(output);
    }
    let complaint = output.complaint();
    // nft has one exit status for everything; the words are the C library's, in the C locale.
    Err(if complaint.contains("Operation not permitted") || complaint.contains("must be root") {
        NftError::NoRights
    } else if complaint.contains("No such file or directory") {
        NftError::NoSuchObject { complaint }
    } else if OTHER_SHAPE.iter().any(|words| complaint.contains(words)) {
        NftError::Exists { complaint }
    } else {
        NftError::Refused { complaint }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_another_shape_is_unreadable_and_not_empty() {
        assert_eq!(objects(br#"{"nftables": [{"table": {}}]}"#).unwrap().len(), 1);
        for json in ["7", "[]", "\"x\"", "null", "{}", r#"{"nftables": 7}"#, ""] {
            assert!(matches!(objects(json.as_bytes()), Err(NftError::Unreadable { .. })), "{json}");
        }
    }
}
