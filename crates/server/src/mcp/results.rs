//! The results of tools: text within bounds, images as images, and the same as structured content.

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

    // The output, as text.
    let none = RunOutput::default();
    let output = run.output.as_ref().unwrap_or(&none);
    let stdout = stream_text(&output.stdout, &output.stdout_encoding, output.stdout_bytes);
    let stderr = stream_text(&output.stderr, &output.stderr_encoding, output.stderr_bytes);

    if !stdout.is_empty() {
        content.push(ContentBlock::text(stdout.clone()));
    }

    if !stderr.is_empty() {
        content.push(ContentBlock::text(format!("stderr:\n{stderr}")));
    }

    structured.insert("stdout".into(), stdout.into());
    structured.insert("stdout_bytes".into(), output.stdout_bytes.into());
    structured.insert("stderr".into(), stderr.into());
    structured.insert("stderr_bytes".into(), output.stderr_bytes.into());

    // The values that the code displayed, and the files that were downloaded.
    let (values, images) = split_values(&output.results);
    content.extend(values.iter().map(|value| ContentBlock::text(value.clone())));
    let mut budget = FileBudget::new(images.len());
    content.extend(images);
    structured.insert("values".into(), values.into());

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

fn stream_text(text: &str, encoding: &str, bytes: u64) -> String {
    if encoding == "base64" {
        format!("[{bytes} bytes of binary output]")
    } else {
        truncate(text)
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

/// Splits displayed values into texts and images. A value can be both.
fn split_values(results: &[Value]) -> (Vec<String>, Vec<ContentBlock>) {
    let (mut texts, mut images) = (Vec::new(), Vec::new());
    let mut remaining = MAX_TEXT_BYTES;

    for bundle in results {
        let image = IMAGE_TYPES.iter().find_map(|mime_type| {
            let data = bundle.get(mime_type)?.as_str()?;
            let data: String = data.split_ascii_whitespace().collect();
            (data.len() <= MAX_IMAGE_BYTES).then(|| ContentBlock::image(data, *mime_type))
        });

        if images.len() < MAX_IMAGES {
            images.extend(image);
        }

        let text = bundle.get("text/plain").and_then(Value::as_str);
        let text = text
            .map(str::to_owned)
            .or_else(|| bundle.get("application/json").map(Value::to_string));

        if let Some(text) = text.filter(|_| remaining > 0) {
            let text = truncate(&text);
            remaining = remaining.saturating_sub(text.len());
            texts.push(text);
        }
    }

    (texts, images)
}

/// Shortens a long text to its start and its end, with a note of how much is left out between them.
fn truncate(text: &str) -> String {
    truncate_to(text, MAX_TEXT_BYTES)
}

/// The same, to a length in bytes, the note excluded.
fn truncate_to(text: &str, max_bytes: usize) -> String {
    if text.len() <= max_bytes {
        return text.to_owned();
    }

    let half = max_bytes / 2;
    let start = text.floor_char_boundary(half);
    let end = text.ceil_char_boundary(text.len() - half);

    format!(
        "{}\n[… {} bytes are left out …]\n{}",
        &text[..start],
        end - start,
        &text[end..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let (texts, images) = split_values(&[small, large]);
        assert_eq!(texts, ["<Figure>"]);
        assert_eq!(images.len(), 1);
        let image = serde_json::to_value(&images[0]).unwrap();
        assert_eq!(image["data"], "iVBORw==");
        assert_eq!(image["mimeType"], "image/png");
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
