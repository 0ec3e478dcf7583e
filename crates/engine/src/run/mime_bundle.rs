use std::collections::BTreeMap;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// A value that a program shows, in one form or more: an object from MIME types to data. What comes from
/// the guest is as hostile as its output: HTML and SVG in it can hold scripts. It is held as it came, and
/// read when it is asked for.
#[derive(Debug, Clone)]
pub struct MimeBundle(BTreeMap<String, Box<RawValue>>);

impl MimeBundle {
    /// Its plain text, which nearly every value has.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        serde_json::from_str(self.0.get("text/plain")?.get()).ok()
    }

    /// The data of this MIME type: a string, base64 in it where the type is no text, or JSON itself for
    /// `application/json` and types that end with `+json`.
    #[must_use]
    pub fn get(&self, mime: &str) -> Option<Value> {
        serde_json::from_str(self.0.get(mime)?.get()).ok()
    }

    /// The MIME types that it has, sorted.
    pub fn types(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Bytes that it takes in memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let forms = self.0.iter();
        forms
            .map(|(mime, data)| mime.len() + data.get().len())
            .sum()
    }
}

/// Forms of one value. Programs have a handful; a million empty ones would cost a dozen times their text.
const FORMS: usize = 256;

impl<'de> Deserialize<'de> for MimeBundle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> Visitor<'de> for Forms {
            type Value = MimeBundle;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "an object of at most {FORMS} MIME types")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MimeBundle, A::Error> {
                let mut forms = BTreeMap::new();
                while let Some((mime, data)) = map.next_entry()? {
                    forms.insert(mime, data);
                    if forms.len() > FORMS {
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

/// The longest value that is taken from a guest, in bytes of JSON. Interpreters send 8 MiB at most.
const VALUE_BYTES: usize = 10 * 1024 * 1024;

/// Puts values together from the pieces in which they come.
#[derive(Debug, Default)]
pub(crate) struct Values {
    line: Vec<u8>,
    /// What came of the line that is being read is too long already.
    too_long: bool,
    /// Lines that were no value.
    pub(crate) dropped: u64,
}

impl Values {
    /// Takes a piece; returns the values that it completes.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> Vec<MimeBundle> {
        let mut values = Vec::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.add(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.line);
            let is_whole = !std::mem::take(&mut self.too_long);
            match serde_json::from_slice(&line).ok().filter(|_| is_whole) {
                Some(bundle) => values.push(bundle),
                None => self.dropped += 1,
            }
        }
        self.add(bytes);
        values
    }

    fn add(&mut self, bytes: &[u8]) {
        self.too_long |= self.line.len() + bytes.len() > VALUE_BYTES;
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
    fn values_come_in_pieces_and_junk_is_counted() {
        let mut values = Values::default();
        let text = b"{\"text/plain\":\"a\"}\nno JSON\n[1]\n{\"text/plain\":\"b\",\"application/json\":[1]}\n{";
        let mut all = Vec::new();
        for piece in text.chunks(7) {
            all.extend(values.take(piece));
        }
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].text().as_deref(), Some("a"));
        assert_eq!(all[1].text().as_deref(), Some("b"));
        assert_eq!(all[1].get("application/json").unwrap()[0], 1);
        assert_eq!(values.dropped, 2);
    }

    #[test]
    fn a_value_of_too_many_forms_is_none() {
        let value = |forms: usize| {
            let forms: Vec<String> = (0..forms).map(|n| format!("\"x/{n}\":0")).collect();
            format!("{{{}}}\n", forms.join(","))
        };
        let mut values = Values::default();
        assert_eq!(values.take(value(FORMS).as_bytes()).len(), 1);
        assert!(values.take(value(FORMS + 1).as_bytes()).is_empty());
        assert_eq!(values.dropped, 1);
    }

    #[test]
    fn a_value_without_end_is_not_held() {
        let mut values = Values::default();
        for _ in 0..200 {
            assert!(values.take(&[b' '; 100_000]).is_empty());
            assert!(values.line.len() <= VALUE_BYTES);
        }
        assert!(values.take(b"\n").is_empty());
        assert_eq!(values.dropped, 1);
        assert_eq!(values.take(b"{}\n").len(), 1);
    }
}
