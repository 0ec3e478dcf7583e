//! What is told of a guest's network: events as they happen, and a summary.

mod event;
mod log;
mod summary;

pub use event::{Event, NetworkAction};
pub(crate) use log::Log;
pub use summary::{Denial, Summary};
