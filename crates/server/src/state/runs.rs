//! Runs that are in memory, and what a look for one finds.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::run_task::Job;
use crate::api::responses::RunView;

/// A run that was asked for.
#[derive(Debug, Clone)]
pub enum Found {
    /// It goes on, or has ended and is kept with its output.
    Live(Arc<Job>),
    /// What became of it.
    Past(Box<RunView>),
}

/// Runs that are in memory.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    pub(crate) by_id: HashMap<String, Arc<Job>>,
    /// Those that have ended, the oldest first, with what they hold.
    pub(crate) ended: VecDeque<(Instant, String, usize)>,
    pub(crate) ended_bytes: usize,
}

impl Jobs {
    pub(crate) fn live(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.by_id.values().filter(|job| !job.state().is_over())
    }
}
