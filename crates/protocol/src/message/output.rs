//! Output of operations: programs' streams, displayed values, and content of files.

use serde::{Deserialize, Serialize};

use super::envelope::response;
use crate::value::Chunk;

response! {
    /// A chunk of output.
    Output {
        /// Counts the chunks of one operation from 0, over all its streams. Absent in version 0.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
        /// The bytes. Version 0 has only text here, with U+FFFD in place of invalid UTF-8.
        chunk: Chunk,
    }
}

response! {
    /// Announces a raw frame: exactly `len` bytes follow the newline of this line. Used only if
    /// [`FEATURE_RAW_FRAMES`](crate::FEATURE_RAW_FRAMES) is active.
    Data {
        /// The stream that the bytes belong to.
        stream: Stream,
        /// The sequence number, as in [`Output::seq`].
        seq: u64,
        /// The number of bytes that follow: 1 to `chunk_bytes`.
        len: u64,
    }
}

/// A stream of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Values that the code displays, as lines of JSON.
    Result,
    /// The content of a file.
    File,
}

impl Stream {
    /// Returns the name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Result => "result",
            Self::File => "file",
        }
    }
}
