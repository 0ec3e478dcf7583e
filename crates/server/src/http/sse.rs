//! Server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::error::ApiError;
use crate::state::event_log::{EventSubscriber, LoggedEvent};
use crate::state::memory_budget::{Charge, Quota};

/// How much of an event is written at once, in bytes.
const PIECE_BYTES: usize = 64 * 1024;

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
        let after = self.after.unwrap_or(0);
        let id = match headers.get(LAST_EVENT_ID) {
            None => Some(after),
            Some(header) => header.to_str().ok().and_then(|text| text.parse().ok()),
        };

        // Both must be valid, whichever counts.
        let is_valid = |id: &u64| after.max(*id) <= MAX_EVENT_ID;
        id.filter(is_valid).ok_or_else(|| {
            ApiError::invalid(format!(
                "`after` and `Last-Event-ID` must be an event number from 0 to {MAX_EVENT_ID}"
            ))
        })
    }
}

/// Streams events as they are appended, up to the last one.
pub(super) fn event_stream(subscriber: EventSubscriber, quota: Quota) -> Response {
    let sender = EventSender {
        subscriber,
        quota,
        current: None,
    };
    let pieces = stream::unfold(sender, |mut sender| async move {
        let piece = sender.next_piece().await?;
        Some((Ok::<_, Infallible>(piece), sender))
    });

    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, Body::from_stream(pieces)).into_response()
}

/// Writes events in small pieces. It shares their data with the log, so that an unread stream takes little memory.
struct EventSender {
    subscriber: EventSubscriber,
    quota: Quota,
    /// The data that is being written, the position in it, and its charge.
    current: Option<(Arc<str>, usize, Option<Charge>)>,
}

impl EventSender {
    async fn next_piece(&mut self) -> Option<Bytes> {
        if let Some((data, written, _)) = &mut self.current {
            let end = (*written + PIECE_BYTES).min(data.len());
            let mut piece = BytesMut::from(&data.as_bytes()[*written..end]);
            *written = end;
            if end == data.len() {
                piece.extend_from_slice(b"\n\n");
                self.current = None;
            }
            return Some(piece.freeze());
        }

        let next = tokio::time::timeout(KEEP_ALIVE_INTERVAL, self.subscriber.next());
        let Ok(logged) = next.await else {
            return Some(Bytes::from_static(b":\n\n"));
        };
        let LoggedEvent { id, name, data } = logged?;

        // The log may drop the event while it is being written: then only this stream still holds it.
        let charge = if data.len() > PIECE_BYTES {
            Some(self.quota.wait_for(data.len()).await)
        } else {
            None
        };
        self.current = Some((data, 0, charge));

        Some(match id {
            0 => format!("event: {name}\ndata: ").into(),
            id => format!("event: {name}\nid: {id}\ndata: ").into(),
        })
    }
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
