//! Records of a guest's network activity: events as they happen, and a summary.
//!
//! Nothing is decided here. Events hold no secrets and no payload.

mod event;
mod log;
mod summary;

pub use event::{Event, NetworkAction};
pub(crate) use log::Log;
pub use summary::{Denial, Summary};
