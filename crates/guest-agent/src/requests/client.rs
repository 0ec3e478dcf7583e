use std::collections::VecDeque;
use std::time::Instant;

use fumehood_protocol::{Limits, OpId, Request};

use crate::agent::Agent;
use crate::files::Transfer;
use crate::operation::{Operation, Replay};
use crate::transport::{Connection, IncomingRequest, Session};

/// Maximum number of requests without `op_id` that may wait; while as many do, the agent reads
/// nothing more. Two, because a client may leave half a line behind: its rejection waits too, and
/// the `hello` of the next client must still be read.
const MAX_WAITING: usize = 2;

/// One client: its connection, and the work that ends with it. Its operations belong to the agent.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) connection: Connection,
    /// Requests without `op_id` that wait for the end of the one before.
    waiting: VecDeque<IncomingRequest>,
    pub(crate) replays: Vec<Replay>,
    pub(crate) transfers: Vec<Transfer>,
    /// Counts turns; rotates which operation is served first.
    turn: usize,
}

impl Client {
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            connection,
            waiting: VecDeque::new(),
            replays: Vec::new(),
            transfers: Vec::new(),
            turn: 0,
        }
    }

    /// Starts a session. Running work ends, except operations with a key.
    pub(crate) fn start_session(&mut self, session: Session, agent: &mut Agent) {
        self.connection
            .start_session(session, &agent.settings.limits);
        self.leave(agent);
    }

    /// Ends the work that only this client was waiting for. Operations with a key continue.
    pub(crate) fn leave(&mut self, agent: &mut Agent) {
        self.replays.clear();
        self.transfers.clear();
        agent.client_left(self.connection.id);
    }

    /// Whether an unfinished operation of this client has this id.
    pub(crate) fn is_live(&self, id: OpId, agent: &Agent) -> bool {
        self.has_operation(Some(id), agent)
    }

    /// Whether an operation without `op_id` is running: others without one wait for its end.
    fn is_synchronous(&self, agent: &Agent) -> bool {
        self.has_operation(None, agent)
    }

    fn has_operation(&self, id: Option<OpId>, agent: &Agent) -> bool {
        let client = self.connection.id;
        let mut running = agent.operations.of(Some(client));
        running.any(|operation| operation.framing.op_id == id)
            || agent
                .queue
                .of(client)
                .any(|queued| queued.params.op_id == id)
            || self.replays.iter().any(|replay| replay.op_id() == id)
            || self.transfers.iter().any(|transfer| transfer.op_id() == id)
    }

    /// Counts the unfinished operations of this client.
    pub(crate) fn live_operations(&self, agent: &Agent) -> usize {
        let client = self.connection.id;
        let running = agent.operations.of(Some(client)).count();
        running + agent.queue.of(client).count() + self.replays.len() + self.transfers.len()
    }

    /// Whether another request without `op_id` may wait.
    pub(crate) fn can_queue(&self) -> bool {
        self.waiting.len() < MAX_WAITING
    }

    /// Whether there is work that needs no further event.
    pub(crate) fn has_work(&self, agent: &Agent) -> bool {
        let limits = &agent.settings.limits;
        let (connection, outbox) = (&self.connection, &self.connection.outbox);

        let can_resume = !self.waiting.is_empty() && !self.is_synchronous(agent);
        let has_input = connection.has_input() && self.can_queue();
        let requests = can_resume || (has_input && !outbox.has_too_many_answers(limits));

        let mut operations = agent.operations.of(Some(connection.id));
        let output = !outbox.is_full(limits)
            && (operations.any(Operation::has_work)
                || self.replays.iter().any(Replay::has_work)
                || self.transfers.iter().any(Transfer::has_work));

        (requests && connection.is_open()) || output
    }

    /// Returns the next request to dispatch. Requests without `op_id` are held back while an
    /// operation without one is running.
    pub(super) fn next_request(&mut self, agent: &Agent) -> Option<IncomingRequest> {
        let limits = &agent.settings.limits;
        while !self.connection.is_closing() {
            let is_synchronous = self.is_synchronous(agent);
            if !is_synchronous && let Some(incoming) = self.waiting.pop_front() {
                return Some(incoming);
            }

            if !self.can_queue() || self.connection.outbox.has_too_many_answers(limits) {
                return None;
            }

            let incoming = self.connection.next_request()?;

            if matches!(incoming.request, Ok(Request::Hello(_))) {
                // A new session does not wait for the requests of the one before.
                self.waiting.clear();
            } else if incoming.op_id.is_none() && is_synchronous {
                self.waiting.push_back(incoming.check_limits(limits));
                continue;
            }

            return Some(incoming);
        }

        None
    }

    /// Moves output: each operation in turn, at most one chunk of each stream.
    pub(super) fn pump(&mut self, agent: &mut Agent, now: Instant) {
        self.turn = self.turn.wrapping_add(1);
        let count = agent.operations.len();

        // Programs and files take turns at being first.
        let files_first = self.turn.is_multiple_of(2);

        if files_first {
            self.pump_files(agent);
        }

        let limits = &agent.settings.limits;
        for n in 0..count {
            let operation = agent.operations.get((self.turn + n) % count);
            if operation.client == Some(self.connection.id) {
                operation.send_input_credit(&mut self.connection.outbox, limits);
                operation.pump(&mut self.connection.outbox, limits, now);
            }
        }

        if !files_first {
            self.pump_files(agent);
        }
    }

    /// Moves the output of replays and file transfers.
    fn pump_files(&mut self, agent: &Agent) {
        let limits: &Limits = &agent.settings.limits;
        for replay in &mut self.replays {
            replay.pump(&mut self.connection.outbox, limits);
        }

        self.replays.retain(|replay| !replay.is_done());

        for transfer in std::mem::take(&mut self.transfers) {
            let transfer = transfer.pump(&mut self.connection.outbox, agent);
            self.transfers.extend(transfer);
        }
    }

    /// Answers for the operations that have ended.
    pub(super) fn complete_finished(&mut self, agent: &mut Agent) {
        let id = Some(self.connection.id);
        for operation in agent.operations.take(|o| o.client == id && o.is_done()) {
            agent.complete(operation, &mut self.connection.outbox);
        }
    }
}
