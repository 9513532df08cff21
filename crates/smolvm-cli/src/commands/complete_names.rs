//! `__complete-names`: what shell completion asks for while somebody types.

use clap::{Args, ValueEnum};
use smolvm_model::reference::{Reference, Registry};

use crate::context::Context;
use crate::exit;
use crate::output::to_stdout;

/// Prints names, one a line; whatever goes wrong, completion offers nothing and says nothing.
#[derive(Debug, Args)]
pub(crate) struct CompleteNames {
    /// Of what
    #[arg(value_enum, default_value = "sandboxes")]
    kind: Kind,
}

/// What has names.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Sandboxes,
    Images,
}

impl CompleteNames {
    pub(crate) fn run(&self, context: &Context) -> u8 {
        let names = match self.kind {
            Kind::Sandboxes => sandboxes(context),
            Kind::Images => images(context),
        };
        let text = names.unwrap_or_default().into_iter().fold(String::new(), |text, name| text + &name + "\n");
        let _ = to_stdout([text.as_str()]);
        exit::OK
    }
}

fn sandboxes(context: &Context) -> Option<Vec<String>> {
    Some(context.open_unsettled().ok()?.list().ok()?.sandboxes.into_iter().map(|sandbox| sandbox.id).collect())
}

/// Each by its whole name, and by the short one if it has one.
fn images(context: &Context) -> Option<Vec<String>> {
    let config = context.config().ok()?;
    let default = &config.registries().default;
    let images = context.open_with(&config).ok()?.images().ok()?;
    Some(images.into_iter().flat_map(|image| [short(&image.name, default), Some(image.name)].into_iter().flatten()).collect())
}

fn short(name: &str, default: &Registry) -> Option<String> {
    // Those of this host have no other.
    Reference::parse(name, default).ok().filter(|_| Reference::names_registry(name))?.short(default)
}
