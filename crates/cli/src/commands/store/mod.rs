//! The commands that manage the store: `image`, `template` and `layer`.

pub(crate) mod image;
pub(crate) mod layer;
pub(crate) mod missing_images;
pub(crate) mod template;

use fumehood_engine::image::Store;

use crate::args::HostArgs;
use crate::io::eprint_message;

/// Returns the store that the arguments or the environment name.
pub(super) fn find_store(host: &HostArgs) -> anyhow::Result<Store> {
    let root = match host.config().store {
        Some(root) => root,
        None => Store::default_root()?,
    };
    Ok(Store::open(root)?)
}

/// As [`find_store`], and removes what killed builds have left there.
pub(super) fn open_store(host: &HostArgs) -> anyhow::Result<Store> {
    let store = find_store(host)?;
    if store.has_leftovers() {
        eprint_message("removing the unfinished work of a killed build");
        // The command itself does not need this.
        if let Err(error) = store.remove_leftovers() {
            eprint_message(&format!("cannot remove it: {error}"));
        }
    }
    Ok(store)
}
