//! Content negotiation: JSON or an event stream.

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;

use crate::error::{ApiError, ApiErrorKind};

/// The format of the response to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResponseFormat {
    /// One JSON object at the end.
    Json,
    /// A stream of events.
    Events,
}

impl ResponseFormat {
    /// Returns the format that the `Accept` header prefers; JSON without one.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotAcceptable`] if it accepts neither.
    pub(super) fn from_headers(headers: &HeaderMap) -> Result<Self, ApiError> {
        let values = headers.get_all(ACCEPT).iter();
        let values: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
        if values.is_empty() {
            return Ok(Self::Json);
        }

        // Of several ranges with the same weight the first one wins.
        let mut best: Option<(Self, f32)> = None;
        for range in values.iter().flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
            let format = match media_type.as_str() {
                "text/event-stream" | "text/*" => Self::Events,
                "application/json" | "application/*" | "*/*" => Self::Json,
                _ => continue,
            };

            let weight = parts.find_map(|part| part.strip_prefix("q="));
            let weight = weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
            if weight > 0.0 && best.is_none_or(|(_, max)| weight > max) {
                best = Some((format, weight));
            }
        }

        let message = "`Accept` must allow application/json or text/event-stream";

        best.map(|(format, _)| format)
            .ok_or_else(|| ApiError::new(ApiErrorKind::NotAcceptable, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_format_wins() {
        let format = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            ResponseFormat::from_headers(&headers).map_err(|error| error.kind)
        };

        let without_header = ResponseFormat::from_headers(&HeaderMap::new());
        assert_eq!(without_header.unwrap(), ResponseFormat::Json);
        assert_eq!(format("*/*"), Ok(ResponseFormat::Json));
        assert_eq!(format("text/event-stream"), Ok(ResponseFormat::Events));
        assert_eq!(
            format("application/json;q=0.1, text/event-stream"),
            Ok(ResponseFormat::Events)
        );

        let rejected = Err(ApiErrorKind::NotAcceptable);
        assert_eq!(format("text/html"), rejected);
        assert_eq!(format("application/json;q=0"), rejected);
    }
}
