//! Templates: what makes a start take tens of milliseconds.
//!
//! ```text
//!   start ─► facts of the machine ─► key ─┬─ there is one ──────────────────────────────► fork
//!                                         └─ none: lock ─► a sandbox of its own, booted,
//!                                                          parked, deleted ─► published ─┘
//!                                                └─ failed ─► the start boots, and says why
//! ```
//!
//! What becomes a template is a sandbox like any other until it is parked: on record with everything it holds, in
//! the same jail, and removed by the same teardown, also by `cleanup` when its maker was killed. A template itself
//! is files in the cache and nothing else: no process, no device, no entry in the ledger.

mod build;
mod delete;
mod list;

pub use build::Built;
pub use delete::TemplateDeletion;
pub use list::TemplateView;
pub use smolvm_host::image::template::DiskState;
