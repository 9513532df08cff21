//! `completion`: a shell script that completes verbs, options and the names of sandboxes and images.
//!
//! Verbs and options are generated from the command tree; a short addition per shell asks
//! `smolvm __complete-names` for names where a name can stand.

use clap::Args;
use clap_complete::{Shell, generate};
use serde_json::json;

use super::Verbal;
use crate::args::tree;
use crate::context::Context;
use crate::output::{Format, Problem, Reply};

/// Print a shell completion script
#[derive(Debug, Args)]
#[command(after_help = "\
It completes verbs, options and the names of sandboxes and images.

Examples:
  smolvm completion bash > /etc/bash_completion.d/smolvm
  smolvm completion zsh > \"${fpath[1]}/_smolvm\"
  smolvm completion fish > ~/.config/fish/completions/smolvm.fish")]
pub(crate) struct Completion {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Supported,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The shells whose additions exist.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Supported {
    Bash,
    Zsh,
    Fish,
}

impl Verbal for Completion {
    const PATH: &'static str = "completion";

    fn format(&self) -> Format {
        Format::of(self.json)
    }

    fn run(self, _: &Context) -> Result<Reply, Problem> {
        let (name, generated, addition) = match self.shell {
            Supported::Bash => ("bash", generated(Shell::Bash), include_str!("names.bash")),
            Supported::Zsh => ("zsh", zsh(&generated(Shell::Zsh)), ""),
            Supported::Fish => ("fish", generated(Shell::Fish), include_str!("names.fish")),
        };
        let script = generated + addition;
        Ok(Reply::new(self.format(), || json!({"shell": name, "script": script}), || script.clone()))
    }
}

/// A line of the script; of one that takes an image, the completer is ours.
fn images(line: &str) -> String {
    let takes = IMAGES.iter().any(|what| line.contains(what));
    match line.find(":_default'").filter(|_| takes) {
        Some(at) => format!("{}:_smolvm_images'{}", &line[..at], &line[at + ":_default'".len()..]),
        None => line.to_owned(),
    }
}

/// How arguments that are images are described.
const IMAGES: [&str; 6] = [
    " -- The image:",
    " -- The image\\:",
    " -- The image'\\''s name:",
    " -- Names of images:",
    " -- An image that is here:",
    "=[The image it is made from\\:",
];

fn generated(shell: Shell) -> String {
    let mut script = Vec::new();
    generate(shell, &mut tree(), "smolvm", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Every positional argument that is a sandbox is described by `The sandbox`, and every argument that is an image that may be here
/// by the words below: their completers are replaced, and the functions that do it must be there before the script
/// calls itself at its end.
fn zsh(script: &str) -> String {
    let named = script
        .replace(" -- The sandbox:_default", " -- The sandbox:_smolvm_names")
        .replace(" -- The sandboxes:_default", " -- The sandboxes:_smolvm_names");
    let named: String = named.lines().map(|line| images(line) + "\n").collect();
    match named.rfind("if [ \"$funcstack[1]\"") {
        Some(at) => format!("{}{}\n{}", &named[..at], include_str!("names.zsh"), &named[at..]),
        None => named,
    }
}
