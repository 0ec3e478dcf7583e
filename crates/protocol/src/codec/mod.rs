//! Bytes to items and messages to bytes. The codec knows no message type.

mod decoder;
mod encoder;
mod utf8_splitter;

pub use decoder::{Decoder, Item};
pub use encoder::encode_line;
pub use utf8_splitter::Utf8Splitter;
