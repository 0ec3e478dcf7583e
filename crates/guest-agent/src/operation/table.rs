use fumehood_protocol::{IdempotencyKey, OpId};

use super::operation::Operation;
use crate::transport::ClientId;

/// Every operation whose end has not been answered, and every detached one; the oldest first.
#[derive(Debug, Default)]
pub(crate) struct OperationTable(Vec<Operation>);

impl OperationTable {
    pub(crate) fn add(&mut self, operation: Operation) {
        self.0.push(operation);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn get(&mut self, at: usize) -> &mut Operation {
        &mut self.0[at]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Operation> {
        self.0.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Operation> {
        self.0.iter_mut()
    }

    /// The operations of this client; with `None`, the detached ones.
    pub(crate) fn of(&self, client: Option<ClientId>) -> impl Iterator<Item = &Operation> {
        self.0.iter().filter(move |o| o.client == client)
    }

    /// Finds the client's operation with this id.
    pub(crate) fn find(&mut self, client: ClientId, id: OpId) -> Option<&mut Operation> {
        let is_it = |o: &&mut Operation| o.client == Some(client) && o.framing.op_id == Some(id);
        self.0.iter_mut().find(is_it)
    }

    /// Finds the unfinished operation with this key.
    pub(crate) fn with_key(&mut self, key: &IdempotencyKey) -> Option<&mut Operation> {
        let is_it = |o: &&mut Operation| o.keyed.as_ref().is_some_and(|k| k.key == *key);
        self.0.iter_mut().find(is_it)
    }

    /// Removes and returns the operations for which `matches` returns true.
    pub(crate) fn take(&mut self, matches: impl Fn(&Operation) -> bool) -> Vec<Operation> {
        if self.0.iter().any(&matches) {
            return self
                .0
                .extract_if(.., |operation| matches(operation))
                .collect();
        }

        Vec::new()
    }
}
