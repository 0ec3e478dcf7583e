use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Byte-exact output. On the wire it is a string if the bytes are UTF-8, else
/// `{"encoding":"base64","data":"…"}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// Bytes that are UTF-8.
    Text(String),
    /// Bytes that are not UTF-8.
    Bytes(Vec<u8>),
}

impl Chunk {
    /// Returns the bytes that the program wrote.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.into_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl From<Vec<u8>> for Chunk {
    fn from(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(error) => Self::Bytes(error.into_bytes()),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
enum Encoding {
    Base64,
}

#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "must be a text, or an object with `encoding` (\"base64\") and `data`"
)]
enum WireChunk {
    Text(String),
    Encoded { encoding: Encoding, data: String },
}

impl Serialize for Chunk {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Bytes(bytes) => WireChunk::Encoded {
                encoding: Encoding::Base64,
                data: STANDARD.encode(bytes),
            }
            .serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Chunk {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match WireChunk::deserialize(deserializer)? {
            WireChunk::Text(text) => Ok(Self::Text(text)),
            WireChunk::Encoded {
                encoding: Encoding::Base64,
                data,
            } => STANDARD
                .decode(data)
                .map(Self::Bytes)
                .map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Chunk {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Chunk".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        WireChunk::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_encoded_as_a_string() {
        assert_eq!(
            serde_json::to_string(&Chunk::from(b"a\n".to_vec())).unwrap(),
            r#""a\n""#
        );
    }

    #[test]
    fn other_bytes_are_encoded_as_base64() {
        let chunk = Chunk::from(vec![0xff, 0]);
        let json = serde_json::to_string(&chunk).unwrap();
        assert_eq!(json, r#"{"encoding":"base64","data":"/wA="}"#);
        assert_eq!(
            serde_json::from_str::<Chunk>(&json).unwrap().into_bytes(),
            vec![0xff, 0]
        );
    }

    #[test]
    fn invalid_base64_is_an_error() {
        assert!(serde_json::from_str::<Chunk>(r#"{"encoding":"base64","data":"?"}"#).is_err());
    }
}
