//! The command line as a tree: which verbs there are, and what they share. Each verb's own arguments
//! stand beside what it does, in `commands/`.

mod common;
mod usage;

use std::ffi::OsString;
use std::mem::ManuallyDrop;
use std::path::PathBuf;

use clap::builder::styling::{Style, Styles};
use clap::{CommandFactory, Parser, Subcommand};

pub(crate) use common::{Common, MachineOptions, Origin, SandboxOptions, collect, configured, origin, variable};
pub(crate) use usage::{Wrong, path_of, wants_json, wrong};

use crate::commands::{
    cleanup, complete_names, completion, config, create, delete, df, doctor, exec, fork, image, inspect, list, logs, pause, pool, prune,
    resume, run, setup, snapshot, start, stats, stop, template, version,
};

const ABOUT: &str = "Disposable Linux computers: microVMs with their own kernel, removed without a trace";
const AFTER: &str = "\
Examples:
  smolvm setup                              prepare this machine, once
  smolvm run debian -- python3 -c 'print(6 * 7)'
  smolvm create --name build --start        a machine that stays
  smolvm exec build -- git --version
  smolvm cleanup --all                      remove everything, ask first

Exit status: 0 success, 1 failure, 2 usage; `run` and `exec` give the guest command's own.";
const HOME_HELP: &str = "Keep everything beneath DIR, like SMOLVM_HOME";
const SET_HELP: &str = "Settle this for one command, whatever the configuration says; may be repeated";
const BOLD: Style = Style::new().bold();
const STYLES: Styles = Styles::plain().header(BOLD).usage(BOLD).literal(BOLD);

/// Everything that can be said to `smolvm`.
#[derive(Debug, Parser)]
#[command(name = "smolvm", version, about = ABOUT, after_help = AFTER, styles = STYLES, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true, args_override_self = true)]
pub(crate) struct Cli {
    #[arg(help = HOME_HELP, long, global = true, display_order = 990, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub(crate) home: Option<PathBuf>,
    #[arg(help = SET_HELP, long, global = true, display_order = 991, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// `smolvm-cleanup`: the same command under its own name.
#[derive(Debug, Parser)]
#[command(name = "smolvm-cleanup", version, args_override_self = true, about = cleanup::ABOUT, styles = STYLES, max_term_width = 100)]
pub(crate) struct CleanupCli {
    #[arg(help = HOME_HELP, long, display_order = 990, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub(crate) home: Option<PathBuf>,
    #[arg(help = SET_HELP, long, display_order = 991, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    #[command(flatten)]
    pub(crate) cleanup: cleanup::Cleanup,
}

/// The top level.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Verb(Verb),
    /// The same verbs in grouped form: `smolvm sandbox create` is `smolvm create`
    #[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
    Sandbox {
        #[command(subcommand)]
        verb: Verb,
    },
    /// Booted machines from which sandboxes are forked
    #[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
    Template {
        #[command(subcommand)]
        verb: template::TemplateVerb,
    },
    /// Sandboxes as they were at one moment
    #[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
    Snapshot {
        #[command(subcommand)]
        verb: snapshot::SnapshotVerb,
    },
    /// Images that sandboxes are made from
    #[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
    Image {
        #[command(subcommand)]
        verb: image::ImageVerb,
    },
    /// Sandboxes that were started before anybody asked for them
    #[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
    Pool {
        #[command(subcommand)]
        verb: pool::PoolVerb,
    },
    /// What is settled once instead of being said each time
    #[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
    Config {
        #[command(subcommand)]
        verb: config::ConfigVerb,
    },
    /// Prints names, for shell completion.
    #[command(name = "__complete-names", hide = true)]
    CompleteNames(complete_names::CompleteNames),
}

/// Every verb.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Run(run::Run),
    Create(create::Create),
    Start(start::Start),
    Stop(stop::Stop),
    Pause(pause::Pause),
    Resume(resume::Resume),
    Fork(fork::Fork),
    #[command(visible_aliases = ["ls", "ps"])]
    List(list::List),
    #[command(visible_alias = "info")]
    Inspect(inspect::Inspect),
    Stats(stats::Stats),
    Exec(exec::Exec),
    Logs(logs::Logs),
    #[command(visible_alias = "rm")]
    Delete(delete::Delete),
    Setup(setup::Setup),
    Doctor(doctor::Doctor),
    Cleanup(cleanup::Cleanup),
    Prune(prune::Prune),
    Df(df::Df),
    Completion(completion::Completion),
    Version(version::Version),
}

/// What a line says.
///
/// The tree of arguments is left standing: taking it down costs as much as half of its making, and the process ends soon.
pub(crate) fn parse<T: Parser>(argv: &[OsString]) -> Result<T, clap::Error> {
    let mut tree = ManuallyDrop::new(T::command());
    let mut matches = tree.try_get_matches_from_mut(argv)?;
    T::from_arg_matches_mut(&mut matches).map_err(|e| e.format(&mut tree))
}

/// The tree itself, for help, completion and the reference.
pub(crate) fn tree() -> clap::Command {
    Cli::command()
}
