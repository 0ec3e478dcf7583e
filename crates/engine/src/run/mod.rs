//! Runs: requests, events, outcomes, and the driver that takes one operation from its start to its end.
//!
//! Where the VM of a run comes from is decided in `provision`.

mod conclusion;
mod control;
mod driver;
mod event;
mod event_pump;
mod handle;
mod mime_bundle;
mod network_events;
mod outcome;
pub mod report;
mod request;
mod skipped;
mod spawn_request;
mod transfer;

pub(crate) use conclusion::rejection;
pub(crate) use control::Controls;
pub use control::{Input, RunControl};
pub(crate) use driver::{OutcomeBuilder, RunDriver, VmOwner, window};
pub use event::Event;
pub(crate) use event_pump::{ExpectedStart, UNREAD_TIMEOUT};
pub use handle::Run;
pub(crate) use handle::RunEnd;
pub use mime_bundle::MimeBundle;
pub(crate) use network_events::NetworkEventForwarder;
pub use outcome::{Outcome, Timing, VmOrigin};
pub use request::RunRequest;
pub use skipped::{SkippedFile, SkippedFiles};
pub use spawn_request::SpawnRequest;
pub(crate) use transfer::{CANCELLED, DownloadMemory, Transfers, parent, upload_path};
pub use transfer::{Download, DownloadTarget, UploadSource};
