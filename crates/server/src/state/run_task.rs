//! A run as a task that its callers observe.
//!
//! No connection owns a run. A task drives it to its end and appends its events to a log; callers subscribe to that log.
//! A run without a subscriber is cancelled after [`ORPHAN_GRACE`], unless it is detached.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use fumehood_engine::{Error, Event, Input, Outcome, Run, RunControl};
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::watch;

use super::event_log::{EventLog, EventSubscriber};
use super::held_output::HeldOutput;
use super::memory_budget::Charge;
use super::output_chunks::Utf8Chunker;
use super::run_output::{CollectedOutput, OutputStream, OutputWriter};
use crate::api::requests::Stdin;
use crate::api::responses::{FileContent, RunError, RunKind, RunOutcome, RunResponse, RunState};
use crate::api::timestamp::format_timestamp;
use crate::error::ApiError;
use crate::owner::Owner;
use crate::sync::lock;

/// The events of a run that are kept, in bytes of JSON.
const MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;

/// How long a run without a subscriber continues. A client whose connection broke reconnects within this time.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);

/// How long a run waits for a subscriber that does not read.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// A run in memory: its state, its events and its collected output.
#[derive(Debug)]
pub struct RunTask {
    id: String,
    owner: Owner,
    sandbox: Option<String>,
    kind: RunKind,
    created: Timestamp,
    detached: AtomicBool,
    /// No caller waits for the run's outcome any more.
    abandoned: AtomicBool,
    events: Arc<EventLog>,
    state: watch::Sender<RunState>,
    output: Arc<CollectedOutput>,
    /// The charge of the request to its owner's quota, while the run may need it.
    request: Mutex<Option<Charge>>,
    end: OnceLock<RunEnd>,
    control: RunControl,
    input: Option<Input>,
    /// Set once the run no longer waits for subscribers to read.
    stop_waiting: watch::Sender<bool>,
}

#[derive(Debug)]
struct RunEnd {
    at: Timestamp,
    result: Result<Outcome, ApiError>,
}

/// The server's part of a new run, beside the engine's request.
#[derive(Debug)]
pub(crate) struct RunSpec {
    pub(crate) id: String,
    pub(crate) owner: Owner,
    pub(crate) sandbox: Option<String>,
    pub(crate) kind: RunKind,
    pub(crate) detach: bool,
    pub(crate) stdin: Stdin,
    /// Whether the run has a terminal, and so an input, even without `stdin`.
    pub(crate) has_pty: bool,
}

impl RunTask {
    /// Creates the task of a run that the engine has started. [`drive`](Self::drive) then drives it.
    /// `held` counts what all runs of the owner hold.
    pub(crate) fn new(spec: &RunSpec, run: &Run, held: Arc<HeldOutput>) -> Arc<Self> {
        let takes_input = spec.has_pty || spec.stdin == Stdin::Open(true);
        let state = if spec.sandbox.is_some() {
            RunState::Running
        } else {
            RunState::Queued
        };

        let task = Arc::new(Self {
            id: spec.id.clone(),
            owner: spec.owner.clone(),
            sandbox: spec.sandbox.clone(),
            kind: spec.kind,
            created: Timestamp::now(),
            detached: AtomicBool::new(spec.detach),
            abandoned: AtomicBool::new(false),
            events: EventLog::new(MAX_EVENT_BYTES, held.clone()),
            state: watch::Sender::new(state),
            output: Arc::new(CollectedOutput::new(held)),
            request: Mutex::default(),
            end: OnceLock::new(),
            control: run.canceller(),
            input: takes_input.then(|| run.input()),
            stop_waiting: watch::Sender::new(false),
        });

        let first_event = json!({
            "id": task.id, "sandbox": task.sandbox, "kind": task.kind,
            "created_at": format_timestamp(task.created),
        });
        task.events.append("run", first_event.to_string());

        task
    }

    /// Returns the run's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Returns the id of the sandbox that the run is in, if it is in one.
    #[must_use]
    pub fn sandbox(&self) -> Option<&str> {
        self.sandbox.as_deref()
    }

    /// Returns the run's current state.
    #[must_use]
    pub fn state(&self) -> RunState {
        *self.state.borrow()
    }

    /// Subscribes to the events after number `after`; 0 starts with the first event. A run with a subscriber is not
    /// cancelled as an orphan.
    #[must_use]
    pub fn subscribe(&self, after: u64) -> EventSubscriber {
        self.events.subscribe(after)
    }

    /// Waits for the end of the run. A run that is waited for is not cancelled as an orphan.
    pub async fn wait(&self) {
        let _waiter = self.events.add_waiter();
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| state.is_over()).await;
    }

    /// Waits until the run has a VM, or has ended.
    pub(crate) async fn wait_until_started(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| *state != RunState::Queued).await;
    }

    fn is_detached(&self) -> bool {
        self.detached.load(Ordering::Relaxed)
    }

    /// Detaches the run: it continues without subscribers.
    pub fn detach(&self) {
        self.detached.store(true, Ordering::Relaxed);
        self.stop_waiting.send_replace(true);
    }

    /// Returns why the run failed, or `None` if it has not ended or has an outcome.
    #[must_use]
    pub fn failure(&self) -> Option<ApiError> {
        let mut error = self.end.get()?.result.as_ref().err()?.clone();
        error.run = Some(self.id.as_str().into());
        Some(error)
    }

    /// Cancels the run with SIGINT, then SIGTERM, then SIGKILL. It still reports its outcome, with its downloads.
    pub fn cancel(&self) {
        self.control.cancel();
        self.stop_waiting.send_replace(true);
    }

    /// Cancels the run and its downloads, since no caller waits for them.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
        self.cancel();
    }

    /// Sends a signal (1 to 31) to the run's program.
    ///
    /// # Errors
    /// [`ApiErrorKind::Invalid`](crate::ApiErrorKind::Invalid) for any other number.
    pub fn signal(&self, signal: i32) -> Result<(), ApiError> {
        Ok(self.control.signal(signal)?)
    }

    /// Resizes the run's terminal, in characters.
    pub fn resize(&self, rows: u16, cols: u16) {
        self.control.resize(rows, cols);
    }

    /// Returns the run's standard input, if it is open for writing.
    pub(crate) fn input(&self) -> Option<Input> {
        self.input.clone()
    }

    /// Returns how many bytes of output and events the run holds.
    pub(crate) fn bytes(&self) -> usize {
        self.output.bytes() + self.events.bytes()
    }

    /// Counts the request until the run has ended.
    pub(crate) fn hold_request(&self, charge: Charge) {
        let mut request = lock(&self.request);
        if self.end.get().is_none() {
            *request = Some(charge);
        }
    }

    /// Returns how many bytes of output the run holds.
    pub(crate) fn output_bytes(&self) -> usize {
        self.output.bytes()
    }

    /// Drops the output and the events of a run that has ended, also for those who are reading them.
    pub(crate) fn discard(&self) {
        self.output.discard();
        self.events.discard();
    }

    /// Returns the run as callers see it, with or without its output.
    #[must_use]
    pub fn response(&self, with_output: bool) -> RunResponse {
        self.response_as(self.state(), with_output)
    }

    fn response_as(&self, state: RunState, with_output: bool) -> RunResponse {
        // An end that is not recorded yet is not reported yet.
        let end = self.end.get().filter(|_| state.is_over());
        let result = end.map(|end| &end.result);
        let outcome = result.and_then(|result| result.as_ref().ok());
        let error = result.and_then(|result| result.as_ref().err());

        RunResponse {
            id: self.id.clone(),
            sandbox: self.sandbox.clone(),
            kind: self.kind,
            state,
            created_at: format_timestamp(self.created),
            ended_at: end.map(|end| format_timestamp(end.at)),
            outcome: outcome.map(|outcome| RunOutcome::Reported(Box::new(outcome.clone()))),
            output: with_output.then(|| self.output.response()),
            error: error.map(RunError::from),
        }
    }

    /// Returns the JSON of the run with its output, as [`response`](Self::response) describes it, in small pieces.
    pub(crate) fn write_response(&self) -> OutputWriter {
        let head = serde_json::to_string(&self.response(false)).unwrap_or_default();
        self.output.write_after(&head)
    }

    /// Drives a run to its end, and calls `record` with the result before any caller can see it.
    pub(crate) async fn drive(self: Arc<Self>, mut run: Run, record: impl FnOnce(RunResponse)) {
        let orphan_watch =
            (!self.is_detached()).then(|| tokio::spawn(self.clone().cancel_when_orphaned()));

        // Pass on the events, then the rest of an incomplete character.
        let (mut stdout, mut stderr) = (Utf8Chunker::default(), Utf8Chunker::default());
        while let Some(event) = run.next().await {
            self.handle_event(event, &mut stdout, &mut stderr).await;
        }

        for (name, chunker) in [("stdout", &mut stdout), ("stderr", &mut stderr)] {
            if let Some(chunk) = chunker.finish() {
                self.emit(name, chunk).await;
            }
        }

        let to_api_error: fn(Error) -> ApiError = if self.sandbox.is_some() {
            ApiError::from
        } else {
            ApiError::of_one_shot_run
        };
        let mut result = run.outcome().await.map_err(to_api_error);
        if let Ok(outcome) = &mut result {
            self.collect_downloads(outcome).await;
        }

        let (state, name) = if result.is_ok() {
            (RunState::Ended, "ended")
        } else {
            (RunState::Failed, "failed")
        };

        self.output.shrink();
        let at = Timestamp::now();
        let _ = self.end.set(RunEnd { at, result });
        lock(&self.request).take();

        let response = self.response_as(state, false);
        let last = match &response.error {
            None => serde_json::to_string(&response),
            Some(error) => serde_json::to_string(error),
        };

        record(response);

        // The state changes first, so that a caller who reads the last event finds the run ended.
        self.state.send_replace(state);
        self.events.close(name, last.unwrap_or_default());

        if let Some(orphan_watch) = orphan_watch {
            orphan_watch.abort();
        }
    }

    /// Takes the contents of downloaded files out of the outcome, and emits each as an event.
    async fn collect_downloads(&self, outcome: &mut Outcome) {
        for download in &mut outcome.downloads {
            let Some(bytes) = download.content.take() else {
                continue;
            };

            let file = FileContent::new(download.remote.clone(), &bytes);
            let event = serde_json::to_string(&file).unwrap_or_default();
            self.output.add_file(file);
            self.emit("file", event).await;
        }
    }

    async fn handle_event(&self, event: Event, stdout: &mut Utf8Chunker, stderr: &mut Utf8Chunker) {
        // Any event but a package step shows that the run has its VM.
        self.state.send_if_modified(|state| {
            let starts = *state == RunState::Queued && !is_package_event(&event);
            if starts {
                *state = RunState::Running;
            }
            starts
        });

        let (name, data) = match event {
            Event::Stdout(bytes) => {
                self.output.add(OutputStream::Stdout, &bytes);
                ("stdout", stdout.push(&bytes))
            }
            Event::Stderr(bytes) => {
                self.output.add(OutputStream::Stderr, &bytes);
                ("stderr", stderr.push(&bytes))
            }
            Event::Result(value) => {
                self.output.add_result(&value);
                // Line breaks are only white space in JSON, but they end a line of an event stream.
                let text = serde_json::to_string(&value).ok();
                ("result", text.map(|text| text.replace(['\r', '\n'], " ")))
            }
            Event::Started { pid } => ("started", Some(json!({ "pid": pid }).to_string())),
            Event::Exposed { url } => ("exposed", Some(json!({ "url": url }).to_string())),
            Event::Packages(step) => {
                let data = json!({ "step": step.as_str() });
                ("packages", Some(data.to_string()))
            }
            Event::PackagesReady { packages, .. } => {
                let data = json!({ "step": "ready", "packages": packages });
                ("packages", Some(data.to_string()))
            }
            Event::ProgramEnded => {
                // The first cancellation has ended the program; this one stops the downloads.
                if self.abandoned.load(Ordering::Relaxed) {
                    self.control.cancel();
                }
                return;
            }
            Event::Network(event) => ("network", serde_json::to_string(&event).ok()),
            _ => return,
        };

        if let Some(data) = data {
            self.emit(name, data).await;
        }
    }

    /// Appends an event once the log has room. A detached or cancelled run does not wait: its oldest events are dropped.
    async fn emit(&self, name: &'static str, data: String) {
        if !self.is_detached() {
            let mut stop_waiting = self.stop_waiting.subscribe();
            tokio::select! {
                () = self.events.wait_for_capacity(data.len()) => {}
                _ = stop_waiting.wait_for(|stop| *stop) => {}
                // A subscriber is connected and does not read: drop its oldest events.
                () = tokio::time::sleep(UNREAD_TIMEOUT) => {}
            }
        }

        self.events.append(name, data);
    }

    async fn cancel_when_orphaned(self: Arc<Self>) {
        let mut subscribers = self.events.subscriber_count();
        loop {
            if subscribers.wait_for(|count| *count == 0).await.is_err() {
                return;
            }

            let reconnected = subscribers.wait_for(|count| *count > 0);
            let timed_out = tokio::time::timeout(ORPHAN_GRACE, reconnected)
                .await
                .is_err();

            if self.is_detached() {
                return;
            }

            if timed_out {
                tracing::info!(run = self.id, "cancelled: no client is connected to it");
                self.abandon();
                return;
            }
        }
    }
}

/// Writes `text` to a program's standard input, and closes it.
pub(crate) async fn write_all_stdin(mut input: Input, text: String) {
    /// The size of one write, which bounds the input in transit.
    const CHUNK_BYTES: usize = 64 * 1024;

    let text = bytes::Bytes::from(text);
    let mut start = 0;

    while start < text.len() {
        let end = (start + CHUNK_BYTES).min(text.len());
        if input.write(text.slice(start..end)).await.is_err() {
            return;
        }
        start = end;
    }

    input.close().await;
}

/// Returns whether an event is about packages, which are prepared before the run has a VM.
fn is_package_event(event: &Event) -> bool {
    matches!(event, Event::Packages(_) | Event::PackagesReady { .. })
}
