//! Files that are copied between this machine and a VM, as `--upload` and `--download` request it. The engine knows the
//! transfer itself; here are the arguments and the local side.

mod download;
mod local_files;
mod paths;
mod upload;

pub(crate) use download::{Download, DownloadResult, DownloadedFile};
pub(crate) use upload::{Upload, upload_all};
