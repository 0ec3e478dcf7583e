//! One response.

use serde_json::{Map, Value};

use super::fault::{Check, fail};
use super::transcript::shorten;

/// A response: its fields, and the bytes of the frame that followed it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Message {
    pub(crate) fields: Map<String, Value>,
    pub(crate) frame: Vec<u8>,
}

impl Message {
    /// The `type`, or an empty text.
    pub(crate) fn kind(&self) -> &str {
        self.text("type")
    }

    /// A field that is a string; empty if it is missing or something else.
    pub(crate) fn text(&self, field: &str) -> &str {
        self.fields.get(field).and_then(Value::as_str).unwrap_or("")
    }

    /// A field that is a number.
    pub(crate) fn number(&self, field: &str) -> Option<i64> {
        self.fields.get(field)?.as_i64()
    }

    /// A field, or null.
    pub(crate) fn field(&self, field: &str) -> &Value {
        self.fields.get(field).unwrap_or(&Value::Null)
    }

    pub(crate) fn op_id(&self) -> Option<i64> {
        self.number("op_id")
    }

    /// Fails unless the response has this type.
    pub(crate) fn expect(self, kind: &str) -> Check<Self> {
        if self.kind() != kind {
            fail!("a `{kind}` was expected, and this arrived: {}", self.show());
        }
        Ok(self)
    }

    /// Fails unless the response is an error of this type.
    pub(crate) fn expect_error(self, error_type: &str) -> Check<Self> {
        if self.kind() != "error" || self.text("error_type") != error_type {
            fail!(
                "an error of type `{error_type}` was expected, and this arrived: {}",
                self.show()
            );
        }
        Ok(self)
    }

    /// The response as a line, shortened.
    pub(crate) fn show(&self) -> String {
        shorten(Value::Object(self.fields.clone()).to_string().as_bytes())
    }

    /// The bytes of a `chunk`, or of the frame of `data`.
    pub(crate) fn bytes(&self) -> Check<Vec<u8>> {
        if self.kind() == "data" {
            return Ok(self.frame.clone());
        }

        match self.field("chunk") {
            Value::String(text) => Ok(text.clone().into_bytes()),
            Value::Object(chunk)
                if chunk.get("encoding").and_then(Value::as_str) == Some("base64") =>
            {
                let data = chunk.get("data").and_then(Value::as_str).unwrap_or("");
                let decoded =
                    base64::Engine::decode(&base64::engine::general_purpose::STANDARD, data);
                match decoded {
                    Ok(bytes) => Ok(bytes),
                    Err(error) => fail!("a chunk is not base64 ({error}): {}", self.show()),
                }
            }
            _ => fail!("`chunk` is neither text nor base64: {}", self.show()),
        }
    }
}
