//! Images: what there is, what is pulled, what they are called, and what goes.

mod archive;
mod failure;
mod inspect;
mod list;
mod pull;
mod remove;
mod tag;

pub use inspect::ImageDetails;
pub use list::ImageView;
pub use pull::{ImageProgress, PulledImage};
pub use remove::ImageRemoval;
pub use smolvm_host::image::registry::{Access, Environment, Logins, Proxies, Secret, Trust};
