//! The state that all clients share, and what happens to an operation that has ended.

use std::time::Instant;

use fumehood_protocol::{Complete, Response};

use crate::identity::Identity;
use crate::interpreter::{InterpreterCatalog, InterpreterPool};
use crate::operation::{
    CompletedOperation, ContextQueue, Journal, Operation, OperationTable, completion_response,
};
use crate::process::{Confinement, MemoryWatch, Process};
use crate::settings::Settings;
use crate::transport::{ClientId, Outbox};

/// Everything that is shared by all clients.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) settings: Settings,
    pub(crate) confinement: Confinement,
    pub(crate) interpreters: InterpreterCatalog,
    pub(crate) operations: OperationTable,
    /// Interpreters that outlive an exec.
    pub(crate) pool: InterpreterPool,
    /// The operations with a key that have ended.
    pub(crate) journal: Journal,
    /// The guest's identity, if the agent owns its machine.
    pub(crate) identity: Option<Identity>,
    /// Watches the memory of programs, if it is limited.
    pub(crate) memory: Option<MemoryWatch>,
    /// Killed processes that have no client any more, until they are reaped.
    pub(crate) abandoned: Vec<Process>,
    /// Operations whose end has been answered, to be cleaned up.
    pub(crate) answered: Vec<Operation>,
    /// Execs that wait for their contexts.
    pub(crate) queue: ContextQueue,
    /// Messages to clients that are not the answer to the request being handled.
    pub(crate) notices: Vec<(ClientId, Response)>,
}

impl Agent {
    pub(crate) fn new(
        settings: Settings,
        confinement: Confinement,
        interpreters: InterpreterCatalog,
    ) -> Self {
        Self {
            settings,
            confinement,
            interpreters,
            operations: OperationTable::default(),
            pool: InterpreterPool::default(),
            journal: Journal::default(),
            identity: None,
            memory: None,
            abandoned: Vec::new(),
            answered: Vec::new(),
            queue: ContextQueue::default(),
            notices: Vec::new(),
        }
    }

    /// Lets each operation check its timers.
    pub(crate) fn tick(&mut self, now: Instant) {
        for operation in self.operations.iter_mut() {
            operation.tick(&self.settings.limits, now);
        }
    }

    /// Moves the output of detached operations, and completes those that have ended.
    pub(crate) fn step_detached(&mut self, now: Instant) {
        if self.operations.of(None).next().is_none() {
            return;
        }

        let mut discarding = Outbox::discarding();
        for operation in self.operations.iter_mut().filter(|o| o.client.is_none()) {
            operation.pump(&mut discarding, &self.settings.limits, now);
        }

        for operation in self.operations.take(|o| o.client.is_none() && o.is_done()) {
            self.complete(operation, &mut discarding);
        }
    }

    /// Answers for an operation that has ended, records it if it has a key, and releases it.
    pub(crate) fn complete(&mut self, mut operation: Operation, outbox: &mut Outbox) {
        if let (false, Some(slot)) = (operation.interpreter_alive, operation.slot()) {
            self.pool.forget_slot(slot);
        }

        if let Some(end) = operation.end {
            let response = completion_response(&operation, &end);
            outbox.answer(&response);
            self.record_completion(&mut operation, response);
        }

        if operation.interpreter_alive {
            self.retire(operation);
        } else {
            // Clean up after the answer was sent. Only the code file is visible to the client, so it goes now.
            operation.process.remove_code_file();
            self.answered.push(operation);
        }
    }

    /// Cleans up the operations that have been answered.
    pub(crate) fn retire_answered(&mut self) {
        for operation in std::mem::take(&mut self.answered) {
            self.retire(operation);
        }
    }

    fn record_completion(&mut self, operation: &mut Operation, response: Response) {
        // An operation that failed to start has not run, so its key may be used again.
        let Response::Complete(complete) = response else {
            return;
        };

        let complete = Complete {
            op_id: None,
            ..complete
        };

        if let Some(keyed) = operation.keyed.take() {
            let record = CompletedOperation {
                keyed,
                history: operation.framing.history.take().unwrap_or_default(),
                complete,
            };
            self.journal.add(record, &self.settings.limits);
        }
    }

    /// Ends the operations of a client that has disconnected. Those with a key are detached instead.
    pub(crate) fn client_left(&mut self, client: ClientId) {
        self.queue.remove_client(client);
        for operation in self.operations.iter_mut() {
            if operation.client == Some(client) && operation.keyed.is_some() {
                operation.detach();
            }
        }

        for operation in self.operations.take(|o| o.client == Some(client)) {
            self.abandon(operation);
        }
    }

    /// Kills an operation that has no client any more.
    pub(crate) fn abandon(&mut self, operation: Operation) {
        if operation.end.is_none() {
            operation.process.kill();
            if let Some(slot) = operation.slot() {
                self.pool.mark_lost(slot);
            }
            self.abandoned.push(operation.process);
            return;
        }

        // It has ended, but the loss of its context could not be reported.
        let unreported = operation.slot().cloned();
        let unreported = unreported.filter(|_| !operation.interpreter_alive);
        self.retire(operation);

        if let Some(slot) = unreported {
            self.pool.mark_lost(&slot);
        }
    }

    /// Releases an operation that has ended: its interpreter returns to the pool, or is cleaned up.
    fn retire(&mut self, mut operation: Operation) {
        let is_alive = operation.interpreter_alive;
        // The interpreter has survived: it returns to its slot, or is killed if there is none.
        if is_alive && operation.can_reuse_interpreter() {
            let reusable = operation.into_interpreter();
            let unwanted =
                reusable.and_then(|(slot, interpreter)| self.pool.put_back(&slot, interpreter));
            if let Some(unwanted) = unwanted {
                unwanted.process.kill();
                self.abandoned.push(unwanted.process);
            }
            return;
        }

        if let Some(slot) = operation.slot() {
            self.pool.forget_slot(slot);
        }

        // Otherwise nothing of it stays.
        if is_alive {
            operation.process.kill();
            self.abandoned.push(operation.process);
        } else {
            operation
                .process
                .clean_up(self.confinement.cgroups.as_mut());
        }
    }
}
