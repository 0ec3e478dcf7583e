use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use fumehood_protocol::{
    ActionTag, Chunk, Decoder, ErrorType, InputData, Item, Limits, OpId, Request, Stdin, WireError,
};
use rustix::buffer::spare_capacity;
use rustix::event::PollFlags;
use rustix::io::Errno;

use crate::agent::Agent;
use crate::dispatch::dispatch;
use crate::files::Transfer;
use crate::hello::Session;
use crate::operation::Operation;
use crate::operations::ClientId;
use crate::outbox::{Outbox, Sent};
use crate::output::Encoding;
use crate::replay::Replay;
use crate::settings::Settings;

/// Bytes read from a client at once.
const READ_BYTES: usize = 64 * 1024;
/// Bytes that a virtio port holds in one of its buffers.
const PAGE_BYTES: usize = 4096;
/// The longest line of a client that has not shown its token: `hello` fits, little else does.
const STRANGER_LINE_BYTES: u64 = 64 * 1024;
/// How long a client may take to show its token, and to hang up when it is told to.
const STRANGER_PATIENCE: Duration = Duration::from_secs(10);

/// Requests without `op_id` that may wait; while as many do, nothing more is read. Two, since a client
/// may leave half a line behind, whose refusal waits as well, and the `hello` of the next one must
/// still be seen.
const WAITING: usize = 2;

/// One client: its bytes in, its bytes out. Its operations are the agent's.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ClientId,
    descriptor: OwnedFd,
    opened: Instant,
    stage: Stage,
    decoder: Decoder,
    /// Bytes that were read and not yet decoded, from `decoded` on.
    input: Vec<u8>,
    decoded: usize,
    /// Whose the raw frame is that comes next.
    announced: Option<InputData>,
    /// Requests without `op_id` that wait for the end of the one before.
    waiting: VecDeque<Incoming>,
    turn: usize,
    pub(crate) session: Session,
    pub(crate) outbox: Outbox,
    pub(crate) replays: Vec<Replay>,
    pub(crate) transfers: Vec<Transfer>,
}

/// A line, read: a request, or why it is none.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) op_id: Option<OpId>,
    pub(crate) request: Result<Request, WireError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// Nothing more is read; what waits is sent, then the client is to hang up.
    Closing,
    Gone,
}

impl Connection {
    /// A client on this descriptor, which must not block.
    pub(crate) fn new(
        id: ClientId,
        descriptor: OwnedFd,
        settings: &Settings,
        now: Instant,
    ) -> Self {
        let session = Session::new(settings);
        let most = if session.authorised {
            u64::MAX
        } else {
            STRANGER_LINE_BYTES
        };
        Self {
            id,
            descriptor,
            opened: now,
            stage: Stage::Open,
            decoder: decoder(&settings.limits, most),
            input: Vec::new(),
            decoded: 0,
            announced: None,
            waiting: VecDeque::new(),
            turn: 0,
            session,
            outbox: Outbox::default(),
            replays: Vec::new(),
            transfers: Vec::new(),
        }
    }

    /// What holds from now on; what was running ends, but for what has a key.
    pub(crate) fn begin(&mut self, session: Session, agent: &mut Agent) {
        self.decoder = decoder(&agent.settings.limits, u64::MAX);
        self.session = session;
        self.leave(agent);
    }

    /// Lines may be as long as this from now on.
    pub(crate) fn set_limits(&mut self, limits: &Limits) {
        self.decoder.set_limit(line_bytes(limits, u64::MAX));
    }

    /// A raw frame follows.
    ///
    /// # Errors
    /// `request_error` where raw frames were not agreed on, or for one that is too long.
    pub(crate) fn announce(&mut self, data: InputData, limits: &Limits) -> Result<(), WireError> {
        let refuse = |message: String| Err(WireError::new(ErrorType::RequestError, message));
        if self.session.encoding != Encoding::Raw {
            return refuse("raw frames were not agreed on in `hello`; send `stdin` instead".into());
        }
        let (len, most) = (data.len, limits.chunk_bytes);
        let Some(bytes) = usize::try_from(len).ok().filter(|_| len <= most) else {
            // Whatever they are, they are no requests.
            self.decoder.skip_raw(len);
            return refuse(format!(
                "field `len`: {len} bytes; at most {most} are allowed; they are skipped"
            ));
        };
        self.announced = Some(data);
        self.decoder.expect_raw(bytes);
        Ok(())
    }

    /// Sends what waits, then closes.
    pub(crate) fn close(&mut self) {
        self.stage = Stage::Closing;
    }

    /// What nobody waits for any more ends, but for what has a key.
    pub(crate) fn leave(&mut self, agent: &mut Agent) {
        self.replays.clear();
        self.transfers.clear();
        agent.leave(self.id);
    }

    /// The client is gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.stage == Stage::Gone
    }

    /// The descriptor, for the next client on the same line.
    pub(crate) fn into_descriptor(self) -> OwnedFd {
        self.descriptor
    }

    /// Whether an operation of this client has this id and has not ended.
    pub(crate) fn is_live(&self, id: OpId, agent: &Agent) -> bool {
        let id = Some(id);
        let mut running = agent.operations.of(Some(self.id));
        running.any(|operation| operation.framing.op_id == id)
            || agent
                .queue
                .of(self.id)
                .any(|queued| queued.terms.op_id == id)
            || self.replays.iter().any(|replay| replay.op_id() == id)
            || self.transfers.iter().any(|transfer| transfer.op_id() == id)
    }

    /// How many operations of this client have not ended.
    pub(crate) fn live(&self, agent: &Agent) -> usize {
        let running = agent.operations.of(Some(self.id)).count();
        running + agent.queue.of(self.id).count() + self.replays.len() + self.transfers.len()
    }

    /// What to wait for.
    pub(crate) fn awaited(&self, limits: &Limits) -> (BorrowedFd<'_>, PollFlags) {
        let mut flags = PollFlags::RDHUP;
        if self.wants_input(limits) {
            flags |= PollFlags::IN;
        }
        if !self.outbox.is_empty() {
            flags |= PollFlags::OUT;
        }
        (self.descriptor.as_fd(), flags)
    }

    fn wants_input(&self, limits: &Limits) -> bool {
        let idle = self.waiting.len() < WAITING && self.input.is_empty();
        self.stage == Stage::Closing || (idle && !self.outbox.has_too_many_answers(limits))
    }

    /// There is something to do without waiting for anybody.
    pub(crate) fn has_work(&self, agent: &Agent) -> bool {
        let limits = &agent.settings.limits;
        let waited = !self.waiting.is_empty() && !self.is_synchronous(agent);
        let input = !self.input.is_empty() && self.waiting.len() < WAITING;
        let requests = waited || (input && !self.outbox.has_too_many_answers(limits));
        let mut own = agent.operations.of(Some(self.id));
        let output = !self.outbox.is_full(limits)
            && (own.any(Operation::has_work)
                || self.replays.iter().any(Replay::has_work)
                || self.transfers.iter().any(Transfer::has_work));
        (requests && self.stage == Stage::Open) || output
    }

    /// When it is to hang up at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let stranger = !self.session.authorised || self.stage == Stage::Closing;
        stranger.then(|| self.opened + STRANGER_PATIENCE)
    }

    /// Poll has seen something.
    pub(crate) fn ready(&mut self, flags: PollFlags) {
        if flags.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            self.stage = Stage::Gone;
        } else if flags.contains(PollFlags::IN) {
            self.receive();
        } else if flags.contains(PollFlags::RDHUP) {
            self.stage = Stage::Gone;
        }
    }

    fn receive(&mut self) {
        self.input.reserve_exact(READ_BYTES);
        loop {
            match rustix::io::read(&self.descriptor, spare_capacity(&mut self.input)) {
                Ok(0) => self.stage = Stage::Gone,
                Ok(_) if self.stage == Stage::Closing => self.input.clear(),
                // There may be more: a port gives a page at once.
                Ok(PAGE_BYTES..) if self.input.len() < READ_BYTES => continue,
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => self.stage = Stage::Gone,
            }
            return;
        }
    }

    /// One turn: requests, time, output, ends, and what can be sent of it.
    pub(crate) fn step(&mut self, agent: &mut Agent, now: Instant) {
        let stranger = !self.session.authorised || self.stage == Stage::Closing;
        if stranger && now >= self.opened + STRANGER_PATIENCE {
            self.stage = Stage::Gone;
        }
        self.take_requests(agent, now);
        self.pump(agent, now);
        self.finish(agent);
        agent.begin_queued(now);
        self.take_requests(agent, now);
        self.send();
        if self.is_gone() {
            self.leave(agent);
        }
    }

    /// Sends what the client takes.
    pub(crate) fn send(&mut self) {
        if self.stage != Stage::Gone && self.outbox.send(&self.descriptor) == Sent::Gone {
            self.stage = Stage::Gone;
        }
        if self.stage == Stage::Closing && self.outbox.is_empty() {
            // A port has nothing to shut down; there it is never closed by us.
            let _ = rustix::net::shutdown(&self.descriptor, rustix::net::Shutdown::Write);
        }
    }

    fn take_requests(&mut self, agent: &mut Agent, now: Instant) {
        while self.stage != Stage::Closing {
            let synchronous = self.is_synchronous(agent);
            if !synchronous && let Some(incoming) = self.waiting.pop_front() {
                dispatch(self, incoming, agent, now);
                continue;
            }
            let Some(incoming) = self.next(&agent.settings.limits) else {
                return;
            };
            // A new conversation waits for nothing of the one before.
            if matches!(incoming.request, Ok(Request::Hello(_))) {
                self.waiting.clear();
            } else if incoming.op_id.is_none() && synchronous {
                self.waiting
                    .push_back(incoming.checked(&agent.settings.limits));
                continue;
            }
            dispatch(self, incoming, agent, now);
        }
    }

    /// An operation without `op_id` is running: others without one wait for its end.
    fn is_synchronous(&self, agent: &Agent) -> bool {
        let mut running = agent.operations.of(Some(self.id));
        running.any(|operation| operation.framing.op_id.is_none())
            || agent
                .queue
                .of(self.id)
                .any(|queued| queued.terms.op_id.is_none())
            || self.replays.iter().any(|replay| replay.op_id().is_none())
            || self
                .transfers
                .iter()
                .any(|transfer| transfer.op_id().is_none())
    }

    fn next(&mut self, limits: &Limits) -> Option<Incoming> {
        if self.waiting.len() >= WAITING || self.outbox.has_too_many_answers(limits) {
            return None;
        }
        let mut rest = &self.input[self.decoded..];
        let item = self.decoder.decode(&mut rest);
        self.decoded = self.input.len() - rest.len();
        if rest.is_empty() {
            self.input.clear();
            self.decoded = 0;
        }
        item.map(|item| match (item, self.announced.take()) {
            (Item::Raw(bytes), Some(data)) => Incoming::input(&data, bytes),
            (item, _) => Incoming::new(item),
        })
    }

    /// Moves output, the operations by turns, a chunk of each stream at most.
    fn pump(&mut self, agent: &mut Agent, now: Instant) {
        self.turn = self.turn.wrapping_add(1);
        let count = agent.operations.len();
        // Neither programs nor files come first each time.
        let files_first = self.turn.is_multiple_of(2);
        if files_first {
            self.pump_files(agent);
        }
        let limits = &agent.settings.limits;
        for n in 0..count {
            let operation = agent.operations.get((self.turn + n) % count);
            if operation.client == Some(self.id) {
                operation.give_credit(&mut self.outbox, limits);
                operation.pump(&mut self.outbox, limits, now);
            }
        }
        if !files_first {
            self.pump_files(agent);
        }
    }

    /// The same for records and files.
    fn pump_files(&mut self, agent: &Agent) {
        for replay in &mut self.replays {
            replay.pump(&mut self.outbox, &agent.settings.limits);
        }
        self.replays.retain(|replay| !replay.is_done());
        for transfer in std::mem::take(&mut self.transfers) {
            let transfer = transfer.pump(&mut self.outbox, agent);
            self.transfers.extend(transfer);
        }
    }

    /// Answers for what has ended.
    fn finish(&mut self, agent: &mut Agent) {
        let id = Some(self.id);
        for operation in agent.operations.take(|o| o.client == id && o.is_done()) {
            agent.finish(operation, &mut self.outbox);
        }
    }
}

impl Incoming {
    /// The same, without what is past a limit: a request that waits holds no more than it may.
    fn checked(self, limits: &Limits) -> Self {
        let refused = match &self.request {
            Ok(Request::Exec(exec)) => exec.check(limits).err(),
            Ok(Request::InstallPackages(install)) => install.check(limits).err(),
            Ok(Request::Spawn(spawn)) => spawn.check(limits).err(),
            _ => None,
        };
        match refused {
            Some(error) => Self {
                request: Err(error),
                ..self
            },
            None => self,
        }
    }

    fn input(data: &InputData, bytes: Vec<u8>) -> Self {
        let stdin = Stdin {
            action: ActionTag,
            op_id: data.op_id,
            chunk: Some(Chunk::Bytes(bytes)),
            eof: data.eof,
        };
        Self {
            op_id: Some(data.op_id),
            request: Ok(Request::Stdin(stdin)),
        }
    }

    fn new(item: Item) -> Self {
        let line = match item {
            Item::Line(line) | Item::Raw(line) => line,
            Item::TooLong { limit } => {
                let message = format!(
                    "a line is longer than {limit} bytes (limit line_bytes); it was dropped"
                );
                let error = WireError::new(ErrorType::ProtocolError, message);
                return Self {
                    op_id: None,
                    request: Err(error),
                };
            }
        };
        match Request::parse(&line) {
            Ok(request) => Self {
                op_id: request.op_id(),
                request: Ok(request),
            },
            Err(refused) => Self {
                op_id: refused.op_id,
                request: Err(refused.error),
            },
        }
    }
}

fn decoder(limits: &Limits, most: u64) -> Decoder {
    Decoder::new(line_bytes(limits, most))
}

fn line_bytes(limits: &Limits, most: u64) -> usize {
    usize::try_from(limits.line_bytes.min(most)).unwrap_or(usize::MAX)
}
