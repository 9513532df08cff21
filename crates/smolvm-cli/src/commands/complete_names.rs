//! `__complete-names`: what shell completion asks for while somebody types.

use crate::context::Context;
use crate::exit;
use crate::output::to_stdout;

/// Prints the names, one a line; whatever goes wrong, completion offers nothing and says nothing.
pub(super) fn run(context: &Context) -> u8 {
    let names = context
        .open()
        .ok()
        .and_then(|vm| vm.list().ok())
        .map_or_else(String::new, |listing| listing.sandboxes.iter().fold(String::new(), |text, sandbox| text + &sandbox.id + "\n"));
    let _ = to_stdout([names.as_str()]);
    exit::OK
}
