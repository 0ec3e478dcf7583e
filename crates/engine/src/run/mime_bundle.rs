use std::collections::BTreeMap;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// A value that a program displays, in one or more forms: a map from MIME types to data.
///
/// It comes from the guest and is as hostile as its output: HTML and SVG can contain scripts. The data is stored as it
/// was received, and parsed on demand.
#[derive(Debug, Clone)]
pub struct MimeBundle(BTreeMap<String, Box<RawValue>>);

impl MimeBundle {
    /// Returns the plain text of the value, which nearly every value has.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        serde_json::from_str(self.0.get("text/plain")?.get()).ok()
    }

    /// Returns the data of this MIME type: a string, which contains base64 for binary types, or JSON itself for
    /// `application/json` and types that end with `+json`.
    #[must_use]
    pub fn get(&self, mime: &str) -> Option<Value> {
        serde_json::from_str(self.0.get(mime)?.get()).ok()
    }

    /// Returns the MIME types of the value, sorted.
    pub fn types(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Returns the approximate size in memory, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let forms = self.0.iter();
        forms
            .map(|(mime, data)| mime.len() + data.get().len())
            .sum()
    }
}

/// Maximum number of forms of one value. Programs use a handful; a million empty ones would cost a dozen times the size
/// of their text.
const MAX_FORMS: usize = 256;

impl<'de> Deserialize<'de> for MimeBundle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> Visitor<'de> for Forms {
            type Value = MimeBundle;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "an object of at most {MAX_FORMS} MIME types")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MimeBundle, A::Error> {
                let mut forms = BTreeMap::new();
                while let Some((mime, data)) = map.next_entry()? {
                    forms.insert(mime, data);
                    if forms.len() > MAX_FORMS {
                        return Err(A::Error::invalid_length(forms.len(), &self));
                    }
                }

                Ok(MimeBundle(forms))
            }
        }

        deserializer.deserialize_map(Forms)
    }
}

impl PartialEq for MimeBundle {
    fn eq(&self, other: &Self) -> bool {
        let texts = |bundle: &Self| -> Vec<(String, String)> {
            let forms = bundle.0.iter();
            forms
                .map(|(mime, data)| (mime.clone(), data.get().to_string()))
                .collect()
        };

        texts(self) == texts(other)
    }
}

impl serde::Serialize for MimeBundle {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// Maximum size of one value from a guest, in bytes of JSON. Interpreters send at most 8 MiB.
const MAX_VALUE_BYTES: usize = 10 * 1024 * 1024;

/// Assembles values from the pieces in which they arrive: one line of JSON each.
#[derive(Debug, Default)]
pub(crate) struct ResultParser {
    line: Vec<u8>,
    /// The current line has exceeded the maximum.
    too_long: bool,
    /// Number of lines that were not values.
    pub(crate) dropped: u64,
}

impl ResultParser {
    /// Takes a piece; returns the values that it completes.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Vec<MimeBundle> {
        let mut values = Vec::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.append(&bytes[..end]);
            bytes = &bytes[end + 1..];

            let line = std::mem::take(&mut self.line);
            let is_complete = !std::mem::take(&mut self.too_long);

            match serde_json::from_slice(&line).ok().filter(|_| is_complete) {
                Some(bundle) => values.push(bundle),
                None => self.dropped += 1,
            }
        }

        self.append(bytes);

        values
    }

    fn append(&mut self, bytes: &[u8]) {
        self.too_long |= self.line.len() + bytes.len() > MAX_VALUE_BYTES;
        if self.too_long {
            self.line = Vec::new();
        } else {
            self.line.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_arrive_in_pieces_and_invalid_lines_are_counted() {
        let mut values = ResultParser::default();
        let text = b"{\"text/plain\":\"a\"}\nnot JSON\n[1]\n{\"text/plain\":\"b\",\"application/json\":[1]}\n{";
        let mut all = Vec::new();

        for piece in text.chunks(7) {
            all.extend(values.feed(piece));
        }

        assert_eq!(all.len(), 2);
        assert_eq!(all[0].text().as_deref(), Some("a"));
        assert_eq!(all[1].text().as_deref(), Some("b"));
        assert_eq!(all[1].get("application/json").unwrap()[0], 1);
        assert_eq!(values.dropped, 2);
    }

    #[test]
    fn a_value_with_too_many_forms_is_dropped() {
        let value = |forms: usize| {
            let forms: Vec<String> = (0..forms).map(|n| format!("\"x/{n}\":0")).collect();
            format!("{{{}}}\n", forms.join(","))
        };

        let mut values = ResultParser::default();
        assert_eq!(values.feed(value(MAX_FORMS).as_bytes()).len(), 1);
        assert!(values.feed(value(MAX_FORMS + 1).as_bytes()).is_empty());
        assert_eq!(values.dropped, 1);
    }

    #[test]
    fn an_endless_value_is_not_buffered() {
        let mut values = ResultParser::default();
        for _ in 0..200 {
            assert!(values.feed(&[b' '; 100_000]).is_empty());
            assert!(values.line.len() <= MAX_VALUE_BYTES);
        }

        assert!(values.feed(b"\n").is_empty());
        assert_eq!(values.dropped, 1);
        assert_eq!(values.feed(b"{}\n").len(), 1);
    }
}
