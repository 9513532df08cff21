//! Processes: run a tool, know a process, end a process.

pub mod boot;
pub mod identity;
pub mod kill;
mod leash;
pub mod scan;
mod shift;
pub mod tool;
pub mod usage;
