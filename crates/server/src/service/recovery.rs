//! Recovery from an earlier server: sandboxes that it paused or saved, and those that are lost.

use std::collections::HashMap;
use std::time::Duration;

use fumehood_engine::{PortMapping, SavedState, StateId};
use jiff::Timestamp;

use super::service::Service;
use crate::api::requests::NetworkRequest;
use crate::api::sandbox_responses::{SandboxResponse, SandboxState};
use crate::api::timestamp::format_timestamp;
use crate::error::{ApiError, ApiErrorKind};
use crate::owner::Owner;
use crate::state::sandbox::{SandboxHandle, SavedBody, StateKind, StateLabel};
use crate::storage::database::StoreError;
use crate::storage::records::{self, SandboxRecord, Table};
use crate::storage::resume::SavedRecord;
use crate::storage::saved_checkpoints;
use crate::sync::lock;

/// A state in the engine's store that this server, or an earlier one with the same state file, has written.
type OwnState = (StateLabel, SavedState);

impl Service {
    /// Takes over what an earlier server has left: runs are lost, paused sandboxes stay paused, running ones continue from
    /// their last checkpoint or are lost, and states without a use are deleted.
    pub(super) fn recover(&self) -> Result<(), StoreError> {
        records::mark_runs_lost(&self.0.store)?;
        let records = records::resumable_sandboxes(&self.0.store)?;

        let Some(mut states) = self.own_states() else {
            // Without an image nothing can be resumed now. Paused sandboxes are checked once they are.
            for record in records {
                let saved = record
                    .resume
                    .as_ref()
                    .and_then(|resume| resume.saved.clone());
                let is_paused = matches!(
                    record.view.state,
                    SandboxState::Paused | SandboxState::Resuming
                );
                let saved = saved
                    .filter(|_| is_paused)
                    .and_then(|saved| saved_body(&saved));
                self.take_over(record, saved);
            }
            return Ok(());
        };

        for record in records {
            let saved = take_state(&mut states, &record);
            self.take_over(record, saved);
        }

        self.sort_out(states)
    }

    /// Lists the states of this server. `None` if there is no engine yet.
    fn own_states(&self) -> Option<Vec<OwnState>> {
        let engine = self.engine().ok()?;

        // This is called from asynchronous code that cannot wait, so the list is read on a thread with a separate runtime.
        let list = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().ok()?;
            let states = runtime.block_on(engine.saved_states());
            states
                .inspect_err(|error| tracing::error!(%error, "cannot list saved states"))
                .ok()
        });
        let states = list.join().ok().flatten()?;

        let own = states.into_iter().filter_map(|state| {
            let label = StateLabel::parse(&state.label, &self.0.server_id)?;
            Some((label, state))
        });
        Some(own.collect())
    }

    /// Registers a sandbox as paused if it has a state, and records it as lost otherwise.
    fn take_over(&self, record: SandboxRecord, saved: Option<SavedBody>) {
        let SandboxRecord {
            owner,
            mut view,
            resume,
        } = record;
        let (Some(saved), Some(resume)) = (saved, resume) else {
            if view.state != SandboxState::Ended {
                tracing::warn!(sandbox = view.id, "lost by a server that was killed");
                view.state = SandboxState::Ended;
                view.ended_at = Some(format_timestamp(Timestamp::now()));
                view.ended = Some("server_lost".into());
                view.ended_why = Some("the server stopped, and the VM with it".into());
                (view.paused_at, view.state_bytes) = (None, None);
                view.urls.clear();
                records::update(&self.0.store, Table::Sandboxes, &view.id, "ended", &view);
            }
            return;
        };

        (view.ended, view.ended_at, view.ended_why) = (None, None, None);
        let ports: Vec<PortMapping> = resume
            .ports
            .iter()
            .filter_map(|port| port.parse().ok())
            .collect();
        let network = resume.network.map(NetworkRequest::from);
        let handle = SandboxHandle::paused(&owner, view, saved, resume.timeouts, network, &ports);
        lock(&self.0.sandboxes).insert(handle.id().to_owned(), handle.clone());
        self.record_sandbox(&handle);
    }

    /// Handles the states that belong to no sandbox that has a record and has not ended.
    fn sort_out(&self, states: Vec<OwnState>) -> Result<(), StoreError> {
        let checkpoints = saved_checkpoints::list(&self.0.store)?;
        let mut known: HashMap<&str, &str> = HashMap::new();
        for checkpoint in &checkpoints {
            known.insert(&checkpoint.state, &checkpoint.response.id);
        }

        for (label, state) in &states {
            let is_needed = match label.kind {
                StateKind::Checkpoint => known.remove(state.id.as_str()).is_some(),
                StateKind::Automatic => false,
                StateKind::Pause => self.adopt_unrecorded(label, state)?,
            };
            if !is_needed {
                let (service, id) = (self.clone(), state.id.clone());
                tokio::spawn(async move { service.delete_state(&id).await });
            }
        }

        for id in known.into_values() {
            tracing::error!(checkpoint = id, "its saved state no longer exists");
            saved_checkpoints::delete(&self.0.store, id)?;
        }
        Ok(())
    }

    /// Registers a paused sandbox whose record was lost, for example with the power of the host. Returns `false` if it has a
    /// record, which then says that it has ended.
    fn adopt_unrecorded(&self, label: &StateLabel, state: &SavedState) -> Result<bool, StoreError> {
        let owner = Owner::from_record(&label.owner);
        let recorded: Option<SandboxResponse> =
            records::find(&self.0.store, Table::Sandboxes, &owner, &label.id)?;
        if recorded.is_some() {
            return Ok(false);
        }

        tracing::warn!(
            sandbox = label.id,
            "adopted a paused sandbox without a record; it has no network"
        );
        let saved = body_of(state, None);
        let mut view = SandboxResponse::starting(&label.id, format_timestamp(saved.saved_at));
        view.name = label.name.clone().map(String::from);
        view.language = label.language;
        view.memory_mib = state.memory_mib;
        view.packages = state.packages.clone();

        let handle = SandboxHandle::paused(&owner, view, saved, self.default_timeouts(), None, &[]);
        lock(&self.0.sandboxes).insert(handle.id().to_owned(), handle.clone());
        let resume = self.resume_record(&handle);
        records::insert_sandbox(&self.0.store, &owner, &handle.response(), &resume)?;
        Ok(true)
    }

    /// Deletes a saved state. A failure is logged; the next server tries again.
    pub(super) async fn delete_state(&self, id: &StateId) {
        let Ok(engine) = self.engine() else { return };
        if let Err(error) = engine.delete_saved_state(id).await {
            tracing::error!(%error, state = %id, "cannot delete a saved state");
        }
    }

    /// Checks that what this server saves outlives it.
    ///
    /// # Errors
    /// [`ApiErrorKind::Invalid`].
    pub(super) fn ensure_durable(&self) -> Result<(), ApiError> {
        if self.0.is_durable {
            return Ok(());
        }
        let message = "this server keeps its state in memory, so it cannot pause sandboxes; use `fumehood serve`";
        Err(ApiError::new(ApiErrorKind::Invalid, message))
    }
}

/// Removes the states of a sandbox from the list, and returns the newest. A state of a pause is newer than all others. The
/// others stay, to be deleted.
fn take_state(states: &mut Vec<OwnState>, record: &SandboxRecord) -> Option<SavedBody> {
    let is_own = |label: &StateLabel| {
        label.kind != StateKind::Checkpoint
            && label.id == record.view.id
            && label.owner == record.owner.as_str()
    };
    let newest = states
        .iter()
        .enumerate()
        .filter(|(_, (label, _))| is_own(label))
        .max_by_key(|(_, (label, state))| (label.kind == StateKind::Pause, state.created))
        .map(|(at, _)| at)?;

    let (_, state) = states.swap_remove(newest);
    let saved = record
        .resume
        .as_ref()
        .and_then(|resume| resume.saved.as_ref());
    Some(body_of(&state, saved))
}

/// Returns a state in the engine's store as the body of a sandbox. The record may know more about it.
fn body_of(state: &SavedState, record: Option<&SavedRecord>) -> SavedBody {
    let record = record.filter(|record| record.state == state.id.as_str());
    if let Some(saved) = record.and_then(saved_body) {
        return saved;
    }

    let created = i64::try_from(state.created).unwrap_or_default();
    SavedBody {
        state: state.id.clone(),
        saved_at: Timestamp::from_second(created).unwrap_or_default(),
        bytes: state.disk_bytes,
        ran: Duration::ZERO,
        is_checkpoint: state.kind == fumehood_engine::SavedStateKind::Checkpoint,
    }
}

fn saved_body(record: &SavedRecord) -> Option<SavedBody> {
    Some(SavedBody {
        state: record.state.parse().ok()?,
        saved_at: Timestamp::from_millisecond(record.saved_at_ms).ok()?,
        bytes: record.bytes,
        ran: Duration::from_millis(record.ran_ms),
        is_checkpoint: record.is_checkpoint,
    })
}
