use std::time::Instant;

use fumehood_protocol::{
    Complete, EndedBy, ErrorType, Evidence, Exec, IdempotencyKey, OpId, Response, Started,
    StreamSummary, WireError,
};

use crate::agent::Agent;
use crate::begin::begin;
use crate::following::Follower;
use crate::operation::{Operation, Terms};
use crate::operations::ClientId;
use crate::output::Encoding;

/// Execs that wait for the one before them in their contexts, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Queue(Vec<Queued>);

/// One of them.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) exec: Exec,
    pub(crate) terms: Terms,
    /// Input that has come already, and whether more will.
    pub(crate) input: Vec<u8>,
    pub(crate) has_ended_input: bool,
}

impl Queued {
    fn bytes(&self) -> u64 {
        let variables = self.exec.env_vars.iter();
        let variables: usize = variables
            .map(|(name, value)| name.len() + value.len())
            .sum();
        (self.exec.code.len() + variables) as u64
    }

    fn is_of(&self, client: ClientId) -> bool {
        self.terms.client == Some(client)
    }
}

impl Queue {
    /// Those that this client waits for.
    pub(crate) fn of(&self, client: ClientId) -> impl Iterator<Item = &Queued> {
        self.0.iter().filter(move |queued| queued.is_of(client))
    }

    pub(crate) fn find(&mut self, client: ClientId, id: OpId) -> Option<&mut Queued> {
        let is_it = |q: &&mut Queued| q.is_of(client) && q.terms.op_id == Some(id);
        self.0.iter_mut().find(is_it)
    }

    pub(crate) fn with_key(&mut self, key: &IdempotencyKey) -> Option<&mut Queued> {
        let is_it = |q: &&mut Queued| q.exec.idempotency_key.as_ref() == Some(key);
        self.0.iter_mut().find(is_it)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many of them have a key.
    pub(crate) fn keys(&self) -> usize {
        let queued = self.0.iter();
        queued.filter(|q| q.exec.idempotency_key.is_some()).count()
    }

    /// A client has gone: what it waited for has not run, and will not.
    pub(crate) fn leave(&mut self, client: ClientId) {
        self.0.retain(|queued| !queued.is_of(client));
    }

    fn remove(&mut self, client: ClientId, id: OpId) -> Option<Queued> {
        let is_it = |q: &Queued| q.is_of(client) && q.terms.op_id == Some(id);
        let at = self.0.iter().position(is_it)?;
        Some(self.0.remove(at))
    }
}

impl Agent {
    /// Whether an exec must wait: another runs in its context, or waits for it.
    pub(crate) fn must_wait(&self, exec: &Exec) -> bool {
        let Some(name) = &exec.context else {
            return false;
        };
        let mut queued = self.queue.0.iter();
        self.kept.is_busy(name) || queued.any(|queued| queued.exec.context == exec.context)
    }

    /// Lets an exec wait, and says so to who knows of that.
    ///
    /// # Errors
    /// `busy_error`: what waits already holds too much memory.
    pub(crate) fn wait(&mut self, exec: Exec, terms: Terms) -> Result<(), WireError> {
        let queued = Queued {
            exec,
            terms,
            input: Vec::new(),
            has_ended_input: false,
        };
        let bytes = queued.bytes() + self.queue.0.iter().map(Queued::bytes).sum::<u64>();
        let most = self.settings.limits.line_bytes;
        if bytes > most {
            let message = format!(
                "the execs that wait for their contexts hold {bytes} bytes; at most {most} may; try again when one has begun"
            );
            return Err(WireError::new(ErrorType::BusyError, message));
        }
        self.tell_queued(&queued.terms);
        self.queue.0.push(queued);
        Ok(())
    }

    fn tell_queued(&mut self, terms: &Terms) {
        if let (Some(client), true) = (terms.client, terms.encoding != Encoding::Text) {
            let op_id = terms.op_id;
            let queued = Response::Queued(fumehood_protocol::Queued { op_id });
            self.notices.push((client, queued));
        }
    }

    /// Another client waits for an exec from now on.
    pub(crate) fn take_over_queued(
        &mut self,
        client: ClientId,
        key: &IdempotencyKey,
        follower: Follower,
    ) {
        let Some(queued) = self.queue.with_key(key) else {
            return;
        };
        let terms = &mut queued.terms;
        let before = (terms.client, terms.op_id);
        terms.client = Some(client);
        terms.op_id = follower.op_id;
        terms.encoding = follower.encoding;
        terms.credit = follower.credit;
        queued.input.clear();
        queued.has_ended_input = false;
        if let (Some(client), op_id) = before {
            let detached = fumehood_protocol::Detached { op_id };
            self.notices.push((client, Response::Detached(detached)));
        }
        let op_id = follower.op_id;
        let queued = Response::Queued(fumehood_protocol::Queued { op_id });
        self.notices.push((client, queued));
    }

    /// Whether some exec that waits could begin.
    pub(crate) fn can_begin(&self) -> bool {
        (0..self.queue.0.len()).any(|at| self.is_next(at))
    }

    fn is_next(&self, at: usize) -> bool {
        let context = &self.queue.0[at].exec.context;
        let is_busy = context.as_ref().is_some_and(|name| self.kept.is_busy(name));
        let mut before = self.queue.0[..at].iter();
        !is_busy && !before.any(|queued| queued.exec.context == *context)
    }

    /// Begins every exec whose context is free by now.
    pub(crate) fn begin_queued(&mut self, now: Instant) {
        let mut at = 0;
        while at < self.queue.0.len() {
            if !self.is_next(at) {
                at += 1;
                continue;
            }
            let queued = self.queue.0.remove(at);
            self.begin_one(queued, now);
        }
    }

    fn begin_one(&mut self, queued: Queued, now: Instant) {
        let (client, op_id) = (queued.terms.client, queued.terms.op_id);
        let is_told = queued.terms.encoding != Encoding::Text;
        // Its time runs from its beginning.
        let terms = Terms {
            arrived: now,
            ..queued.terms
        };
        let told = match begin(queued.exec, self) {
            Ok(begun) => {
                let mut operation = Operation::new(terms, begun, &self.settings.limits);
                if let Some(input) = &mut operation.input {
                    // No more than it had credit for has come.
                    let _ = input.take(queued.input, queued.has_ended_input);
                }
                let pid = operation.process.pid();
                self.operations.add(operation);
                is_told.then_some(Response::Started(Started { op_id, pid }))
            }
            Err(error) => Some(crate::outbox::refusal(op_id, error)),
        };
        self.notices.extend(client.zip(told));
    }

    /// Ends an exec that has not begun: nothing of it has run. `false`: none of this id waits.
    pub(crate) fn cancel_queued(&mut self, client: ClientId, id: OpId) -> bool {
        let Some(queued) = self.queue.remove(client, id) else {
            return false;
        };
        let nothing = StreamSummary::default();
        let complete = Complete {
            op_id: queued.terms.op_id,
            exit_code: crate::ending::CANCELLED,
            execution_time_ms: 0,
            spawn_ms: None,
            process_ms: None,
            ended_by: EndedBy::Cancelled,
            evidence: Evidence {
                detail: Some("cancelled before it began".into()),
                ..Evidence::default()
            },
            stdout: nothing,
            stderr: nothing,
            results: nothing,
        };
        self.notices.push((client, Response::Complete(complete)));
        true
    }
}
