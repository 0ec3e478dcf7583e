//! Host folders in a VM: the copy, the changes of the guest, the difference as a patch, and taking it over.
//!
//! A copy of the guest's folder is as hostile as the guest. The engine unpacks it into an empty private directory, with
//! checks of its own. Nothing of it is written to the user's folder except by [`apply`], which follows no link there. How the
//! copies get here belongs to the commands.

mod mount;
mod sync;
mod apply;
mod patch;
mod changes;
mod host_folder;
mod record;
mod tree;
mod names;

pub(crate) use mount::Mount;
pub(crate) use record::MountRecord;
pub(crate) use sync::{SyncEnd, offer};
