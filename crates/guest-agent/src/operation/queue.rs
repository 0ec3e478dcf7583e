use fumehood_protocol::{Exec, IdempotencyKey, OpId};

use super::operation::OperationParams;
use crate::transport::ClientId;

/// Execs that wait for the previous one in their context, in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct ContextQueue(Vec<QueuedExec>);

/// An exec that waits for its context.
#[derive(Debug)]
pub(crate) struct QueuedExec {
    pub(crate) exec: Exec,
    pub(crate) params: OperationParams,
    /// Input that has arrived already.
    pub(crate) input: Vec<u8>,
    /// The client has sent the end of the input.
    pub(crate) has_ended_input: bool,
}

impl QueuedExec {
    /// The memory that its code, arguments and variables hold, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let variables = self.exec.env_vars.iter();
        let variables: usize = variables
            .map(|(name, value)| name.len() + value.len())
            .sum();
        let arguments: usize = self.exec.args.iter().map(String::len).sum();
        (self.exec.code.len() + arguments + variables) as u64
    }

    fn is_of(&self, client: ClientId) -> bool {
        self.params.client == Some(client)
    }
}

impl ContextQueue {
    pub(crate) fn push(&mut self, queued: QueuedExec) {
        self.0.push(queued);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &QueuedExec> {
        self.0.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn get(&self, at: usize) -> &QueuedExec {
        &self.0[at]
    }

    /// The execs that this client waits for.
    pub(crate) fn of(&self, client: ClientId) -> impl Iterator<Item = &QueuedExec> {
        self.0.iter().filter(move |queued| queued.is_of(client))
    }

    /// Finds the client's exec with this id.
    pub(crate) fn find(&mut self, client: ClientId, id: OpId) -> Option<&mut QueuedExec> {
        let is_it = |q: &&mut QueuedExec| q.is_of(client) && q.params.op_id == Some(id);
        self.0.iter_mut().find(is_it)
    }

    /// Finds the exec with this key.
    pub(crate) fn with_key(&mut self, key: &IdempotencyKey) -> Option<&mut QueuedExec> {
        let is_it = |q: &&mut QueuedExec| q.exec.idempotency_key.as_ref() == Some(key);
        self.0.iter_mut().find(is_it)
    }

    /// Counts the execs with a key.
    pub(crate) fn keys(&self) -> usize {
        let queued = self.0.iter();
        queued.filter(|q| q.exec.idempotency_key.is_some()).count()
    }

    /// Drops the execs of a client that has disconnected. They have not run, and will not.
    pub(crate) fn remove_client(&mut self, client: ClientId) {
        self.0.retain(|queued| !queued.is_of(client));
    }

    /// Removes the client's exec with this id.
    pub(crate) fn remove(&mut self, client: ClientId, id: OpId) -> Option<QueuedExec> {
        let is_it = |q: &QueuedExec| q.is_of(client) && q.params.op_id == Some(id);
        let at = self.0.iter().position(is_it)?;
        Some(self.0.remove(at))
    }

    pub(crate) fn remove_at(&mut self, at: usize) -> QueuedExec {
        self.0.remove(at)
    }
}
