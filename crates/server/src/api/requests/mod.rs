//! The bodies that callers send. They are parsed and converted here; the engine checks the limits that it knows.

mod files;
mod language;
mod network;
mod runs;
mod sandboxes;

pub use files::UploadRequest;
pub(crate) use files::{DirectoryRequest, MoveRequest, file_content};
pub(crate) use language::{language_names, package_language_names};
pub use network::NetworkRequest;
pub(crate) use runs::SignalRequest;
pub use runs::{OneShotRunRequest, ProcessRequest, PtySize, SandboxRunRequest, Signal, Stdin};
pub(crate) use sandboxes::{CheckpointRequest, ForkRequest};
pub use sandboxes::{
    InstallRequest, LifetimeCounts, OnIdle, PortRequest, ResumeRequest, SandboxRequest,
    TimeoutsRequest,
};
