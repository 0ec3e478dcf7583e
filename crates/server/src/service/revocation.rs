//! Ends everything that a key has started once the key is revoked.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::service::Service;
use crate::auth::api_keys;
use crate::owner::Owner;
use crate::state::sandbox::EndCause;
use crate::storage::saved_checkpoints;
use crate::sync::lock;

/// How often the server looks for keys that were revoked, by `fumehood keys` for example.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

impl Service {
    /// Starts the task that ends what belongs to revoked keys. It ends with the service.
    pub(crate) fn start_revocation(&self) {
        let service = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(POLL_INTERVAL).await;
                let Some(service) = service.upgrade().map(Self) else {
                    return;
                };

                // A failure is logged with the next request; the next look follows.
                let revoked = api_keys::revoked_owners(&service.0.store).unwrap_or_default();
                service.end_everything_of(&revoked.into_iter().collect());
            }
        });
    }

    /// Ends requests, runs, sandboxes and checkpoints of these owners. It is repeated, because some of them may just be starting.
    fn end_everything_of(&self, owners: &HashSet<Owner>) {
        for owner in owners {
            self.0.key_cache.forget(owner);
            self.0.revocations.signal(owner);
            self.0.checkpoints.remove_all(owner);
            self.0.metrics.remove(owner);
        }

        let runs: Vec<_> = {
            let runs = lock(&self.0.runs);
            let own = runs.active().filter(|task| owners.contains(task.owner()));
            own.cloned().collect()
        };
        for run in runs {
            run.abandon();
        }

        let sandboxes: Vec<_> = {
            let sandboxes = lock(&self.0.sandboxes);
            let own = sandboxes.values().filter(|one| {
                owners.contains(one.owner()) && one.set_end_cause(EndCause::KeyRevoked)
            });
            own.cloned().collect()
        };
        for sandbox in sandboxes {
            tracing::info!(sandbox = sandbox.id(), "ended: its key was revoked");
            let service = self.clone();
            tokio::spawn(async move {
                service
                    .end_and_wait(&sandbox, Some(EndCause::KeyRevoked))
                    .await;
            });
        }

        self.delete_checkpoints_of(owners);
    }

    /// Deletes the durable checkpoints of these owners.
    fn delete_checkpoints_of(&self, owners: &HashSet<Owner>) {
        if owners.is_empty() {
            return;
        }

        // A failure is logged; the next look follows.
        let saved = saved_checkpoints::list(&self.0.store).unwrap_or_default();
        for checkpoint in saved.into_iter().filter(|one| owners.contains(&one.owner)) {
            let service = self.clone();
            tokio::spawn(async move {
                let _ = service.delete_saved_checkpoint(&checkpoint).await;
            });
        }
    }
}
