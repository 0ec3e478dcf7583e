//! A run on a server: code or a program, in a separate VM or in a sandbox.

use anyhow::Context;
use bytes::Bytes;
use fumehood_engine::{Event, Outcome};
use hyper::StatusCode;
use serde_json::{Value, json};

use super::answers::{connection_failure, read_json, server_failure};
use super::client::{ANY, EVENT_STREAM, Method, ServerClient, path_segment};
use super::events::EventStream;
use crate::io::{InputSink, StdinForwarder};
use crate::outcome::Failure;

/// What became of a request to start a run.
pub(crate) enum StartedRun {
    Running(Box<ServerRun>),
    /// The server is shutting down and has started nothing.
    Draining(Failure),
}

/// A run on a server. Dropping it closes the event stream, after which the server cancels the run.
#[derive(Debug)]
pub(crate) struct ServerRun {
    client: ServerClient,
    id: String,
    events: EventStream,
    outcome: Option<Result<Outcome, Failure>>,
}

impl ServerClient {
    /// Starts a run by a request to `path`.
    ///
    /// # Errors
    /// The server rejects the run, or the connection breaks.
    pub(crate) async fn start_run(&self, path: &str, body: &Value) -> Result<StartedRun, Failure> {
        let body = Bytes::from(body.to_string());
        let response = self
            .send(Method::POST, path, body, EVENT_STREAM)
            .await
            .map_err(connection_failure)?;

        if response.status() != StatusCode::OK {
            let answer = read_json(response).await.unwrap_or_default();
            let failure = server_failure(&answer["error"]);
            return match failure.kind.as_str() {
                "draining" => Ok(StartedRun::Draining(failure)),
                _ => Err(failure),
            };
        }

        // The first event names the run.
        let mut events = EventStream::new(response.into_body());
        let first = events.next().await?;
        let id = first.data["id"].as_str().unwrap_or_default().to_owned();
        if first.name != "run" || path_segment(&id).is_err() {
            return Err(connection_failure("unexpected answer"));
        }
        Ok(StartedRun::Running(Box::new(ServerRun {
            client: self.clone(),
            id,
            events,
            outcome: None,
        })))
    }
}

impl ServerRun {
    /// Follows a run from its first event that the server still has.
    ///
    /// # Errors
    /// There is no such run, or the server cannot be reached.
    pub(crate) async fn follow(client: &ServerClient, id: &str) -> anyhow::Result<Self> {
        let path = format!("/v1/runs/{}/events", path_segment(id)?);
        let events = client.events(&path);
        Ok(Self {
            client: client.clone(),
            id: id.to_owned(),
            events: events.await.with_context(|| format!("run {id}"))?,
            outcome: None,
        })
    }

    /// Returns the next event, or `None` after the last one.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        while self.outcome.is_none() {
            let event = match self.events.next().await {
                Ok(event) => event,
                Err(failure) => {
                    self.outcome = Some(Err(failure));
                    break;
                }
            };

            // The last event is the outcome or a failure. Events that this client does not know are skipped.
            match event.name.as_str() {
                "ended" => self.outcome = Some(parse_outcome(event.data.clone())),
                "failed" => self.outcome = Some(Err(server_failure(&event.data))),
                _ => {}
            }
            if let Some(event) = event.to_engine_event() {
                return Some(event);
            }
        }
        None
    }

    /// Waits for the outcome. Further events are dropped.
    ///
    /// # Errors
    /// The run has no outcome, or the connection breaks.
    pub(crate) async fn outcome(mut self) -> Result<Outcome, Failure> {
        while self.next().await.is_some() {}

        self.outcome
            .unwrap_or_else(|| Err(connection_failure("the event stream ended early")))
    }

    /// Returns the control of the run, which outlives this object.
    pub(crate) fn control(&self) -> ServerRunControl {
        ServerRunControl {
            client: self.client.clone(),
            path: format!("/v1/runs/{}", self.id),
        }
    }

    /// Returns a function that cancels the run.
    pub(crate) fn canceller(&self) -> impl Fn() + Send + 'static {
        let control = self.control();
        move || control.send("cancel", Value::Null)
    }

    /// Starts to forward standard input to the program.
    pub(crate) fn forward_stdin(&self) -> StdinForwarder {
        StdinForwarder::to_pipe(self.control())
    }
}

/// Controls a run on a server.
#[derive(Debug, Clone)]
pub(crate) struct ServerRunControl {
    client: ServerClient,
    path: String,
}

impl ServerRunControl {
    /// Sends a signal to the program.
    pub(crate) fn signal(&self, number: i32) {
        self.send("signal", json!({ "signal": number }));
    }

    /// Sets the size of the program's terminal.
    pub(crate) fn resize(&self, rows: u16, cols: u16) {
        self.send("resize", json!({ "rows": rows, "cols": cols }));
    }

    /// Sends a request about the run in the background. A run that has ended is no error.
    fn send(&self, action: &str, body: Value) {
        let control = self.clone();
        let action = action.to_owned();
        tokio::spawn(async move { control.send_and_wait(&action, body).await });
    }

    /// Cancels the run, and waits until the server has received that.
    pub(crate) async fn cancel(&self) {
        self.send_and_wait("cancel", Value::Null).await;
    }

    async fn send_and_wait(&self, action: &str, body: Value) -> bool {
        let path = format!("{}/{action}", self.path);
        let body = match body {
            Value::Null => Bytes::new(),
            body => Bytes::from(body.to_string()),
        };

        let result = self.client.send(Method::POST, &path, body, ANY).await;
        result.is_ok()
    }

    async fn write_input(&self, query: &str, bytes: Vec<u8>) -> bool {
        let path = format!("{}/stdin{query}", self.path);
        let result = self
            .client
            .send(Method::POST, &path, bytes.into(), ANY)
            .await;
        result.is_ok_and(|response| response.status().is_success())
    }
}

impl InputSink for ServerRunControl {
    async fn write(&mut self, bytes: Vec<u8>) -> bool {
        self.write_input("", bytes).await
    }

    async fn close(&mut self) {
        self.write_input("?close=true", Vec::new()).await;
    }
}

fn parse_outcome(data: Value) -> Result<Outcome, Failure> {
    serde_json::from_value(data)
        .map_err(|error| connection_failure(format!("unexpected outcome: {error}")))
}
