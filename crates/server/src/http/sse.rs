//! Server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::error::ApiError;
use crate::state::event_log::{EventSubscriber, LoggedEvent};

/// How often a comment is sent in a quiet stream, so that proxies do not close the connection.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

const LAST_EVENT_ID: &str = "last-event-id";

/// The largest event number that can be requested: the largest that the integers of all clients hold.
const MAX_EVENT_ID: u64 = i64::MAX as u64;

/// Where an event stream starts.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AfterQuery {
    /// Send the events after this number; 0 = all. The header `Last-Event-ID` takes precedence.
    #[param(maximum = 9_223_372_036_854_775_807_i64)]
    after: Option<u64>,
}

/// One event of an event stream.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "it describes what `Event` writes")]
pub(super) struct EventResponse {
    /// The name.
    event: Option<String>,
    /// The number, from 1; a `gap` has none.
    id: Option<String>,
    /// The data, as JSON.
    data: String,
}

impl AfterQuery {
    /// Returns the number of the event after which the stream starts.
    ///
    /// # Errors
    /// [`ApiErrorKind::Invalid`](crate::ApiErrorKind::Invalid) if it is not a number or too large.
    pub(super) fn event_id(&self, headers: &HeaderMap) -> Result<u64, ApiError> {
        let id = match headers.get(LAST_EVENT_ID) {
            None => Some(self.after.unwrap_or(0)),
            Some(header) => header.to_str().ok().and_then(|text| text.parse().ok()),
        };

        id.filter(|id| *id <= MAX_EVENT_ID).ok_or_else(|| {
            ApiError::invalid(format!(
                "`after` and `Last-Event-ID` must be an event number from 0 to {MAX_EVENT_ID}"
            ))
        })
    }
}

fn to_sse(logged: &LoggedEvent) -> Event {
    let event = Event::default().event(logged.name).data(&logged.data);
    match logged.id {
        0 => event,
        id => event.id(id.to_string()),
    }
}

/// Streams events as they are appended, up to the last one.
pub(super) fn event_stream(subscriber: EventSubscriber) -> Response {
    let events = stream::unfold(subscriber, |mut subscriber| async move {
        let logged = subscriber.next().await?;
        Some((Ok::<_, Infallible>(to_sse(&logged)), subscriber))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE_INTERVAL);
    Sse::new(events).keep_alive(keep_alive).into_response()
}

/// Streams a gap and the last event, for a run or a sandbox whose events are no longer kept.
pub(super) fn archived_stream(after: u64, name: &'static str, last: &impl Serialize) -> Response {
    let gap = format!("{{\"after\":{after},\"next\":null}}");
    let last = serde_json::to_string(last).unwrap_or_default();
    let events = [("gap", gap), (name, last)];
    let events =
        events.map(|(name, data)| Ok::<_, Infallible>(Event::default().event(name).data(data)));
    Sse::new(stream::iter(events)).into_response()
}
