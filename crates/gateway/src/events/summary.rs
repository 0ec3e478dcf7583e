//! A summary of all events.

use serde::Serialize;

use super::event::Event;

/// A denial, and how often it occurred.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Denial {
    /// The first occurrence.
    #[serde(flatten)]
    pub event: Event,
    /// The number of occurrences.
    pub times: u64,
}

/// A summary of everything a guest did on its network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The number of connections that were allowed and established.
    pub connections: u64,
    /// Bytes from the guest.
    pub bytes_up: u64,
    /// Bytes to the guest.
    pub bytes_down: u64,
    /// Distinct denials in the order of their first occurrence; at most 64.
    pub denials: Vec<Denial>,
    /// The number of denials that are not in `denials`.
    pub more_denials: u64,
    /// The number of events that were dropped because the receiver was too slow.
    pub missed_events: u64,
}
