//! `image history`: what an image was made of, step by step.

use serde::Serialize;
use smolvm_host::image::registry::Step;
use smolvm_host::image::{Image, LayerBlob};
use smolvm_model::spec::ImageName;

use crate::error::Error;
use crate::installation::Smolvm;

/// One step of an image's making.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageStep {
    /// When, as its authors say.
    pub created: Option<String>,
    /// What was done; empty if nobody says.
    pub created_by: String,
    /// A note.
    pub comment: Option<String>,
    /// The layer that came of it, if one did.
    pub layer: Option<String>,
    /// Length of that layer as it lies here, packed or not.
    pub size_bytes: u64,
}

impl Smolvm {
    /// The steps of an image, the last one first.
    pub fn image_history(&self, name: &ImageName) -> Result<Vec<ImageStep>, Error> {
        let image = self.image(name)?;
        Ok(match &image.origin {
            Some(origin) => steps(&origin.history, &origin.layers),
            None => vec![made_here(&image)],
        })
    }
}

fn made_here(image: &Image) -> ImageStep {
    ImageStep {
        created: Some(crate::time::rfc3339(i64::try_from(image.created_unix).unwrap_or(0).saturating_mul(1000))),
        created_by: "smolvm setup".to_owned(),
        comment: None,
        layer: None,
        size_bytes: image.size_bytes,
    }
}

/// Every step that is no empty one made the next layer. What is said too little of is shown all the same; what is said too much is said.
fn steps(history: &[Step], layers: &[LayerBlob]) -> Vec<ImageStep> {
    let mut rest = layers.iter();
    let mut steps: Vec<ImageStep> = history.iter().map(|step| of(Some(step), if step.empty_layer { None } else { rest.next() })).collect();
    steps.extend(rest.map(|layer| of(None, Some(layer))));
    steps.reverse();
    steps
}

fn of(step: Option<&Step>, layer: Option<&LayerBlob>) -> ImageStep {
    ImageStep {
        created: step.and_then(|step| step.created.clone()),
        created_by: step.and_then(|step| step.created_by.clone()).unwrap_or_default(),
        comment: step.and_then(|step| step.comment.clone()),
        layer: layer.map(|layer| layer.digest.to_string()),
        size_bytes: layer.map_or(0, |layer| layer.size_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_belong_to_the_steps_that_made_them() {
        let digest = |n: u8| format!("sha256:{}", format!("{n:02x}").repeat(32));
        let layer = |n: u8| LayerBlob { digest: digest(n).parse().unwrap(), size_bytes: n.into() };
        let step = |by: &str, empty_layer| Step { created_by: Some(by.to_owned()), empty_layer, ..Step::default() };
        let told = |history: &[Step], layers: &[LayerBlob]| {
            let told = steps(history, layers).into_iter().map(|step| (step.created_by, step.layer, step.size_bytes));
            told.collect::<Vec<_>>()
        };
        let history = [step("FROM", false), step("ENV", true), step("RUN", false)];
        let run = ("RUN".to_owned(), Some(digest(2)), 2);
        let rest = [("ENV".to_owned(), None, 0), ("FROM".to_owned(), Some(digest(1)), 1)];
        assert_eq!(told(&history, &[layer(1), layer(2)]), [&[run.clone()][..], &rest].concat());
        // Nobody says how the third came to be; or a step names a layer that is not there.
        let third = (String::new(), Some(digest(3)), 3);
        assert_eq!(told(&history, &[layer(1), layer(2), layer(3)]), [&[third, run][..], &rest].concat());
        assert_eq!(told(&history, &[layer(1)])[0], ("RUN".to_owned(), None, 0));
    }
}
