//! The output of a run, as far as it is kept, and how it is written as JSON in small pieces.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fumehood_engine::MimeBundle;
use fumehood_engine::report::{CapturedOutput, DisplayedValues};
use serde_json::json;

use super::held_output::HeldOutput;
use crate::api::responses::{FileContent, OutputPosition, RunOutput};
use crate::sync::lock;

/// How much output is written at once, in bytes: a multiple of three, so that pieces of base64 need no padding. JSON takes
/// up to six bytes for one.
const PIECE_BYTES: usize = 6 * 1024;

/// The output of a run. It only grows, until it is discarded.
#[derive(Debug, Default)]
pub(crate) struct CollectedOutput {
    collected: Mutex<Collected>,
    /// What all runs of the owner hold.
    held: Arc<HeldOutput>,
}

impl Drop for CollectedOutput {
    fn drop(&mut self) {
        self.held.release(self.bytes());
    }
}

#[derive(Debug, Default)]
struct Collected {
    streams: [CapturedOutput; 2],
    results: DisplayedValues,
    /// Where in the output each of the results was displayed, as far as results are kept.
    result_positions: Vec<OutputPosition>,
    files: Vec<FileContent>,
    is_discarded: bool,
}

/// One of the output streams of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutputStream {
    Stdout,
    Stderr,
}

impl OutputStream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

impl CollectedOutput {
    pub(crate) fn new(held: Arc<HeldOutput>) -> Self {
        Self {
            collected: Mutex::default(),
            held,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Collected> {
        lock(&self.collected)
    }

    /// Adds output of a program.
    pub(crate) fn add(&self, stream: OutputStream, bytes: &[u8]) {
        let mut output = self.lock();
        let captured = &mut output.streams[stream as usize];
        if self.held.is_full() {
            captured.skip(bytes.len());
            return;
        }

        let before = captured.bytes().len();
        captured.add(bytes);
        self.held.add(captured.bytes().len() - before);
    }

    /// Adds a value that code displayed.
    pub(crate) fn add_result(&self, value: &MimeBundle) {
        let mut output = self.lock();
        if self.held.is_full() {
            output.results.skip();
            return;
        }

        let before = output.results.bytes();
        output.results.add(value);
        self.held.add(output.results.bytes() - before);
        if !output.results.truncated() {
            let [stdout, stderr] = [0, 1].map(|stream| output.streams[stream].bytes().len());
            let position = OutputPosition { stdout, stderr };
            output.result_positions.push(position);
        }
    }

    /// Adds a file that was downloaded.
    pub(crate) fn add_file(&self, file: FileContent) {
        self.held.add(file.len());
        self.lock().files.push(file);
    }

    /// Releases memory that only further output would need.
    pub(crate) fn shrink(&self) {
        let mut output = self.lock();
        output.streams.iter_mut().for_each(CapturedOutput::shrink);
        output.result_positions.shrink_to_fit();
    }

    /// Returns how many bytes are kept.
    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes()
    }

    /// Drops everything. Those who are reading it receive an error.
    pub(crate) fn discard(&self) {
        let discarded = Collected {
            is_discarded: true,
            ..Collected::default()
        };
        let output = std::mem::replace(&mut *self.lock(), discarded);
        self.held.release(output.bytes());
    }

    /// Returns a copy.
    pub(crate) fn response(&self) -> RunOutput {
        let output = self.lock();
        let [stdout, stderr] = &output.streams;
        let (stdout_text, stdout_encoding) = stdout.encoded();
        let (stderr_text, stderr_encoding) = stderr.encoded();

        RunOutput {
            stdout: stdout_text,
            stdout_encoding: stdout_encoding.into(),
            stdout_bytes: stdout.total(),
            stdout_truncated: stdout.truncated(),
            stderr: stderr_text,
            stderr_encoding: stderr_encoding.into(),
            stderr_bytes: stderr.total(),
            stderr_truncated: stderr.truncated(),
            results: output.results.values(),
            results_truncated: output.results.truncated(),
            files: output.files.clone(),
            result_positions: output.result_positions.clone(),
        }
    }

    /// Writes the fields of [`RunOutput`] after those of `head`, which is a JSON object that is not empty.
    pub(crate) fn write_after(self: &Arc<Self>, head: &str) -> OutputWriter {
        let head = head.strip_suffix('}').unwrap_or(head);
        let output = self.lock();

        let mut parts = vec![Part::Text(head.to_owned())];
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            let captured = &output.streams[stream as usize];
            let is_text = std::str::from_utf8(captured.bytes()).is_ok();
            let name = stream.name();
            let encoding = if is_text { "utf-8" } else { "base64" };
            let (total, truncated) = (captured.total(), captured.truncated());

            parts.extend([
                Part::Text(format!(",\"{name}\":\"")),
                Part::Stream {
                    stream,
                    is_text,
                    rest: 0..captured.bytes().len(),
                },
                Part::Text(format!(
                    "\",\"{name}_encoding\":\"{encoding}\",\"{name}_bytes\":{total},\"{name}_truncated\":{truncated}"
                )),
            ]);
        }

        let truncated = output.results.truncated();
        parts.extend([
            Part::Text(format!(",\"results_truncated\":{truncated},\"results\":[")),
            Part::Results(Items::new(output.results.len())),
            Part::Text("]".into()),
        ]);

        if !output.files.is_empty() {
            parts.extend([
                Part::Text(",\"files\":[".into()),
                Part::Files(Items::new(output.files.len())),
                Part::Text("]".into()),
            ]);
        }

        parts.push(Part::Text("}".into()));
        parts.reverse();

        OutputWriter {
            output: self.clone(),
            parts,
        }
    }
}

/// A part of the JSON that is still to be written.
#[derive(Debug)]
enum Part {
    Text(String),
    /// Output of a program, as the content of a JSON string.
    Stream {
        stream: OutputStream,
        is_text: bool,
        rest: Range<usize>,
    },
    /// Displayed values, as the items of a JSON array.
    Results(Items),
    /// Downloaded files, as the items of a JSON array.
    Files(Items),
}

/// How far a list has been written.
#[derive(Debug)]
struct Items {
    rest: Range<usize>,
    is_first: bool,
    /// How much of the first item was written, in bytes.
    position: usize,
}

impl Items {
    fn new(count: usize) -> Self {
        Self {
            rest: 0..count,
            is_first: true,
            position: 0,
        }
    }

    /// Writes what separates the next item from the one before, if the next one starts.
    fn separate(&mut self, piece: &mut Vec<u8>) {
        if self.position == 0 && !std::mem::take(&mut self.is_first) {
            piece.push(b',');
        }
    }

    fn is_complete(&self) -> bool {
        self.rest.start == self.rest.end
    }

    fn finish_item(&mut self) {
        self.rest.start += 1;
        self.position = 0;
    }
}

/// The JSON of a run, in pieces of some KiB. It holds a reference to the output and no copy of it, so that an answer that
/// is not read costs little.
#[derive(Debug)]
pub(crate) struct OutputWriter {
    output: Arc<CollectedOutput>,
    /// The parts in reverse order.
    parts: Vec<Part>,
}

impl Iterator for OutputWriter {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        let output = self.output.clone();
        let output = output.lock();
        let mut piece = Vec::new();

        while piece.len() < PIECE_BYTES
            && let Some(part) = self.parts.last_mut()
        {
            // The head of the answer is sent: an error can only end it early.
            if output.is_discarded {
                self.parts.clear();
                let message = "the output of this run is no longer kept";
                return Some(Err(io::Error::other(message)));
            }

            if output.write(part, &mut piece) {
                self.parts.pop();
            }
        }

        (!piece.is_empty()).then(|| Ok(piece.into()))
    }
}

impl Collected {
    fn bytes(&self) -> usize {
        let streams: usize = self.streams.iter().map(|one| one.bytes().len()).sum();
        let files: usize = self.files.iter().map(FileContent::len).sum();
        streams + files + self.results.bytes()
    }

    /// Writes the next piece of a part; returns whether the part is complete.
    fn write(&self, part: &mut Part, piece: &mut Vec<u8>) -> bool {
        match part {
            Part::Text(text) => {
                piece.extend_from_slice(text.as_bytes());
                true
            }
            Part::Stream {
                stream,
                is_text,
                rest,
            } => {
                let bytes = &self.streams[*stream as usize].bytes()[..rest.end];
                rest.start = write_string(bytes, *is_text, rest.start, piece);
                rest.start == rest.end
            }
            Part::Results(items) => {
                let Some(value) = self.results.get(items.rest.start) else {
                    return true;
                };
                items.separate(piece);

                let end = (items.position + PIECE_BYTES).min(value.len());
                piece.extend_from_slice(&value.as_bytes()[items.position..end]);
                items.position = end;
                if end == value.len() {
                    items.finish_item();
                }
                items.is_complete()
            }
            Part::Files(items) => {
                let Some(file) = self.files.get(items.rest.start) else {
                    return true;
                };
                items.separate(piece);
                write_file(file, items, piece);
                items.is_complete()
            }
        }
    }
}

/// Writes the next piece of a file.
fn write_file(file: &FileContent, items: &mut Items, piece: &mut Vec<u8>) {
    let (field, content) = match (&file.text, &file.base64) {
        (Some(text), _) => ("text", text.as_str()),
        (None, Some(base64)) => ("base64", base64.as_str()),
        (None, None) => ("text", ""),
    };

    if items.position == 0 {
        let path = json!(file.path);
        piece.extend_from_slice(format!("{{\"path\":{path},\"{field}\":\"").as_bytes());
    }

    items.position = write_string(content.as_bytes(), true, items.position, piece);
    if items.position == content.len() {
        piece.extend_from_slice(b"\"}");
        items.finish_item();
    }
}

/// Writes a piece of a text, or of the base64 of bytes, as the content of a JSON string. Returns where the next one starts.
fn write_string(bytes: &[u8], is_text: bool, start: usize, piece: &mut Vec<u8>) -> usize {
    let mut end = (start + PIECE_BYTES).min(bytes.len());

    if !is_text {
        piece.extend_from_slice(STANDARD.encode(&bytes[start..end]).as_bytes());
        return end;
    }

    // A piece of a text ends between characters.
    while end < bytes.len() && bytes[end] & 0xC0 == 0x80 {
        end -= 1;
    }

    let text = String::from_utf8_lossy(&bytes[start..end]);
    let quoted = serde_json::to_string(&text).unwrap_or_default();
    let content = quoted.get(1..quoted.len().saturating_sub(1));
    piece.extend_from_slice(content.unwrap_or_default().as_bytes());

    end
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Returns the JSON of an output, and the size of its largest piece.
    fn write(output: &Arc<CollectedOutput>) -> (Value, usize) {
        let (mut all, mut largest) = (Vec::new(), 0);
        for piece in output.write_after("{\"id\":\"run_1\"}") {
            let piece = piece.unwrap();
            largest = largest.max(piece.len());
            all.extend_from_slice(&piece);
        }
        (serde_json::from_slice(&all).unwrap(), largest)
    }

    /// Returns what serde writes.
    fn expected(output: &CollectedOutput) -> Value {
        let mut expected = serde_json::to_value(output.response()).unwrap();
        expected["id"] = "run_1".into();
        expected
    }

    #[test]
    fn the_pieces_are_the_same_json_as_the_whole() {
        let texts = [
            String::new(),
            "\0".repeat(PIECE_BYTES * 3 + 1),
            // Characters of one to four bytes across the borders of pieces, with everything that JSON escapes.
            "aé€😀\"\\\n\t\u{1f}\u{7f}".repeat(2000),
        ];
        for text in &texts {
            let output = Arc::<CollectedOutput>::default();
            output.add(OutputStream::Stdout, text.as_bytes());
            output.add(OutputStream::Stderr, text.as_bytes());
            output.add(OutputStream::Stderr, b"\xff");
            for value in ["x".to_owned(), text.clone()] {
                let value = serde_json::from_value(json!({ "text/plain": value })).unwrap();
                output.add_result(&value);
            }
            output.add_file(FileContent::new("a\"b".into(), text.as_bytes()));
            output.add_file(FileContent::new("empty".into(), b""));
            output.add_file(FileContent::new(
                "binary".into(),
                &[0xff; PIECE_BYTES * 2 + 1],
            ));

            let (json, largest) = write(&output);
            assert!(json == expected(&output));
            assert!(largest <= 8 * PIECE_BYTES, "{largest}");
        }
    }

    #[test]
    fn an_owner_that_holds_too_much_keeps_the_start_of_an_output() {
        let held = Arc::new(HeldOutput::new(8));
        let outputs = [(); 2].map(|()| CollectedOutput::new(held.clone()));
        outputs[0].add(OutputStream::Stdout, b"12345");
        outputs[1].add(OutputStream::Stdout, b"678");
        outputs[1].add(OutputStream::Stdout, b"lost");
        assert_eq!(held.bytes(), 8);

        // The kept output has no gap, even if there is room again later.
        outputs[0].discard();
        assert_eq!(held.bytes(), 3);
        outputs[1].add(OutputStream::Stdout, b"late");
        let output = outputs[1].response();
        assert_eq!((&*output.stdout, output.stdout_bytes), ("678", 11));
        assert!(output.stdout_truncated);

        drop(outputs);
        assert_eq!(held.bytes(), 0);
    }

    #[test]
    fn an_output_that_is_discarded_or_grows_while_it_is_read() {
        let output = Arc::<CollectedOutput>::default();
        assert_eq!(write(&output).0, expected(&output));

        output.add(OutputStream::Stdout, &[b'x'; PIECE_BYTES * 2]);
        let before = expected(&output);
        let mut writer = output.write_after("{\"id\":\"run_1\"}");
        let mut all = writer.next().unwrap().unwrap().to_vec();
        output.add(OutputStream::Stdout, b"more");
        for piece in writer {
            all.extend_from_slice(&piece.unwrap());
        }
        assert_eq!(serde_json::from_slice::<Value>(&all).unwrap(), before);

        let mut writer = output.write_after("{\"id\":\"run_1\"}");
        writer.next().unwrap().unwrap();
        output.discard();
        assert!(writer.next().unwrap().is_err());
        assert!(writer.next().is_none());
        assert_eq!(output.bytes(), 0);
    }
}
