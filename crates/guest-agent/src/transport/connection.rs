use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use fumehood_protocol::{Decoder, ErrorType, InputData, Item, Limits, WireError};
use rustix::buffer::spare_capacity;
use rustix::event::PollFlags;
use rustix::io::Errno;

use super::client_id::ClientId;
use super::incoming::IncomingRequest;
use super::outbox::{Outbox, SendStatus};
use super::session::{Encoding, Session};
use crate::settings::Settings;

/// Bytes read from a client at once.
const READ_BYTES: usize = 64 * 1024;
/// Bytes that one buffer of a virtio port holds.
const PAGE_BYTES: usize = 4096;
/// Maximum line length before the client has sent its token: `hello` fits, little else does.
const UNAUTHENTICATED_LINE_BYTES: u64 = 64 * 1024;
/// How long a client may take to send its token, and to hang up after the agent has rejected it.
const UNAUTHENTICATED_TIMEOUT: Duration = Duration::from_secs(10);

/// One connection of a client: bytes in, requests out, and answers back. It knows no operations.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ClientId,
    descriptor: OwnedFd,
    opened: Instant,
    state: ConnectionState,
    decoder: Decoder,
    /// Bytes that were read; those from `decoded` on have not been decoded yet.
    input: Vec<u8>,
    decoded: usize,
    /// The announcement of the raw frame that comes next.
    announced: Option<InputData>,
    pub(crate) session: Session,
    pub(crate) outbox: Outbox,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConnectionState {
    Open,
    /// The agent reads no more requests. It sends the queued answers, then the client must hang up.
    Closing,
    Gone,
}

impl Connection {
    /// Creates the connection of a client on this non-blocking descriptor.
    pub(crate) fn new(
        id: ClientId,
        descriptor: OwnedFd,
        settings: &Settings,
        now: Instant,
    ) -> Self {
        let session = Session::new(settings);
        // A client without a token must not make the agent buffer long lines.
        let max_line = if session.authorised {
            u64::MAX
        } else {
            UNAUTHENTICATED_LINE_BYTES
        };

        Self {
            id,
            descriptor,
            opened: now,
            state: ConnectionState::Open,
            decoder: Decoder::new(line_bytes(&settings.limits, max_line)),
            input: Vec::new(),
            decoded: 0,
            announced: None,
            session,
            outbox: Outbox::default(),
        }
    }

    /// Starts a new session on this connection.
    pub(crate) fn start_session(&mut self, session: Session, limits: &Limits) {
        self.decoder = Decoder::new(line_bytes(limits, u64::MAX));
        self.session = session;
    }

    /// Applies changed limits to the lines that come from now on.
    pub(crate) fn set_limits(&mut self, limits: &Limits) {
        self.decoder.set_limit(line_bytes(limits, u64::MAX));
    }

    /// Expects the raw frame that the client has announced.
    ///
    /// # Errors
    /// `request_error` if raw frames were not agreed on, or if the frame is too long.
    pub(crate) fn expect_frame(
        &mut self,
        data: InputData,
        limits: &Limits,
    ) -> Result<(), WireError> {
        let reject = |message: String| Err(WireError::new(ErrorType::RequestError, message));
        if self.session.encoding != Encoding::Raw {
            // A client that sends the frame all the same must not have its bytes parsed as requests.
            self.decoder.skip_raw(data.len);
            return reject("raw frames were not agreed on in `hello`; send `stdin` instead".into());
        }

        let (len, max) = (data.len, limits.chunk_bytes);
        let Some(bytes) = usize::try_from(len).ok().filter(|_| len <= max) else {
            // The bytes of the frame must not be parsed as requests.
            self.decoder.skip_raw(len);
            return reject(format!(
                "field `len`: {len} bytes exceed the maximum of {max}; the frame is skipped"
            ));
        };

        self.announced = Some(data);
        self.decoder.expect_raw(bytes);

        Ok(())
    }

    /// Closes the connection once all queued answers have been sent.
    pub(crate) fn close(&mut self) {
        self.state = ConnectionState::Closing;
    }

    /// Whether the agent still reads requests from this client.
    pub(crate) fn is_open(&self) -> bool {
        self.state == ConnectionState::Open
    }

    /// Whether the agent waits for the client to hang up.
    pub(crate) fn is_closing(&self) -> bool {
        self.state == ConnectionState::Closing
    }

    /// Whether the client has disconnected.
    pub(crate) fn is_gone(&self) -> bool {
        self.state == ConnectionState::Gone
    }

    /// Returns the descriptor, for the next client of the same port.
    pub(crate) fn into_descriptor(self) -> OwnedFd {
        self.descriptor
    }

    /// Whether bytes were read that have not been decoded yet.
    pub(crate) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// The descriptor to poll, with the flags for it. `can_queue`: another request may wait.
    pub(crate) fn poll_interest(
        &self,
        can_queue: bool,
        limits: &Limits,
    ) -> (BorrowedFd<'_>, PollFlags) {
        let mut flags = PollFlags::RDHUP;
        let is_idle = can_queue && self.input.is_empty();
        if self.is_closing() || (is_idle && !self.outbox.has_too_many_answers(limits)) {
            flags |= PollFlags::IN;
        }

        if !self.outbox.is_empty() {
            flags |= PollFlags::OUT;
        }

        (self.descriptor.as_fd(), flags)
    }

    /// When the client must have authenticated or hung up, if it has not.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let is_limited = !self.session.authorised || self.is_closing();
        is_limited.then(|| self.opened + UNAUTHENTICATED_TIMEOUT)
    }

    /// Disconnects a client whose deadline has passed.
    pub(crate) fn check_deadline(&mut self, now: Instant) {
        if self.deadline().is_some_and(|deadline| now >= deadline) {
            self.state = ConnectionState::Gone;
        }
    }

    /// Handles the events that `poll` has reported.
    pub(crate) fn handle_events(&mut self, flags: PollFlags) {
        if flags.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            self.state = ConnectionState::Gone;
        } else if flags.contains(PollFlags::IN) {
            self.receive();
        } else if flags.contains(PollFlags::RDHUP) {
            self.state = ConnectionState::Gone;
        }
    }

    fn receive(&mut self) {
        self.input.reserve_exact(READ_BYTES);
        loop {
            match rustix::io::read(&self.descriptor, spare_capacity(&mut self.input)) {
                Ok(0) => self.state = ConnectionState::Gone,
                Ok(_) if self.is_closing() => self.input.clear(),
                // There may be more: a virtio port returns one page at a time.
                Ok(PAGE_BYTES..) if self.input.len() < READ_BYTES => continue,
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => self.state = ConnectionState::Gone,
            }
            return;
        }
    }

    /// Decodes the next request from the bytes that were read.
    pub(crate) fn next_request(&mut self) -> Option<IncomingRequest> {
        let mut rest = &self.input[self.decoded..];
        let item = self.decoder.decode(&mut rest);
        self.decoded = self.input.len() - rest.len();

        if rest.is_empty() {
            self.input.clear();
            self.decoded = 0;
        }

        item.map(|item| match (item, self.announced.take()) {
            (Item::Raw(bytes), Some(data)) => IncomingRequest::from_frame(&data, bytes),
            (item, _) => IncomingRequest::parse(item),
        })
    }

    /// Sends as much of the outbox as the client accepts.
    pub(crate) fn send(&mut self) {
        if !self.is_gone() && self.outbox.send(&self.descriptor) == SendStatus::Disconnected {
            self.state = ConnectionState::Gone;
        }

        if self.is_closing() && self.outbox.is_empty() {
            // This fails on a virtio port, which the agent never closes.
            let _ = rustix::net::shutdown(&self.descriptor, rustix::net::Shutdown::Write);
        }
    }
}

fn line_bytes(limits: &Limits, max: u64) -> usize {
    usize::try_from(limits.line_bytes.min(max)).unwrap_or(usize::MAX)
}
