//! A run that goes on by itself: driven by a task, followed by whoever wants to, cancelled when nobody does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use fumehood_engine::report::{self, CapturedOutput, DisplayedValues};
use fumehood_engine::{Event, Input, Run, RunControl};
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::watch;

use super::output_chunks::Pieces;
use crate::api::requests::Stdin;
use crate::api::responses::{OutcomeView, OutputView, RunError, RunKind, RunState, RunView};
use crate::api::timestamp::written;
use crate::error::ApiError;
use crate::owner::Owner;
use crate::state::event_log::{Follower, Ring};

/// Events of a run that are kept, in bytes of JSON.
const EVENTS_BYTES: usize = 16 * 1024 * 1024;

/// How long a run goes on that nobody follows: somebody whose connection broke comes again within that.
const ALONE: Duration = Duration::from_secs(2);

/// How long a run waits for a follower who does not read.
const UNREAD: Duration = Duration::from_secs(15 * 60);

/// A run.
#[derive(Debug)]
pub struct Job {
    id: String,
    owner: Owner,
    sandbox: Option<String>,
    kind: RunKind,
    created: Timestamp,
    detached: AtomicBool,
    ring: Arc<Ring>,
    state: watch::Sender<RunState>,
    kept: Mutex<Kept>,
    end: OnceLock<End>,
    canceller: RunControl,
    input: Option<Input>,
    /// Nobody is waited for any more.
    hurried: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Kept {
    stdout: CapturedOutput,
    stderr: CapturedOutput,
    results: DisplayedValues,
}

#[derive(Debug)]
struct End {
    at: Timestamp,
    how: Result<OutcomeView, ApiError>,
}

/// What a job is to be.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) id: String,
    pub(crate) owner: Owner,
    pub(crate) sandbox: Option<String>,
    pub(crate) kind: RunKind,
    pub(crate) detach: bool,
    pub(crate) stdin: Stdin,
    /// It has an input whatever `stdin` says.
    pub(crate) has_terminal: bool,
}

impl Job {
    pub(crate) fn new(plan: &Plan, run: &Run) -> Arc<Self> {
        let takes_input = plan.has_terminal || plan.stdin == Stdin::Open(true);
        let state = match plan.sandbox {
            Some(_) => RunState::Running,
            None => RunState::Queued,
        };
        let job = Arc::new(Self {
            id: plan.id.clone(),
            owner: plan.owner.clone(),
            sandbox: plan.sandbox.clone(),
            kind: plan.kind,
            created: Timestamp::now(),
            detached: AtomicBool::new(plan.detach),
            ring: Ring::new(EVENTS_BYTES),
            state: watch::Sender::new(state),
            kept: Mutex::default(),
            end: OnceLock::new(),
            canceller: run.canceller(),
            input: takes_input.then(|| run.input()),
            hurried: watch::Sender::new(false),
        });
        let begun = json!({
            "id": job.id, "sandbox": job.sandbox, "kind": job.kind, "created_at": written(job.created),
        });
        job.ring.tell("run", begun.to_string());
        job
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The sandbox that it runs in.
    #[must_use]
    pub fn sandbox(&self) -> Option<&str> {
        self.sandbox.as_deref()
    }

    /// What it is doing.
    #[must_use]
    pub fn state(&self) -> RunState {
        *self.state.borrow()
    }

    /// Follows it after this event; 0 = from its beginning. While somebody does, it is not cancelled.
    #[must_use]
    pub fn follow(&self, after: u64) -> Follower {
        self.ring.follow(after)
    }

    /// Waits for its end; while somebody does, it is not cancelled.
    pub async fn wait(&self) {
        let _waiter = self.ring.wait();
        let _ = self
            .state
            .subscribe()
            .wait_for(|state| state.is_over())
            .await;
    }

    /// Waits until it has a VM, or has ended.
    pub(crate) async fn begun(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| *state != RunState::Queued).await;
    }

    fn is_detached(&self) -> bool {
        self.detached.load(Ordering::Relaxed)
    }

    /// Lets it go on when nobody follows it.
    pub fn detach(&self) {
        self.detached.store(true, Ordering::Relaxed);
        self.hurried.send_replace(true);
    }

    /// Why it has no outcome, if it is over and has none.
    #[must_use]
    pub fn failure(&self) -> Option<ApiError> {
        let mut error = self.end.get()?.how.as_ref().err()?.clone();
        error.run = Some(self.id.as_str().into());
        Some(error)
    }

    /// Asks it to end: SIGINT, SIGTERM, SIGKILL. It still tells its outcome.
    pub fn cancel(&self) {
        self.canceller.cancel();
        self.hurried.send_replace(true);
    }

    /// Sends a signal to its program.
    ///
    /// # Errors
    /// 1 to 31 are allowed.
    pub fn signal(&self, signal: i32) -> Result<(), ApiError> {
        Ok(self.canceller.signal(signal)?)
    }

    /// Gives its terminal another size.
    pub fn resize(&self, rows: u16, cols: u16) {
        self.canceller.resize(rows, cols);
    }

    /// Its input, if it has one that is written to.
    pub(crate) fn input(&self) -> Option<Input> {
        self.input.clone()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        let kept = self.kept();
        let output = kept.stdout.bytes().len() + kept.stderr.bytes().len() + kept.results.bytes();
        output + self.ring.bytes()
    }

    /// The run, with what it wrote or without.
    #[must_use]
    pub fn view(&self, with_output: bool) -> RunView {
        self.view_as(self.state(), with_output)
    }

    fn view_as(&self, state: RunState, with_output: bool) -> RunView {
        // What is not recorded yet has not ended yet.
        let end = self.end.get().filter(|_| state.is_over());
        let how = end.map(|end| &end.how);
        RunView {
            id: self.id.clone(),
            sandbox: self.sandbox.clone(),
            kind: self.kind,
            state,
            created_at: written(self.created),
            ended_at: end.map(|end| written(end.at)),
            outcome: how
                .and_then(|how| how.as_ref().ok())
                .cloned()
                .unwrap_or_default(),
            output: with_output.then(|| self.output()),
            error: how.and_then(|how| how.as_ref().err()).map(RunError::from),
        }
    }

    fn output(&self) -> OutputView {
        let kept = self.kept();
        let (stdout, stdout_encoding) = kept.stdout.encoded();
        let (stderr, stderr_encoding) = kept.stderr.encoded();
        OutputView {
            stdout,
            stdout_encoding: stdout_encoding.into(),
            stdout_bytes: kept.stdout.total(),
            stdout_truncated: kept.stdout.truncated(),
            stderr,
            stderr_encoding: stderr_encoding.into(),
            stderr_bytes: kept.stderr.total(),
            stderr_truncated: kept.stderr.truncated(),
            results: kept.results.values(),
            results_truncated: kept.results.truncated(),
        }
    }

    /// Drives a run to its end, which is `recorded` before anybody is told.
    pub(crate) async fn drive(self: Arc<Self>, mut run: Run, recorded: impl FnOnce(RunView)) {
        let lonely = (!self.is_detached()).then(|| tokio::spawn(self.clone().cancel_when_alone()));
        let (mut stdout, mut stderr) = (Pieces::default(), Pieces::default());
        while let Some(event) = run.next().await {
            self.take(event, &mut stdout, &mut stderr).await;
        }
        for (name, pieces) in [("stdout", &mut stdout), ("stderr", &mut stderr)] {
            if let Some(piece) = pieces.finish() {
                self.tell(name, piece).await;
            }
        }
        let how = match run.outcome().await {
            Ok(outcome) => {
                let fields = report::outcome(&outcome);
                serde_json::from_value(fields.into()).map_err(|e| ApiError::internal(&e))
            }
            Err(error) => Err(error.into()),
        };
        let state = match how {
            Ok(_) => RunState::Ended,
            Err(_) => RunState::Failed,
        };
        let at = Timestamp::now();
        let _ = self.end.set(End { at, how });
        let view = self.view_as(state, false);
        let last = match &view.error {
            None => serde_json::to_string(&view),
            Some(error) => serde_json::to_string(error),
        };
        recorded(view);
        let name = match state {
            RunState::Failed => "failed",
            _ => "ended",
        };
        // First the state: who reads the last event finds the run ended.
        self.state.send_replace(state);
        self.ring.close(name, last.unwrap_or_default());
        if let Some(lonely) = lonely {
            lonely.abort();
        }
    }

    async fn take(&self, event: Event, stdout: &mut Pieces, stderr: &mut Pieces) {
        self.state.send_if_modified(|state| {
            let begins = *state == RunState::Queued && !matches!(event, Event::Packages(_));
            if begins {
                *state = RunState::Running;
            }
            begins
        });
        let (name, data) = match event {
            Event::Stdout(bytes) => {
                self.kept().stdout.add(&bytes);
                ("stdout", stdout.take(&bytes))
            }
            Event::Stderr(bytes) => {
                self.kept().stderr.add(&bytes);
                ("stderr", stderr.take(&bytes))
            }
            Event::Result(value) => {
                self.kept().results.add(&value);
                // In JSON it is white space alone, and in a stream of events the end of a line.
                let text = serde_json::to_string(&value).ok();
                ("result", text.map(|text| text.replace(['\r', '\n'], " ")))
            }
            Event::Started { pid } => ("started", Some(json!({ "pid": pid }).to_string())),
            Event::Exposed { url } => ("exposed", Some(json!({ "url": url }).to_string())),
            Event::Packages(step) => (
                "packages",
                Some(json!({ "step": step.as_str() }).to_string()),
            ),
            Event::Network(event) => ("network", serde_json::to_string(&event).ok()),
            _ => return,
        };
        if let Some(data) = data {
            self.tell(name, data).await;
        }
    }

    /// Tells it once there is room. What a detached run told first goes instead, and a cancelled one's.
    async fn tell(&self, name: &'static str, data: String) {
        if !self.is_detached() {
            let mut hurried = self.hurried.subscribe();
            tokio::select! {
                () = self.ring.room(data.len()) => {}
                _ = hurried.wait_for(|hurried| *hurried) => {}
                // Somebody follows it and does not read: its oldest events go.
                () = tokio::time::sleep(UNREAD) => {}
            }
        }
        self.ring.tell(name, data);
    }

    async fn cancel_when_alone(self: Arc<Self>) {
        let mut followers = self.ring.followers();
        loop {
            if followers.wait_for(|count| *count == 0).await.is_err() {
                return;
            }
            let again = followers.wait_for(|count| *count > 0);
            let is_alone = tokio::time::timeout(ALONE, again).await.is_err();
            if self.is_detached() {
                return;
            }
            if is_alone {
                tracing::info!(run = self.id, "cancelled: nobody follows it");
                self.cancel();
                return;
            }
        }
    }
}

/// Writes all of a program's input.
pub(crate) async fn feed(mut input: Input, text: String) {
    /// One write: what may be on its way.
    const PIECE_BYTES: usize = 64 * 1024;
    let text = bytes::Bytes::from(text);
    let mut at = 0;
    while at < text.len() {
        let end = (at + PIECE_BYTES).min(text.len());
        if input.write(text.slice(at..end)).await.is_err() {
            return;
        }
        at = end;
    }
    input.close().await;
}
