//! Cuts bytes into lines and frames, and characters, as both sides of the protocol do.
#![no_main]

use fumehood_protocol::{Decoder, Item, Utf8Splitter};

/// Maximum length of a line, in bytes: short, so that inputs reach it.
const LIMIT: usize = 64;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [size, stream @ ..] = bytes else { return };
    let size = usize::from(*size) + 1;

    // The pieces in which bytes arrive make no difference.
    assert_eq!(items(stream, stream.len().max(1)), items(stream, size));

    let mut splitter = Utf8Splitter::default();
    let mut text = Vec::new();
    for piece in stream.chunks(size) {
        text.extend(splitter.push(piece));
        assert!(splitter.pending() <= 3);
    }
    text.extend(splitter.finish());
    assert_eq!(text, stream);
});

/// Returns the items of a stream. A line that starts with `#` announces a frame, one that starts with `-` a skipped one.
fn items(stream: &[u8], size: usize) -> Vec<Item> {
    let mut decoder = Decoder::new(LIMIT);
    let mut items = Vec::new();
    for mut piece in stream.chunks(size) {
        while let Some(item) = decoder.decode(&mut piece) {
            match &item {
                Item::Line(line) if line.starts_with(b"#") => decoder.expect_raw(line.len()),
                Item::Line(line) if line.starts_with(b"-") => decoder.skip_raw(line.len() as u64),
                Item::Line(line) => assert!(line.len() <= LIMIT),
                _ => {}
            }
            items.push(item);
        }
        assert!(decoder.buffered() <= LIMIT);
    }
    items
}
