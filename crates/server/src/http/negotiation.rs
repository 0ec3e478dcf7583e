use axum::http::HeaderMap;
use axum::http::header::ACCEPT;

use crate::error::{ApiError, Kind};

/// How a run is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// One object, at the end.
    Json,
    /// Events, as they come.
    Events,
}

impl Answer {
    /// What the caller likes best of both.
    ///
    /// # Errors
    /// [`Kind::NotAcceptable`]: neither.
    pub(super) fn asked(headers: &HeaderMap) -> Result<Self, ApiError> {
        let values = headers.get_all(ACCEPT).iter();
        let words: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
        if words.is_empty() {
            return Ok(Self::Json);
        }
        let mut best: Option<(Self, f32)> = None;
        for range in words.iter().flat_map(|word| word.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let answer = match parts
                .next()
                .unwrap_or_default()
                .to_ascii_lowercase()
                .as_str()
            {
                "text/event-stream" | "text/*" => Self::Events,
                "application/json" | "application/*" | "*/*" => Self::Json,
                _ => continue,
            };
            let weight = parts.find_map(|part| part.strip_prefix("q="));
            let weight = weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
            if weight > 0.0 && best.is_none_or(|(_, most)| weight > most) {
                best = Some((answer, weight));
            }
        }
        let message =
            "this answers with application/json or text/event-stream; `Accept` asks for neither";
        best.map(|(answer, _)| answer)
            .ok_or_else(|| ApiError::new(Kind::NotAcceptable, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_liked_best() {
        let asked = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            Answer::asked(&headers).map_err(|error| error.kind)
        };
        assert_eq!(Answer::asked(&HeaderMap::new()).unwrap(), Answer::Json);
        assert_eq!(asked("*/*"), Ok(Answer::Json));
        assert_eq!(asked("text/event-stream"), Ok(Answer::Events));
        assert_eq!(
            asked("application/json;q=0.1, text/event-stream"),
            Ok(Answer::Events)
        );
        assert_eq!(asked("text/html"), Err(Kind::NotAcceptable));
        assert_eq!(asked("application/json;q=0"), Err(Kind::NotAcceptable));
    }
}
