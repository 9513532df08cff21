//! `image list`.

use clap::Args;
use serde_json::json;
use smolvm::image::ImageView;
use smolvm_model::quantity::display_bytes;

use crate::args::Common;
use crate::commands::Verbal;
use crate::commands::list::age;
use crate::context::Context;
use crate::output::{Columns, Format, Problem, Reply, tell};

/// List images
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  smolvm image list")]
pub(crate) struct List {
    #[command(flatten)]
    common: Common,
}

impl Verbal for List {
    const PATH: &'static str = "image.list";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let smolvm = context.open_unsettled()?;
        let images = smolvm.images()?;
        for name in smolvm.broken_images()? {
            tell(&format!("the image {name} is damaged: smolvm image pull {name}, or image rm {name}"));
        }
        let text = || if self.common.quiet { names(&images) } else { table(&images) };
        Ok(Reply::new(self.format(), || json!({"images": images}), text))
    }
}

fn names(images: &[ImageView]) -> String {
    images.iter().fold(String::new(), |text, image| text + &image.name + "\n")
}

fn table(images: &[ImageView]) -> String {
    let mut table = Columns::new(&["NAME", "DIGEST", "SIZE", "OWN", "SHARED", "AGE"]);
    for image in images {
        let digest = image.digest.trim_start_matches("sha256:").chars().take(12).collect();
        table.row(&[
            image.name.clone(),
            digest,
            display_bytes(image.size_bytes).to_string(),
            display_bytes(image.own_bytes).to_string(),
            display_bytes(image.shared_bytes).to_string(),
            age(&image.created),
        ]);
    }
    table.text()
}
