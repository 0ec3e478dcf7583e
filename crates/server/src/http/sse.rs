use std::convert::Infallible;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::error::ApiError;
use crate::state::event_log::{Follower, Told};

/// A line now and then keeps what lies in between from closing the connection.
const ALIVE: Duration = Duration::from_secs(15);

const LAST_EVENT_ID: &str = "last-event-id";

/// From where events are told.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct After {
    /// Those after this number; `Last-Event-ID` goes before it.
    #[param(maximum = 9_223_372_036_854_775_807_i64)]
    pub(super) after: Option<u64>,
}

/// The largest number of an event that can be asked for: what all clients' integers hold.
const MOST_AFTER: u64 = i64::MAX as u64;

/// One of a stream of events.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes what is written by hand")]
pub(super) struct EventView {
    /// What it is.
    event: Option<String>,
    /// Its number, from 1; a `gap` has none.
    id: Option<String>,
    /// JSON.
    data: String,
}

impl After {
    /// The number after which to tell.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): the header is no number.
    pub(super) fn number(&self, headers: &HeaderMap) -> Result<u64, ApiError> {
        let last = headers.get(LAST_EVENT_ID);
        let number = match last {
            None => Some(self.after.unwrap_or(0)),
            Some(last) => last.to_str().ok().and_then(|last| last.parse().ok()),
        };
        let number = number.filter(|number| *number <= MOST_AFTER);
        number.ok_or_else(|| {
            ApiError::invalid(format!(
                "`after` and `Last-Event-ID` are to be the number of an event, 0 to {MOST_AFTER}"
            ))
        })
    }
}

fn event(told: &Told) -> Event {
    let event = Event::default().event(told.name).data(&told.data);
    match told.id {
        0 => event,
        id => event.id(id.to_string()),
    }
}

/// Events until the last, as they come.
pub(super) fn follow(follower: Follower) -> Response {
    let events = stream::unfold(follower, |mut follower| async move {
        let told = follower.next().await?;
        Some((Ok::<_, Infallible>(event(&told)), follower))
    });
    Sse::new(events)
        .keep_alive(KeepAlive::new().interval(ALIVE))
        .into_response()
}

/// What is known at the end of something whose events are kept no more.
pub(super) fn over(after: u64, name: &'static str, data: String) -> Response {
    let gap = format!("{{\"after\":{after},\"next\":null}}");
    let told = [("gap", gap), (name, data)];
    let events =
        told.map(|(name, data)| Ok::<_, Infallible>(Event::default().event(name).data(data)));
    Sse::new(stream::iter(events)).into_response()
}
