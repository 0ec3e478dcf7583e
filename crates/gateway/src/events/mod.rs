//! Records of a guest's network activity: events as they happen, and a summary.
//!
//! Nothing is decided here. The log of this host has few lines of each guest; receivers get all events. Events hold no secrets and no payload.

mod log;
mod line_limit;
mod event;
mod summary;

pub use event::{Event, NetworkAction};
pub(crate) use log::Log;
pub use summary::{Denial, Summary};
