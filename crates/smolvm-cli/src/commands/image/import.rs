//! `image import`.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use smolvm::image::{ImportRequest, ImportSource, ImportedImage};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::spec::ImageName;

use super::line;
use crate::args::Common;
use crate::commands::Verbal;
use crate::context::Context;
use crate::output::{Format, Problem, Progress, Reply, note};

/// How many of what was left out are named.
const NAMED: usize = 5;

/// Make an image from the root of a file system
#[derive(Debug, Args)]
#[command(after_help = "\
A directory is taken as it is: owners, rights, times, links, attributes. An archive is a tar file, plain or packed
with gzip or zstd. To read an image that was saved, use `smolvm image load`.

Examples:
  smolvm image import ./rootfs --name localhost/app:1
  smolvm image import rootfs.tar.zst --change 'CMD [\"/bin/sh\"]' --change 'ENV LANG=C.UTF-8'
  docker export web | smolvm image import - --name localhost/web")]
pub(crate) struct Import {
    /// A directory, an archive, or - for an archive on standard input
    #[arg(value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    path: PathBuf,
    /// What it is called; without it localhost/ and the name of the path
    #[arg(long, value_name = "NAME")]
    name: Option<ImageName>,
    /// How it is run, as an instruction of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR; may be repeated
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    changes: Vec<String>,
    /// A note for its history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Import {
    const PATH: &'static str = "image.import";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let vm = context.open()?;
        let source = if self.path.as_os_str() == "-" {
            if std::io::stdin().is_terminal() {
                return Err(Problem::new(ErrorCode::UsageError, "an archive cannot be typed")
                    .hint("smolvm image import - --name NAME < rootfs.tar"));
            }
            ImportSource::Stream(Box::new(std::io::stdin()))
        } else {
            ImportSource::Path(&self.path)
        };
        let request = ImportRequest { name: self.name.clone(), changes: self.changes.clone(), message: self.message.clone() };
        let progress = Progress::of(self.format(), self.common.quiet, format!("Importing {}", self.path.display()));
        let imported = vm.import_image(source, &request, &mut |event| progress.say(line(&event)))?;
        drop(progress);
        if !self.common.quiet && !self.common.json {
            tell_skipped(&imported);
        }
        let skipped: Vec<_> = imported.skipped.iter().map(|(entry, why)| json!({"entry": entry, "why": why})).collect();
        let data = || json!({"image": imported.image, "made": imported.made, "skipped": skipped});
        Ok(Reply::new(self.format(), data, || format!("{}\n", imported.image.name)))
    }
}

fn tell_skipped(imported: &ImportedImage) {
    for (entry, why) in imported.skipped.iter().take(NAMED) {
        note(&format!("not in the image: {entry} ({why})"));
    }
    if imported.skipped.len() > NAMED {
        note(&format!("not in the image: {} more", imported.skipped.len() - NAMED));
    }
}
