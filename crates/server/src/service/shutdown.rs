//! Pausing or ending sandboxes when the server is stopped.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::service::Service;
use crate::error::ApiError;
use crate::state::sandbox::{EndCause, SandboxHandle};
use crate::sync::lock;

impl Service {
    /// Pauses all running sandboxes, and ends those that cannot be paused within `timeout`. A state in memory ends all.
    pub(super) async fn pause_all_sandboxes(&self, timeout: Duration) {
        let all: Vec<_> = lock(&self.0.sandboxes).values().cloned().collect();
        let deadline = tokio::time::Instant::now() + timeout;

        let mut tasks = JoinSet::new();
        for handle in all
            .into_iter()
            .filter(|handle| handle.has_vm() || !self.0.is_durable)
        {
            let service = self.clone();
            tasks.spawn(async move {
                let paused = tokio::time::timeout_at(deadline, service.pause_handle(&handle)).await;
                let paused = paused.map_err(|_| "it could not be paused in time".to_owned());
                let error = match paused {
                    Ok(Ok(())) => return true,
                    Ok(Err(error)) => not_paused(&error),
                    Err(late) => late,
                };
                service.end_at_shutdown(&handle, error).await;
                false
            });
        }

        let (mut paused, mut ended) = (0, 0);
        while let Some(is_paused) = tasks.join_next().await {
            if is_paused.unwrap_or(false) {
                paused += 1;
            } else {
                ended += 1;
            }
        }
        if paused + ended > 0 {
            tracing::info!(paused, ended, "sandboxes: the server shuts down");
        }
    }

    /// Ends a sandbox that could not be paused. One with an automatic checkpoint continues from it in the next server.
    async fn end_at_shutdown(&self, handle: &Arc<SandboxHandle>, why: String) {
        let is_saved = lock(&self.0.automatic).contains_key(handle.id());
        if is_saved {
            tracing::warn!(
                sandbox = handle.id(),
                why,
                "not paused: it continues from its last checkpoint"
            );
            return;
        }

        if self.0.is_durable {
            tracing::warn!(sandbox = handle.id(), why, "ended: the server shuts down");
        }
        self.end_and_wait(handle, Some(EndCause::ServerStopped(why)))
            .await;
    }
}

fn not_paused(error: &ApiError) -> String {
    format!("it could not be paused: {}", error.message)
}
