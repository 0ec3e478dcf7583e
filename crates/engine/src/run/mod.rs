//! Runs: requests, events, outcomes, and the driver that takes one operation from its start to its end.
//!
//! Where the VM of a run comes from is decided in `provision`.

mod conclusion;
mod control;
mod driver;
mod event_pump;
mod mime_bundle;
pub mod report;
mod request;
mod spawn_request;

pub(crate) use conclusion::{CANCELLED, refused};
pub use control::{Input, RunControl};
pub(crate) use driver::{Begun, Owner, window};
pub(crate) use event_pump::Beginning;
pub use mime_bundle::MimeBundle;
pub(crate) use request::RunEnd;
pub use request::{Event, NetworkOutcome, Outcome, Run, RunRequest, Timing, VmOrigin};
pub use spawn_request::SpawnRequest;
