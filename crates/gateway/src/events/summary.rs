use serde::Serialize;

use super::event::Event;

/// A denial, and how often it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Denial {
    /// The first of them.
    #[serde(flatten)]
    pub event: Event,
    /// How many there were.
    pub times: u64,
}

/// All that a guest did on its network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Connections that were let through.
    pub connections: u64,
    /// Bytes from the guest.
    pub bytes_up: u64,
    /// Bytes to the guest.
    pub bytes_down: u64,
    /// Denials, in the order in which they first came; at most 64 different ones.
    pub denials: Vec<Denial>,
    /// Denials that are not among these.
    pub more_denials: u64,
    /// Events that a listener has missed, since it did not take them in time.
    pub missed_events: u64,
}
