//! The results of tools: text within bounds, images as images, and the same as structured content.

use std::borrow::Cow;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fumehood_engine::Download;
use rmcp::model::{CallToolResult, ContentBlock};
use serde_json::{Map, Value, json};

use crate::api::responses::{FileContent, RunOutcome, RunOutput, RunResponse};
use crate::error::ApiError;

/// The text of one stream of output in a result, in bytes, at most: some 10,000 tokens. Larger output can be written to a
/// file and read in parts.
const MAX_TEXT_BYTES: usize = 32 * 1024;

/// The images in one result, at most.
const MAX_IMAGES: usize = 8;

/// The size of one image, in bytes of base64, at most.
const MAX_IMAGE_BYTES: usize = 4 * 1024 * 1024;

/// The text of one failed download, in bytes, at most.
const MAX_ERROR_BYTES: usize = 1024;

/// The MIME types of images that clients show.
const IMAGE_TYPES: [&str; 4] = ["image/png", "image/jpeg", "image/gif", "image/webp"];

/// Returns the result of a call that succeeded.
pub(super) fn succeeded(text: impl Into<String>, structured: Value) -> CallToolResult {
    let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
    result.structured_content = Some(structured);
    result
}

/// Returns the result of a call that failed, with the reason for the model to read.
pub(super) fn failed(error: &ApiError) -> CallToolResult {
    let mut result = CallToolResult::error(vec![ContentBlock::text(&*error.message)]);
    result.structured_content = Some(json!({ "error": {
        "kind": error.kind, "retry": error.retry, "message": error.message,
    }}));
    result
}

/// Returns the result of a run that has ended.
pub(super) fn run_result(run: &RunResponse, session: Option<&str>) -> CallToolResult {
    let mut content = Vec::new();
    let mut structured = Map::new();

    if let Some(session) = session {
        structured.insert("session".into(), session.into());
    }

    // The output as text, with the values where the code displayed them.
    let none = RunOutput::default();
    let output = run.output.as_ref().unwrap_or(&none);
    let mut stdout = StreamText::stdout(output);
    let mut stderr = StreamText::stderr(output);
    structured.insert("stdout".into(), stdout.whole().into());
    structured.insert("stdout_bytes".into(), output.stdout_bytes.into());
    structured.insert("stderr".into(), stderr.whole().into());
    structured.insert("stderr_bytes".into(), output.stderr_bytes.into());

    let mut values = Values::default();
    for (n, bundle) in output.results.iter().enumerate() {
        let blocks = values.add(bundle);
        if !blocks.is_empty()
            && let Some(position) = output.result_positions.get(n)
        {
            content.extend(stdout.take_until(position.stdout));
            content.extend(stderr.take_until(position.stderr));
        }
        content.extend(blocks);
    }
    content.extend(stdout.take_until(usize::MAX));
    content.extend(stderr.take_until(usize::MAX));

    let mut budget = FileBudget::new(values.images);
    structured.insert("values".into(), values.texts.into());

    // The files that were downloaded.

    if !output.files.is_empty() {
        let files: Vec<_> = output
            .files
            .iter()
            .map(|file| add_file(file, &mut budget, &mut content))
            .collect();
        structured.insert("files".into(), files.into());
    }

    let outcome = run.outcome.as_ref();
    if let Some(RunOutcome::Reported(outcome)) = outcome {
        add_downloads(&outcome.downloads, &mut content, &mut structured);
        // The versions that the request left open.
        if !outcome.packages.is_empty() {
            structured.insert("packages".into(), json!(outcome.packages));
        }
    }

    // How it ended.
    let exit_code = outcome.and_then(|outcome| outcome.exit_code());
    let end = describe_end(run);
    let is_success = exit_code == Some(0);

    if !is_success {
        content.push(ContentBlock::text(end.clone()));
    } else if content.is_empty() {
        content.push(ContentBlock::text("The code succeeded, without output."));
    }

    structured.insert("exit_code".into(), exit_code.into());
    structured.insert("ended_by".into(), outcome.map(|one| one.ended_by()).into());
    structured.insert("ended".into(), end.into());

    let mut result = if is_success {
        CallToolResult::success(content)
    } else {
        CallToolResult::error(content)
    };

    result.structured_content = Some(structured.into());

    result
}

/// The text of one stream, which is shown in parts: its start and its end, if it is long.
struct StreamText<'a> {
    /// What stands before each part.
    label: &'static str,
    text: Cow<'a, str>,
    /// The start and the end of the part that is left out.
    gap: Range<usize>,
    /// How much was shown.
    position: usize,
    /// Whether positions in the output are positions in the text.
    can_be_split: bool,
}

impl<'a> StreamText<'a> {
    fn stdout(output: &'a RunOutput) -> Self {
        let (text, bytes) = (&output.stdout, output.stdout_bytes);
        Self::new("", text, &output.stdout_encoding, bytes)
    }

    fn stderr(output: &'a RunOutput) -> Self {
        let (text, bytes) = (&output.stderr, output.stderr_bytes);
        Self::new("stderr:\n", text, &output.stderr_encoding, bytes)
    }

    fn new(label: &'static str, text: &'a str, encoding: &str, bytes: u64) -> Self {
        let is_binary = encoding == "base64";
        let text = if is_binary {
            format!("[{bytes} bytes of binary output]").into()
        } else {
            Cow::from(text)
        };

        Self {
            label,
            gap: gap(&text, MAX_TEXT_BYTES),
            text,
            position: 0,
            can_be_split: !is_binary,
        }
    }

    /// Returns the whole text, shortened.
    fn whole(&self) -> String {
        without_gap(&self.text, &self.gap)
    }

    /// Returns what was not shown yet of the text before `end`, shortened; none if that is nothing.
    fn take_until(&mut self, end: usize) -> Option<ContentBlock> {
        let end = if self.can_be_split {
            self.text.floor_char_boundary(end)
        } else {
            self.text.len()
        };
        if end <= self.position {
            return None;
        }

        let part = self.position..end;
        self.position = end;
        let gap = self.gap.start.max(part.start)..self.gap.end.min(part.end);
        let text = &self.text[part.clone()];
        let shown = if gap.is_empty() {
            text.to_owned()
        } else {
            without_gap(text, &(gap.start - part.start..gap.end - part.start))
        };
        Some(ContentBlock::text(format!("{}{shown}", self.label)))
    }
}

/// What the downloaded files of one result may still take together.
#[derive(Debug)]
struct FileBudget {
    /// Bytes of text.
    text: usize,
    /// Bytes of base64 of files that are no images.
    base64: usize,
    images: usize,
}

impl FileBudget {
    /// Returns the budget of a result that already has this many images.
    fn new(images: usize) -> Self {
        Self {
            text: MAX_TEXT_BYTES,
            base64: MAX_IMAGE_BYTES,
            images: MAX_IMAGES.saturating_sub(images),
        }
    }
}

/// Adds a downloaded file to the content, as far as the budget allows, and returns it as structured content.
fn add_file(file: &FileContent, budget: &mut FileBudget, content: &mut Vec<ContentBlock>) -> Value {
    let path = &file.path;

    if let Some(text) = file.text.as_deref()
        && (text.is_empty() || budget.text > 0)
    {
        let shown = truncate_to(text, budget.text);
        budget.text = budget.text.saturating_sub(text.len());
        content.push(ContentBlock::text(format!("{path}:\n{shown}")));
        return json!({ "path": path, "text": shown });
    }

    // A file that is too large for the rest of the result is only named.
    let base64 = file.base64.clone().unwrap_or_default();
    let image = image_type(path).filter(|_| file.text.is_none());
    match image {
        Some(mime_type) if budget.images > 0 && base64.len() <= MAX_IMAGE_BYTES => {
            budget.images -= 1;
            content.push(ContentBlock::image(base64, mime_type));
        }
        None if file.text.is_none() && base64.len() <= budget.base64 => {
            budget.base64 -= base64.len();
            content.push(ContentBlock::text(format!("{path}: [binary]")));
            return json!({ "path": path, "base64": base64 });
        }
        _ => {
            let bytes = match &file.text {
                Some(text) => text.len(),
                None => STANDARD.decode(&base64).map_or(0, |bytes| bytes.len()),
            };
            let note =
                format!("{path}: [{bytes} bytes do not fit into this result; use a session]");
            content.push(ContentBlock::text(note));
        }
    }

    json!({ "path": path })
}

/// Adds the results of the downloads, and a text for each that failed.
fn add_downloads(
    downloads: &[Download],
    content: &mut Vec<ContentBlock>,
    structured: &mut Map<String, Value>,
) {
    for download in downloads {
        if let Some(error) = &download.error {
            let remote = &download.remote;
            let text = format!("{remote}: not downloaded: {error}");
            content.push(ContentBlock::text(truncate_to(&text, MAX_ERROR_BYTES)));
        }
    }

    if !downloads.is_empty() {
        structured.insert("downloads".into(), json!(downloads));
    }
}

/// Returns the MIME type of an image by its file name.
pub(super) fn image_type(path: &str) -> Option<&'static str> {
    let (_, extension) = path.rsplit_once('.')?;
    match extension.to_ascii_lowercase().as_str() {
        "png" => Some("image/png"),
        "jpg" | "jpeg" => Some("image/jpeg"),
        "gif" => Some("image/gif"),
        "webp" => Some("image/webp"),
        _ => None,
    }
}

/// Returns how a run ended, as a sentence.
fn describe_end(run: &RunResponse) -> String {
    let Some(outcome) = &run.outcome else {
        return "The code has no outcome.".into();
    };

    let detail = outcome.detail();
    let detail = detail.map_or_else(String::new, |detail| format!(": {detail}"));
    match (outcome.ended_by(), outcome.exit_code()) {
        ("exited", Some(0)) => "The code succeeded.".into(),
        ("exited", Some(code)) => format!("The code failed with exit code {code}{detail}."),
        ("timeout", _) => format!("The code was stopped at its timeout{detail}."),
        ("out_of_memory", _) => {
            format!("The code was stopped because it ran out of memory{detail}.")
        }
        (ended_by, _) => format!("The code was stopped: {ended_by}{detail}."),
    }
}

/// The displayed values of a run, as far as a result has room for them.
#[derive(Debug, Default)]
struct Values {
    texts: Vec<String>,
    /// Bytes of `texts`.
    bytes: usize,
    images: usize,
}

impl Values {
    /// Adds a value. Returns the blocks that show it: its text, its image, both or none.
    fn add(&mut self, bundle: &Value) -> Vec<ContentBlock> {
        let mut blocks = Vec::new();

        let text = bundle.get("text/plain").and_then(Value::as_str);
        let text = text
            .map(str::to_owned)
            .or_else(|| bundle.get("application/json").map(Value::to_string));
        if let Some(text) = text.filter(|_| self.bytes < MAX_TEXT_BYTES) {
            let text = truncate(&text);
            self.bytes += text.len();
            blocks.push(ContentBlock::text(text.clone()));
            self.texts.push(text);
        }

        let image = IMAGE_TYPES.iter().find_map(|mime_type| {
            let data = bundle.get(mime_type)?.as_str()?;
            let data: String = data.split_ascii_whitespace().collect();
            (data.len() <= MAX_IMAGE_BYTES).then(|| ContentBlock::image(data, *mime_type))
        });
        if let Some(image) = image.filter(|_| self.images < MAX_IMAGES) {
            self.images += 1;
            blocks.push(image);
        }

        blocks
    }
}

/// Shortens a long text to its start and its end, with a note of how much is left out between them.
fn truncate(text: &str) -> String {
    truncate_to(text, MAX_TEXT_BYTES)
}

/// The same, to a length in bytes, the note excluded.
fn truncate_to(text: &str, max_bytes: usize) -> String {
    without_gap(text, &gap(text, max_bytes))
}

/// Returns the range in the middle of a text that is left out to shorten it; an empty one if it is short.
fn gap(text: &str, max_bytes: usize) -> Range<usize> {
    if text.len() <= max_bytes {
        return 0..0;
    }

    let half = max_bytes / 2;
    text.floor_char_boundary(half)..text.ceil_char_boundary(text.len() - half)
}

/// Returns a text with a note in the place of a range.
fn without_gap(text: &str, gap: &Range<usize>) -> String {
    if gap.is_empty() {
        return text.to_owned();
    }

    format!(
        "{}\n[… {} bytes are left out …]\n{}",
        &text[..gap.start],
        gap.len(),
        &text[gap.end..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::responses::{OutputPosition, RunKind, RunState};

    fn ended_run() -> RunResponse {
        RunResponse {
            id: "run_1".into(),
            sandbox: None,
            kind: RunKind::Code,
            state: RunState::Ended,
            created_at: String::new(),
            ended_at: None,
            outcome: None,
            output: None,
            error: None,
        }
    }

    #[test]
    fn a_text_at_the_limit_is_whole_and_one_past_it_is_truncated() {
        let whole = "é".repeat(MAX_TEXT_BYTES / 2);
        assert_eq!(truncate(&whole), whole);
        let long = format!("{whole}x");
        let shown = truncate(&long);
        assert!(
            shown.starts_with('é') && shown.ends_with('x'),
            "{shown:.20}"
        );
        assert!(shown.contains("bytes are left out"));
        assert!(shown.len() < MAX_TEXT_BYTES + 64);
    }

    #[test]
    fn images_are_images_and_large_ones_are_left_out() {
        let small = json!({ "text/plain": "<Figure>", "image/png": "iVBO\nRw==" });
        let large = json!({ "image/png": "A".repeat(MAX_IMAGE_BYTES + 1) });
        let mut values = Values::default();
        let blocks = values.add(&small);
        assert!(values.add(&large).is_empty());
        assert_eq!((values.texts, values.images), (vec!["<Figure>".into()], 1));
        assert_eq!(blocks.len(), 2);
        let image = serde_json::to_value(&blocks[1]).unwrap();
        assert_eq!(image["data"], "iVBORw==");
        assert_eq!(image["mimeType"], "image/png");
    }

    #[test]
    fn values_stand_where_they_were_displayed() {
        let long = "é".repeat(MAX_TEXT_BYTES);
        let position = |stdout, stderr| OutputPosition { stdout, stderr };
        let output = RunOutput {
            stdout: format!("one\n{long}two\n"),
            stdout_encoding: "utf-8".into(),
            stderr: "warning\n".into(),
            stderr_encoding: "utf-8".into(),
            results: [1, 2, 3]
                .map(|n| json!({ "text/plain": n.to_string() }))
                .to_vec(),
            result_positions: vec![position(4, 0), position(4, 8), position(long.len() + 4, 8)],
            ..RunOutput::default()
        };
        let run = RunResponse {
            output: Some(output),
            ..ended_run()
        };

        let result = run_result(&run, None);
        let texts: Vec<_> = (result.content.iter())
            .map(|block| serde_json::to_value(block).unwrap()["text"].clone())
            .map(|text| text.as_str().unwrap().to_owned())
            .collect();
        let [one, first, warning, second, middle, third, end, ..] = &texts[..] else {
            panic!("{texts:?}");
        };
        assert_eq!((&**one, &**first), ("one\n", "1"));
        assert_eq!((&**warning, &**second), ("stderr:\nwarning\n", "2"));
        assert!(middle.contains("bytes are left out") && middle.ends_with('é'));
        assert!(middle.len() < MAX_TEXT_BYTES + 64);
        assert_eq!((&**third, &**end), ("3", "two\n"));

        let structured = result.structured_content.unwrap();
        assert_eq!(structured["values"], json!(["1", "2", "3"]));
        let stdout = structured["stdout"].as_str().unwrap();
        assert!(stdout.starts_with("one\n") && stdout.ends_with("two\n"));
    }

    #[test]
    fn downloaded_files_are_text_images_or_base64() {
        let (mut content, mut budget) = (Vec::new(), FileBudget::new(0));
        let mut add = |path: &str, bytes: &[u8]| {
            add_file(
                &FileContent::new(path.into(), bytes),
                &mut budget,
                &mut content,
            )
        };
        assert_eq!(add("a", b"x"), json!({ "path": "a", "text": "x" }));
        assert_eq!(add("b", b"\xff"), json!({ "path": "b", "base64": "/w==" }));
        assert_eq!(add("c.png", b"\xff"), json!({ "path": "c.png" }));
        let image = serde_json::to_value(&content[2]).unwrap();
        assert_eq!(image["mimeType"], "image/png");
    }

    #[test]
    fn downloaded_files_share_the_space_of_a_result() {
        let (mut content, mut budget) = (Vec::new(), FileBudget::new(MAX_IMAGES - 1));
        let mut add = |path: &str, bytes: &[u8]| {
            add_file(
                &FileContent::new(path.into(), bytes),
                &mut budget,
                &mut content,
            )
        };

        let text = "x".repeat(MAX_TEXT_BYTES - 10);
        assert_eq!(add("a", text.as_bytes())["text"], text);
        let second = add("b", text.as_bytes());
        assert!(second["text"].as_str().unwrap().len() < 100, "{second}");
        assert_eq!(add("c", b"x"), json!({ "path": "c" }));

        let binary = vec![0xff; MAX_IMAGE_BYTES / 2];
        assert!(add("d", &binary)["base64"].is_string());
        assert_eq!(add("e", &binary), json!({ "path": "e" }));

        add("f.png", b"\xff");
        add("g.png", b"\xff");
        let blocks: Vec<_> = content
            .iter()
            .map(|block| serde_json::to_value(block).unwrap())
            .collect();
        let images = blocks.iter().filter(|block| block["type"] == "image");
        assert_eq!(images.count(), 1);
        assert!(blocks[2]["text"].as_str().unwrap().contains("do not fit"));
        assert!(blocks[6]["text"].as_str().unwrap().contains("do not fit"));
    }

    #[test]
    fn failed_downloads_are_reported() {
        let download = |json: Value| serde_json::from_value::<Download>(json).unwrap();
        let downloads = [
            download(json!({ "remote": "a", "bytes": 1 })),
            download(json!({ "remote": "b", "error": "no such file" })),
        ];

        let (mut content, mut structured) = (Vec::new(), Map::new());
        add_downloads(&downloads, &mut content, &mut structured);
        assert_eq!(content.len(), 1);
        let block = serde_json::to_value(&content[0]).unwrap();
        assert_eq!(block["text"], "b: not downloaded: no such file");
        assert_eq!(structured["downloads"], json!(downloads));
    }
}
