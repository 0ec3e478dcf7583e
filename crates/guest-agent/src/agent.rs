use std::time::Instant;

use fumehood_protocol::{Complete, Response};

use crate::command::Interpreters;
use crate::confine::Confinement;
use crate::ending;
use crate::freshness::Identity;
use crate::journal::{Journal, Record};
use crate::kept::Kept;
use crate::memory::MemoryWatch;
use crate::operation::Operation;
use crate::operations::{ClientId, Operations};
use crate::outbox::Outbox;
use crate::process::Process;
use crate::queue::Queue;
use crate::settings::Settings;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) settings: Settings,
    pub(crate) confinement: Confinement,
    pub(crate) interpreters: Interpreters,
    pub(crate) operations: Operations,
    /// Interpreters that outlive an exec.
    pub(crate) kept: Kept,
    /// How operations with a key have ended.
    pub(crate) journal: Journal,
    /// In our own VMs: what makes the guest one of its own.
    pub(crate) identity: Option<Identity>,
    /// Where programs' memory has a limit.
    pub(crate) memory: Option<MemoryWatch>,
    /// Killed processes that nobody waits for, until they are reaped.
    pub(crate) abandoned: Vec<Process>,
    /// Operations whose end was answered, to be cleaned up.
    pub(crate) answered: Vec<Operation>,
    /// Execs that wait for their contexts.
    pub(crate) queue: Queue,
    /// What clients are to be told besides.
    pub(crate) notices: Vec<(ClientId, Response)>,
}

impl Agent {
    pub(crate) fn new(
        settings: Settings,
        confinement: Confinement,
        interpreters: Interpreters,
    ) -> Self {
        Self {
            settings,
            confinement,
            interpreters,
            operations: Operations::default(),
            kept: Kept::default(),
            journal: Journal::default(),
            identity: None,
            memory: None,
            abandoned: Vec::new(),
            answered: Vec::new(),
            queue: Queue::default(),
            notices: Vec::new(),
        }
    }

    /// What time has brought.
    pub(crate) fn tick(&mut self, now: Instant) {
        for operation in self.operations.iter_mut() {
            operation.tick(&self.settings.limits, now);
        }
    }

    /// Takes what the operations that nobody follows have to say, and their ends.
    pub(crate) fn step_unfollowed(&mut self, now: Instant) {
        if self.operations.of(None).next().is_none() {
            return;
        }
        let mut nowhere = Outbox::nowhere();
        for operation in self.operations.iter_mut().filter(|o| o.client.is_none()) {
            operation.pump(&mut nowhere, &self.settings.limits, now);
        }
        for operation in self.operations.take(|o| o.client.is_none() && o.is_done()) {
            self.finish(operation, &mut nowhere);
        }
    }

    /// Answers for an operation that has ended, remembers it if it has a key, and lets go of it.
    pub(crate) fn finish(&mut self, mut operation: Operation, outbox: &mut Outbox) {
        if let (false, Some(home)) = (operation.survived, operation.home()) {
            self.kept.forget(home);
        }
        if let Some(end) = operation.end {
            let response = ending::response(&operation, &end);
            outbox.answer(&response);
            self.remember(&mut operation, response);
        }
        if operation.survived {
            self.retire(operation);
        } else {
            // The client need not wait for what is cleared away, but for what it can see.
            operation.process.remove_script();
            self.answered.push(operation);
        }
    }

    /// Clears away what was answered.
    pub(crate) fn clear_away(&mut self) {
        for operation in std::mem::take(&mut self.answered) {
            self.retire(operation);
        }
    }

    fn remember(&mut self, operation: &mut Operation, response: Response) {
        // One that never started has not run: it may be tried again.
        let Response::Complete(complete) = response else {
            return;
        };
        let complete = Complete {
            op_id: None,
            ..complete
        };
        if let Some(keyed) = operation.keyed.take() {
            let record = Record {
                keyed,
                pieces: operation.framing.kept.take().unwrap_or_default(),
                complete,
            };
            self.journal.add(record, &self.settings.limits);
        }
    }

    /// A client has gone: what it followed ends, but for what has a key and goes on by itself.
    pub(crate) fn leave(&mut self, client: ClientId) {
        self.queue.leave(client);
        for operation in self.operations.iter_mut() {
            if operation.client == Some(client) && operation.keyed.is_some() {
                operation.leave();
            }
        }
        for operation in self.operations.take(|o| o.client == Some(client)) {
            self.abandon(operation);
        }
    }

    /// Kills what nobody waits for; it is kept until it is reaped.
    pub(crate) fn abandon(&mut self, operation: Operation) {
        if operation.end.is_none() {
            operation.process.kill();
            if let Some(home) = operation.home() {
                self.kept.lose(home);
            }
            self.abandoned.push(operation.process);
            return;
        }
        let unsaid = operation.home().cloned().filter(|_| !operation.survived);
        self.retire(operation);
        if let Some(home) = unsaid {
            self.kept.lose(&home);
        }
    }

    /// Lets go of what has ended: its interpreter goes back to where it came from, or is cleaned up.
    fn retire(&mut self, mut operation: Operation) {
        let survived = operation.survived;
        if survived && operation.can_go_on() {
            let back = operation.into_interpreter();
            let back = back.and_then(|(home, interpreter)| self.kept.put_back(&home, interpreter));
            if let Some(unwanted) = back {
                unwanted.process.kill();
                self.abandoned.push(unwanted.process);
            }
            return;
        }
        if let Some(home) = operation.home() {
            self.kept.forget(home);
        }
        if survived {
            operation.process.kill();
            self.abandoned.push(operation.process);
        } else {
            operation.process.clean(self.confinement.cgroups.as_mut());
        }
    }
}
