//! One file per verb: its arguments, and what it does with the library.

pub(crate) mod cleanup;
pub(crate) mod complete_names;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod df;
pub(crate) mod doctor;
pub(crate) mod exec;
pub(crate) mod fork;
pub(crate) mod image;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod pause;
pub(crate) mod pool;
pub(crate) mod prune;
pub(crate) mod resume;
pub(crate) mod run;
pub(crate) mod setup;
pub(crate) mod snapshot;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod stop;
mod streams;
pub(crate) mod template;
pub(crate) mod version;

use std::ffi::OsString;
use std::path::Path;

use smolvm_model::error_code::ErrorCode;

use crate::args::{self, CleanupCli, Cli, Verb, Wrong};
use crate::context::Context;
use crate::exit;
use crate::output::{Format, Problem, Reply, emit};
use config::ConfigVerb;
use image::ImageVerb;
use pool::PoolVerb;
use snapshot::SnapshotVerb;
use template::TemplateVerb;

/// A verb with its arguments.
pub(crate) trait Verbal {
    /// Its dotted path in the envelope.
    const PATH: &'static str;

    /// Who reads its output.
    fn format(&self) -> Format;

    /// Does it.
    fn run(self, context: &Context) -> Result<Reply, Problem>;
}

/// Parses the line, does what it says, prints what came of it; gives the exit status.
pub(crate) fn dispatch(argv: &[OsString]) -> u8 {
    let own_name = argv.first().map(Path::new).and_then(Path::file_name);
    if own_name.is_some_and(|name| name == "smolvm-cleanup") {
        return match args::parse::<CleanupCli>(argv) {
            Ok(cli) => act(cli.cleanup, &Context { home: cli.home, set: cli.set }),
            Err(e) => decline(argv, e, Some(cleanup::Cleanup::PATH)),
        };
    }
    let cli = match args::parse::<Cli>(argv) {
        Ok(cli) => cli,
        Err(e) => return decline(argv, e, None),
    };
    let context = Context { home: cli.home, set: cli.set };
    match cli.command {
        args::Command::Verb(verb) | args::Command::Sandbox { verb } => act_on(verb, &context),
        args::Command::Template { verb } => match verb {
            TemplateVerb::List(v) => act(v, &context),
            TemplateVerb::Build(v) => act(v, &context),
            TemplateVerb::Delete(v) => act(v, &context),
        },
        args::Command::Snapshot { verb } => match verb {
            SnapshotVerb::Create(v) => act(v, &context),
            SnapshotVerb::List(v) => act(v, &context),
            SnapshotVerb::Inspect(v) => act(v, &context),
            SnapshotVerb::Restore(v) => act(v, &context),
            SnapshotVerb::Delete(v) => act(v, &context),
        },
        args::Command::Pool { verb } => match verb {
            PoolVerb::List(v) => act(v, &context),
            PoolVerb::Fill(v) => act(v, &context),
        },
        args::Command::Config { verb } => match verb {
            ConfigVerb::Show(v) => act(v, &context),
            ConfigVerb::Get(v) => act(v, &context),
            ConfigVerb::Set(v) => act(v, &context),
            ConfigVerb::Unset(v) => act(v, &context),
            ConfigVerb::Path(v) => act(v, &context),
        },
        args::Command::Image { verb } => match verb {
            ImageVerb::Pull(v) => act(v, &context),
            ImageVerb::List(v) => act(v, &context),
            ImageVerb::Inspect(v) => act(v, &context),
            ImageVerb::Tag(v) => act(v, &context),
            ImageVerb::Rm(v) => act(v, &context),
            ImageVerb::Save(v) => act(v, &context),
            ImageVerb::Load(v) => act(v, &context),
            ImageVerb::Import(v) => act(v, &context),
            ImageVerb::Debootstrap(v) => act(v, &context),
            ImageVerb::History(v) => act(v, &context),
            ImageVerb::Prune(v) => act(v, &context),
        },
        args::Command::CompleteNames(names) => names.run(&context),
    }
}

fn act_on(verb: Verb, context: &Context) -> u8 {
    match verb {
        Verb::Run(v) => act(v, context),
        Verb::Create(v) => act(v, context),
        Verb::Start(v) => act(v, context),
        Verb::Stop(v) => act(v, context),
        Verb::Pause(v) => act(v, context),
        Verb::Resume(v) => act(v, context),
        Verb::Fork(v) => act(v, context),
        Verb::List(v) => act(v, context),
        Verb::Inspect(v) => act(v, context),
        Verb::Stats(v) => act(v, context),
        Verb::Exec(v) => act(v, context),
        Verb::Logs(v) => act(v, context),
        Verb::Delete(v) => act(v, context),
        Verb::Setup(v) => act(v, context),
        Verb::Doctor(v) => act(v, context),
        Verb::Cleanup(v) => act(v, context),
        Verb::Prune(v) => act(v, context),
        Verb::Df(v) => act(v, context),
        Verb::Completion(v) => act(v, context),
        Verb::Version(v) => act(v, context),
    }
}

fn act<V: Verbal>(verb: V, context: &Context) -> u8 {
    let format = verb.format();
    emit(V::PATH, format, verb.run(context))
}

/// A line that was not taken: help, version, or a usage error.
fn decline(argv: &[OsString], e: clap::Error, path: Option<&str>) -> u8 {
    let json = args::wants_json(argv);
    let path = path.map_or_else(|| args::path_of(argv, &args::tree()), str::to_owned);
    match args::wrong(e, &path) {
        Wrong::Asked(help) => {
            // A reader that went away has seen what it wanted.
            let _ = help.print();
            exit::OK
        }
        Wrong::Nothing(help) if !json => {
            let _ = help.print();
            exit::USAGE
        }
        Wrong::Nothing(_) => {
            let problem = Problem::new(ErrorCode::UsageError, "no command was given").hint("smolvm --help");
            emit("smolvm", Format::Json, Err(problem))
        }
        Wrong::Usage(problem) => emit(&path, Format::of(json), Err(problem)),
    }
}

/// The dotted path of a verb of that name: of the groups `template`, `snapshot`, `image`, `pool` or `config`, or of no other group.
pub(crate) fn dotted(group: Option<&str>, verb: &str) -> &'static str {
    const PATHS: [&str; 46] = [
        run::Run::PATH,
        create::Create::PATH,
        start::Start::PATH,
        stop::Stop::PATH,
        pause::Pause::PATH,
        resume::Resume::PATH,
        fork::Fork::PATH,
        list::List::PATH,
        inspect::Inspect::PATH,
        stats::Stats::PATH,
        exec::Exec::PATH,
        logs::Logs::PATH,
        delete::Delete::PATH,
        setup::Setup::PATH,
        doctor::Doctor::PATH,
        cleanup::Cleanup::PATH,
        prune::Prune::PATH,
        df::Df::PATH,
        completion::Completion::PATH,
        version::Version::PATH,
        template::List::PATH,
        template::Build::PATH,
        template::Delete::PATH,
        snapshot::Create::PATH,
        snapshot::List::PATH,
        snapshot::Inspect::PATH,
        snapshot::Restore::PATH,
        snapshot::Delete::PATH,
        pool::List::PATH,
        pool::Fill::PATH,
        config::Show::PATH,
        config::Get::PATH,
        config::Set::PATH,
        config::Unset::PATH,
        config::Path::PATH,
        image::Pull::PATH,
        image::List::PATH,
        image::Inspect::PATH,
        image::Tag::PATH,
        image::Rm::PATH,
        image::Save::PATH,
        image::Load::PATH,
        image::Import::PATH,
        image::Debootstrap::PATH,
        image::History::PATH,
        image::Prune::PATH,
    ];
    let is = |path: &&str| match path.split_once('.') {
        Some((of, name)) => name == verb && of == group.unwrap_or("sandbox"),
        None => *path == verb && group.is_none(),
    };
    PATHS.into_iter().find(is).unwrap_or("smolvm")
}
