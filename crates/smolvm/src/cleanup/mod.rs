//! `cleanup`: find what is stale, automatic, interrupted or orphaned, and remove it without a trace.
//!
//! ```text
//!   cleanup_plan (looks, changes nothing) ──► shown, asked ──► cleanup_apply ──► report with proof
//!        records held against the host            │                 judged again under each lock
//!        marks on the host held against records   │                 one teardown for all
//!                     └─ fingerprint ──► a file ──► the same look once more: the same fingerprint, or nothing is done
//! ```

mod apply;
mod fingerprint;
mod orphans;
mod plan;
mod written;

pub use apply::{CleanupReport, SharedReport};
pub use fingerprint::PLAN_VERSION;
pub use orphans::Orphan;
pub(crate) use orphans::{add_unrecorded, glimpse};
pub use plan::{CleanupPlan, Failed, StepView, Target};
pub use written::{WrittenPlan, WrittenPlanError};
