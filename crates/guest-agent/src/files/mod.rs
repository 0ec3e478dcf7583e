//! Files, with the rights of the user that programs run as.
//!
//! The kernel itself enforces the user's rights ([`Confinement::as_user`](crate::process::Confinement::as_user)).
//! Even if a program plants links or renames files meanwhile, no file is touched that the program could not touch itself.
//! `/proc` is excluded: its contents depend on the reader, which would be the agent.

mod list;
mod path;
mod read;
mod remove;
mod step;
mod transfer;
mod watch;
mod write;

pub(crate) use list::DirectoryListing;
pub(crate) use path::{file_info, locate, make_parents, open_path, path_error};
pub(crate) use read::FileDownload;
pub(crate) use remove::{Removed, start_removal};
pub(crate) use transfer::Transfer;
pub(crate) use watch::DirectoryWatch;
pub(crate) use write::FileUpload;
