//! `template delete`: sandboxes that were forked from it run on.

use smolvm_host::image::template::{self, Template, TemplateKey};
use smolvm_model::error_code::ErrorCode;

use super::build::unusable;
use crate::error::Error;
use crate::installation::Smolvm;

/// What was deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TemplateDeletion {
    /// The keys.
    pub deleted: Vec<String>,
    /// Disk that came free, unless a running sandbox still uses it.
    pub freed_bytes: u64,
}

impl Smolvm {
    /// Deletes the templates whose keys begin like this; none or several for one beginning is an error, and nothing is deleted.
    pub fn delete_templates(&self, beginnings: &[String]) -> Result<TemplateDeletion, Error> {
        let all = template::list(&self.paths().cache).map_err(unusable)?;
        let meant = beginnings.iter().map(|beginning| the_one(&all, beginning)).collect::<Result<Vec<_>, _>>()?;
        self.remove_templates(meant)
    }

    /// Deletes all of them.
    pub fn delete_all_templates(&self) -> Result<TemplateDeletion, Error> {
        let all = template::list(&self.paths().cache).map_err(unusable)?;
        self.remove_templates(all.iter().collect())
    }

    fn remove_templates(&self, templates: Vec<&Template>) -> Result<TemplateDeletion, Error> {
        let mut deletion = TemplateDeletion::default();
        for template in templates {
            if template::remove(&self.paths().cache, &template.key).map_err(unusable)? {
                deletion.deleted.push(template.key.to_string());
                deletion.freed_bytes += template.disk_bytes;
            }
        }
        Ok(deletion)
    }
}

fn the_one<'a>(all: &'a [Template], beginning: &str) -> Result<&'a Template, Error> {
    let hint = "smolvm template list";
    let mut matching = all.iter().filter(|template| !beginning.is_empty() && template.key.as_str().starts_with(beginning));
    match (matching.next(), matching.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => {
            Err(Error::new(ErrorCode::UsageError, format!("several templates begin with \"{}\"", beginning.escape_debug())).hint(hint))
        }
        (None, _) => {
            let shown: String = beginning.chars().take(TemplateKey::LEN + 8).collect();
            Err(Error::new(ErrorCode::NotFound, format!("there is no template \"{}\"", shown.escape_debug())).hint(hint))
        }
    }
}
