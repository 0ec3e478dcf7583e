//! Server-sent events.

use bytes::{Buf, Bytes, BytesMut};
use fumehood_engine::{Event, MimeBundle};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

use super::answers::{MAX_EVENT_BYTES, connection_failure};
use crate::outcome::Failure;

/// A stream of server-sent events.
#[derive(Debug)]
pub(crate) struct EventStream {
    body: Incoming,
    buffer: BytesMut,
}

impl EventStream {
    pub(super) fn new(body: Incoming) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
        }
    }

    /// Returns the next event.
    ///
    /// # Errors
    /// The stream ends, breaks or is too large.
    pub(crate) async fn next(&mut self) -> Result<ServerEvent, Failure> {
        loop {
            // An empty line ends an event. Blocks without data are comments, which keep the connection alive.
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block = self.buffer.split_to(end);
                self.buffer.advance(2);
                match ServerEvent::parse(&block) {
                    Some(event) => return Ok(event),
                    None => continue,
                }
            }

            if self.buffer.len() > MAX_EVENT_BYTES {
                return Err(connection_failure("an event is too long"));
            }
            let frame = match self.body.frame().await {
                Some(frame) => frame.map_err(connection_failure)?,
                None => return Err(connection_failure("the event stream ended early")),
            };
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}

/// A server-sent event.
#[derive(Debug, PartialEq)]
pub(crate) struct ServerEvent {
    pub(crate) name: String,
    pub(crate) data: Value,
}

impl ServerEvent {
    /// Parses the lines of an event. Returns `None` if it has no name or no JSON data.
    fn parse(block: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(block).ok()?;
        let field = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };

        let data = serde_json::from_str(field("data")?).ok()?;
        let name = field("event")?.to_owned();
        Some(Self { name, data })
    }

    /// Returns the event of an engine with the same content, if this one is output or a value.
    pub(super) fn to_engine_event(&self) -> Option<Event> {
        match self.name.as_str() {
            "stdout" => Some(Event::Stdout(self.output()?)),
            "stderr" => Some(Event::Stderr(self.output()?)),
            "result" => {
                let value: MimeBundle = serde_json::from_value(self.data.clone()).ok()?;
                Some(Event::Result(value))
            }
            _ => None,
        }
    }

    /// Returns the bytes of output: text, or base64 if it is not valid UTF-8.
    fn output(&self) -> Option<Bytes> {
        use base64::Engine as _;
        use base64::engine::general_purpose::STANDARD;

        match self.data["text"].as_str() {
            Some(text) => Some(Bytes::copy_from_slice(text.as_bytes())),
            None => Some(STANDARD.decode(self.data["base64"].as_str()?).ok()?.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_engine_event(block: &[u8]) -> Option<Event> {
        ServerEvent::parse(block).unwrap().to_engine_event()
    }

    #[test]
    fn server_events_become_engine_events() {
        let block = b"event: stdout\ndata: {\"text\":\"a\\nb\"}\nid: 3";
        assert_eq!(
            parse_engine_event(block),
            Some(Event::Stdout("a\nb".into()))
        );

        let block = b"event: stderr\ndata: {\"base64\":\"/w==\"}";
        let bytes = Bytes::from_static(b"\xff");
        assert_eq!(parse_engine_event(block), Some(Event::Stderr(bytes)));

        assert_eq!(ServerEvent::parse(b":"), None);
        assert_eq!(ServerEvent::parse(b"event: run\ndata: {"), None);
    }
}
