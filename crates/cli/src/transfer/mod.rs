//! The arguments of `--upload` and `--download`, and uploads into a sandbox. The engine copies the files of a one-shot
//! run itself.

mod download;
mod paths;
mod upload;

pub(crate) use download::Download;
pub(crate) use paths::{names_directory, split_argument, to_text};
pub(crate) use upload::{Upload, upload_all};
