//! The runs in memory, and the result of looking one up.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::run_task::RunTask;
use crate::api::responses::RunResponse;
use crate::error::ApiError;

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
}

impl RunTable {
    /// Returns the runs that have not ended.
    pub(crate) fn active(&self) -> impl Iterator<Item = &Arc<RunTask>> {
        self.by_id.values().filter(|task| !task.state().is_over())
    }
}
