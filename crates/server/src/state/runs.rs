//! The runs in memory, and the result of looking one up.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::held_output::HeldOutput;
use super::run_task::RunTask;
use crate::api::responses::RunResponse;
use crate::error::ApiError;
use crate::owner::Owner;

/// A run that was looked up.
#[derive(Debug, Clone)]
pub enum RunLookup {
    /// The run is in memory: it is active, or it has ended and its output is still kept.
    Active(Arc<RunTask>),
    /// The run has ended, and only its record is left.
    Archived(Box<RunResponse>),
}

impl RunLookup {
    /// Returns the run that is in memory.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`](crate::ApiErrorKind::NotFound) if only its record is left.
    pub fn into_active(self) -> Result<Arc<RunTask>, ApiError> {
        match self {
            Self::Active(task) => Ok(task),
            Self::Archived(run) => Err(ApiError::not_found("run", &run.id)),
        }
    }
}

/// The runs in memory, by their ids.
#[derive(Debug, Default)]
pub(crate) struct RunTable {
    pub(crate) by_id: HashMap<String, Arc<RunTask>>,
    /// The runs that have ended, the oldest first: when each ended, its id and the bytes that it holds.
    pub(crate) ended: VecDeque<(Instant, String, usize)>,
    pub(crate) ended_bytes: usize,
    held: HashMap<Owner, Arc<HeldOutput>>,
}

impl RunTable {
    /// Returns the counter of the output that the runs of an owner hold.
    pub(crate) fn held_output(&mut self, owner: &Owner) -> Arc<HeldOutput> {
        let held = self.held.entry(owner.clone());
        held.or_insert_with(|| Arc::new(HeldOutput::of(owner)))
            .clone()
    }

    /// Returns the position in `ended` of the oldest run of the owner whose runs hold most, so that one owner's outputs do
    /// not evict those of others.
    pub(crate) fn oldest_of_largest_owner(&self) -> usize {
        let owner_of = |id: &String| self.by_id.get(id).map(|task| task.owner());

        let mut held: HashMap<Option<&Owner>, usize> = HashMap::new();
        for (_, id, bytes) in &self.ended {
            *held.entry(owner_of(id)).or_default() += bytes;
        }

        let largest = held.into_iter().max_by_key(|(_, bytes)| *bytes);
        let owner = largest.and_then(|(owner, _)| owner);
        let position = self
            .ended
            .iter()
            .position(|(_, id, _)| owner_of(id) == owner);
        position.unwrap_or(0)
    }

    /// Returns the runs that have not ended.
    pub(crate) fn active(&self) -> impl Iterator<Item = &Arc<RunTask>> {
        self.by_id.values().filter(|task| !task.state().is_over())
    }
}
