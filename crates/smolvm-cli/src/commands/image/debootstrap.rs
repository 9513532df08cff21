//! `image debootstrap`.

use clap::Args;
use serde_json::json;
use smolvm::image::{DebootstrapRequest, PackageName, SuiteName};
use smolvm_model::spec::ImageName;

use super::line;
use crate::args::Common;
use crate::commands::Verbal;
use crate::context::Context;
use crate::output::{Format, Problem, Progress, Reply};

/// Make an image of Debian packages
#[derive(Debug, Args)]
#[command(after_help = "\
The packages that Debian requires and those that are named, with what these depend on, from the mirrors of this
machine's apt, with Debian's signatures. Needs mmdebstrap, and no root where an ordinary user may use subordinate uids.

Examples:
  smolvm image debootstrap --package python3,git
  smolvm image debootstrap trixie --name localhost/trixie --change 'CMD [\"bash\"]'
  smolvm image debootstrap --package systemd-sysv --name localhost/systemd   # for `smolvm run --init`")]
pub(crate) struct Debootstrap {
    /// The release [default: this machine's]
    #[arg(value_name = "SUITE")]
    suite: Option<SuiteName>,
    /// What it is called [default: localhost/debian:SUITE]
    #[arg(long, value_name = "NAME")]
    name: Option<ImageName>,
    /// A package to be in it; may be repeated, or several with commas
    #[arg(short, long = "package", value_name = "PACKAGE", value_delimiter = ',')]
    packages: Vec<PackageName>,
    /// How it is run, as an instruction of a Dockerfile; may be repeated
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    changes: Vec<String>,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Debootstrap {
    const PATH: &'static str = "image.debootstrap";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let vm = context.open()?;
        let request = DebootstrapRequest { suite: self.suite, name: self.name, packages: self.packages, changes: self.changes };
        let progress = Progress::of(self.common.format(), self.common.quiet, "Making a Debian");
        let made = vm.debootstrap_image(&request, &mut |event| progress.say(line(&event)))?;
        drop(progress);
        Ok(Reply::new(self.common.format(), || json!({"image": made.image, "made": made.made}), || format!("{}\n", made.image.name)))
    }
}
