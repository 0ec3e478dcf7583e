use std::io;

use fumehood_sys::host::StopError;

/// Why a process was not saved as an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It has something that a new process cannot get.
    #[error("QEMU cannot be saved as a process image: {0}")]
    Unsupported(String),
    /// It could not be stopped or read.
    #[error("cannot read the QEMU process: {0}")]
    Stop(#[from] StopError),
    /// The error of the operating system.
    #[error("cannot save QEMU as a process image: {0}")]
    Io(#[from] io::Error),
}
