//! The list of targets, and the one that this process runs.

use std::sync::OnceLock;

use crate::{agent, cli, disk, engine, image, memory, model, net, oci, process, proto, sandbox, store};

/// Names the target to run.
const VARIABLE: &str = "SMOLVM_FUZZ_TARGET";

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Readers that belong together, with what must hold for them.
pub(crate) struct Target {
    name: &'static str,
    /// Longer inputs are not made: the caps of the readers are tried where they are below it.
    longest: usize,
    /// What an input may make the readers hold at once.
    memory: usize,
    run: fn(&[u8]),
}

const fn target(name: &'static str, longest: usize, memory: usize, run: fn(&[u8])) -> Target {
    Target { name, longest, memory, run }
}

const ALL: &[Target] = &[
    // The guest's line.
    target("frames", 4 * KIB, 2 * MIB, proto::frames),
    target("attach", KIB, MIB, proto::attach),
    target("messages", 4 * KIB, 4 * MIB, proto::messages),
    target("windows", KIB, MIB, proto::windows),
    target("monitor_link", 4 * KIB, 4 * MIB, sandbox::monitor_link),
    target("exec_stream", 4 * KIB, 4 * MIB, sandbox::exec_stream),
    target("console", KIB, MIB, cli::console),
    // The guest's network.
    target("ethernet", 2 * KIB, MIB, model::ethernet),
    target("user_relay", 4 * KIB, 2 * MIB, net::user_relay),
    target("name_service", KIB, MIB, net::name_service),
    // The guest's own side.
    target("agent_link", 4 * KIB, 4 * MIB, agent::link),
    target("agent_users", 2 * KIB, MIB, agent::users),
    target("agent_netlink", KIB, MIB, agent::netlink),
    // Names and amounts, from people, rows and the host.
    target("names", 256, MIB, model::names),
    target("amounts", 64, MIB, model::amounts),
    target("rules", KIB, MIB, model::rules),
    // What the kernel and tools say.
    target("qmp", 4 * KIB, 4 * MIB, engine::qmp),
    target("engine_probe", 2 * KIB, MIB, engine::probe),
    target("program_elf", KIB, MIB, engine::program),
    target("nft", 4 * KIB, 4 * MIB, net::nft),
    target("netlink", 2 * KIB, MIB, net::netlink),
    target("processes", KIB, MIB, process::files),
    target("apt", 2 * KIB, MIB, image::apt),
    // Files.
    target("host_files", KIB, MIB, net::host_files),
    target("manifests", 2 * KIB, 4 * MIB, image::manifests),
    target("config", 2 * KIB, 4 * MIB, store::config),
    target("rows", 2 * KIB, 4 * MIB, store::rows),
    target("monitor_config", 2 * KIB, 4 * MIB, sandbox::monitor_config),
    target("cleanup_plan", 2 * KIB, 4 * MIB, sandbox::cleanup_plan),
    target("disk_layer", 4 * KIB, 4 * MIB, disk::layer),
    // Images of strangers. An extended header may have a megabyte, and zstd asks for its window.
    target("image_reference", 256, MIB, oci::reference),
    target("image_documents", 4 * KIB, 4 * MIB, oci::documents),
    target("image_layers", 8 * KIB, 160 * MIB, oci::layers),
    // The kernel's own formats. LZ4 states its length, and zeroed memory of up to 256 MiB is asked for.
    target("bzimage", 4 * KIB, 257 * MIB, image::bzimage),
    target("lz4", 4 * KIB, 514 * MIB, image::lz4),
    target("module_elf", 4 * KIB, 64 * MIB, image::module),
];

static CHOSEN: OnceLock<&'static Target> = OnceLock::new();

/// Takes the target from the environment; without one, prints the list and ends the process.
pub(crate) fn choose() {
    let wanted = std::env::var(VARIABLE).unwrap_or_default();
    match ALL.iter().find(|target| target.name == wanted) {
        Some(target) => {
            let _ = CHOSEN.set(target);
        }
        None if wanted.is_empty() => {
            for target in ALL {
                println!("{} {}", target.name, target.longest);
            }
            std::process::exit(0);
        }
        None => {
            eprintln!("no target is named {wanted:?}");
            std::process::exit(2);
        }
    }
}

/// Runs one input.
pub(crate) fn run(bytes: &[u8]) {
    let Some(target) = CHOSEN.get() else { return };
    // The engine tries lengths of its own while it reads a corpus.
    let bytes = &bytes[..bytes.len().min(target.longest)];
    memory::bounded(target.memory, || (target.run)(bytes));
}
