use serde::Serialize;

/// Encodes one message as a line, including its newline.
///
/// # Panics
/// Never for the types of this crate: all their map keys are strings.
#[must_use]
pub fn encode_line<T: Serialize>(message: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("the protocol's types serialise");
    line.push(b'\n');
    line
}
