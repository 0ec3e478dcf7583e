//! Operations of operators: list and end the sandboxes of all owners.

use super::service::Service;
use crate::api::sandbox_responses::{OwnedSandboxResponse, SandboxResponse};
use crate::auth::api_keys;
use crate::error::ApiError;
use crate::state::sandbox::EndCause;
use crate::sync::lock;

impl Service {
    /// Returns the running sandboxes of all owners, the oldest first; with `key`, only those of the keys with this name
    /// or id.
    ///
    /// # Errors
    /// [`ApiErrorKind::Internal`](crate::ApiErrorKind::Internal).
    pub(crate) fn list_all_sandboxes(
        &self,
        key: Option<&str>,
    ) -> Result<Vec<OwnedSandboxResponse>, ApiError> {
        let keys = api_keys::list(&self.0.store)?;
        let name_of = |id: &str| {
            let key = keys.iter().find(|key| key.id == id);
            key.map(|key| key.name.clone())
        };

        let sandboxes = lock(&self.0.sandboxes);
        let owned = sandboxes.values().map(|sandbox| {
            let owner = sandbox.owner().as_str();
            OwnedSandboxResponse {
                owner: owner.to_owned(),
                key: name_of(owner),
                sandbox: sandbox.response(),
            }
        });
        let is_selected = |one: &OwnedSandboxResponse| {
            key.is_none_or(|key| one.owner == key || one.key.as_deref() == Some(key))
        };

        let mut owned: Vec<_> = owned.filter(is_selected).collect();
        owned.sort_by(|one, other| one.sandbox.id.cmp(&other.sandbox.id));
        Ok(owned)
    }

    /// Ends a running sandbox of any owner.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`](crate::ApiErrorKind::NotFound) if no such sandbox is running.
    pub(crate) async fn end_any_sandbox(&self, id: &str) -> Result<SandboxResponse, ApiError> {
        let running = lock(&self.0.sandboxes).get(id).cloned();
        let sandbox = running.ok_or_else(|| ApiError::not_found("running sandbox", id))?;
        self.end_and_wait(&sandbox, Some(EndCause::Operator)).await;
        Ok(self
            .find_sandbox(sandbox.owner(), sandbox.id())?
            .into_response())
    }
}
