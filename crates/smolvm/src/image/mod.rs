//! Images: what there is, what is pulled, what they are called, and what goes.

mod archive;
mod debootstrap;
mod failure;
mod history;
mod import;
mod inspect;
mod list;
mod prune;
mod pull;
mod remove;
mod sizes;
mod tag;
mod using;

pub use archive::LoadedImage;
pub use debootstrap::DebootstrapRequest;
pub use history::ImageStep;
pub use import::{ImportRequest, ImportSource, ImportedImage};
pub use inspect::ImageDetails;
pub use list::ImageView;
pub use prune::{ImagePruneRequest, Scope};
pub use pull::{ImageProgress, PulledImage};
pub use remove::ImageRemoval;
pub use smolvm_host::image::registry::{Access, Environment, Logins, Proxies, Secret, Trust};
pub use smolvm_host::image::{PackageName, SuiteName};
pub(crate) use using::linked;
