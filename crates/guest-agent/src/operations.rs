use fumehood_protocol::{IdempotencyKey, OpId};

use crate::operation::Operation;

/// Names one client, for as long as it is there; never given again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientId(pub(crate) u64);

/// Every operation whose end has not been answered, or that goes on without a client; the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Operations(Vec<Operation>);

impl Operations {
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

    /// Those that this client follows, or those that nobody does.
    pub(crate) fn of(&self, client: Option<ClientId>) -> impl Iterator<Item = &Operation> {
        self.0.iter().filter(move |o| o.client == client)
    }

    /// The client's operation of this id.
    pub(crate) fn find(&mut self, client: ClientId, id: OpId) -> Option<&mut Operation> {
        let is_it = |o: &&mut Operation| o.client == Some(client) && o.framing.op_id == Some(id);
        self.0.iter_mut().find(is_it)
    }

    /// The one with this key that has not ended.
    pub(crate) fn with_key(&mut self, key: &IdempotencyKey) -> Option<&mut Operation> {
        let is_it = |o: &&mut Operation| o.keyed.as_ref().is_some_and(|k| k.key == *key);
        self.0.iter_mut().find(is_it)
    }

    /// Takes out all that `is_it` says yes to.
    pub(crate) fn take(&mut self, is_it: impl Fn(&Operation) -> bool) -> Vec<Operation> {
        if self.0.iter().any(&is_it) {
            return self
                .0
                .extract_if(.., |operation| is_it(operation))
                .collect();
        }
        Vec::new()
    }
}
