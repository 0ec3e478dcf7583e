//! What a model gets to read: text within bounds, images as images, and the same as structured content.

use rmcp::model::{CallToolResult, ContentBlock};
use serde_json::{Map, Value, json};

use crate::api::responses::{RunOutput, RunResponse};
use crate::error::ApiError;

/// The most of one stream of output that a model is given, in bytes: some 10,000 tokens. More is in a file, if the
/// code writes it to one.
const MAX_TEXT_BYTES: usize = 32 * 1024;

/// The most images in one answer.
const MAX_IMAGES: usize = 8;

/// The most of one image, in bytes of base64.
const MAX_IMAGE_BYTES: usize = 4 * 1024 * 1024;

/// Kinds of images that clients show.
const IMAGE_TYPES: [&str; 4] = ["image/png", "image/jpeg", "image/gif", "image/webp"];

/// Something that was done.
pub(super) fn succeeded(text: impl Into<String>, structured: Value) -> CallToolResult {
    let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
    result.structured_content = Some(structured);
    result
}

/// Something that was not done, and why: for the model to read.
pub(super) fn failed(error: &ApiError) -> CallToolResult {
    let mut result = CallToolResult::error(vec![ContentBlock::text(&*error.message)]);
    let kind = error.kind.as_str();
    result.structured_content = Some(json!({ "error": {
        "kind": kind, "retry": error.retry, "message": error.message,
    }}));
    result
}

/// A run that has ended.
pub(super) fn run_result(view: &RunResponse, session: Option<&str>) -> CallToolResult {
    let none = RunOutput::default();
    let output = view.output.as_ref().unwrap_or(&none);
    let streams = [
        (
            "stdout",
            &output.stdout,
            &output.stdout_encoding,
            output.stdout_bytes,
        ),
        (
            "stderr",
            &output.stderr,
            &output.stderr_encoding,
            output.stderr_bytes,
        ),
    ];
    let mut content = Vec::new();
    let mut structured = Map::new();
    if let Some(session) = session {
        structured.insert("session".into(), session.into());
    }
    for (name, text, encoding, bytes) in streams {
        let shown = match encoding.as_str() {
            "base64" => format!("[{bytes} bytes that are no text]"),
            _ => truncate(text),
        };
        if !shown.is_empty() {
            let labelled = match name {
                "stdout" => shown.clone(),
                _ => format!("{name}:\n{shown}"),
            };
            content.push(ContentBlock::text(labelled));
        }
        structured.insert(name.into(), shown.into());
        structured.insert(format!("{name}_bytes"), bytes.into());
    }
    let (split_values, images) = split_values(&output.results);
    content.extend(
        split_values
            .iter()
            .map(|value| ContentBlock::text(value.clone())),
    );
    content.extend(images);
    structured.insert("values".into(), split_values.into());
    let describe_end = describe_end(view);
    let is_good = view.outcome.exit_code == Some(0);
    if content.is_empty() && is_good {
        content.push(ContentBlock::text("The code ended well, without output."));
    } else if !is_good {
        content.push(ContentBlock::text(describe_end.clone()));
    }
    structured.insert("exit_code".into(), view.outcome.exit_code.into());
    structured.insert("ended_by".into(), view.outcome.ended_by.clone().into());
    structured.insert("ended".into(), describe_end.into());
    let mut result = match is_good {
        true => CallToolResult::success(content),
        false => CallToolResult::error(content),
    };
    result.structured_content = Some(structured.into());
    result
}

/// How it ended, in a line.
fn describe_end(view: &RunResponse) -> String {
    let outcome = &view.outcome;
    let detail = outcome
        .evidence
        .as_ref()
        .and_then(|evidence| evidence.get("detail"));
    let detail = detail
        .and_then(Value::as_str)
        .map(|detail| format!(": {detail}"));
    let detail = detail.unwrap_or_default();
    match (outcome.ended_by.as_deref(), outcome.exit_code) {
        (Some("exited"), Some(0)) => "The code ended well.".into(),
        (Some("exited"), Some(code)) => format!("The code ended with exit code {code}{detail}."),
        (Some("timeout"), _) => format!("The code was ended at its timeout{detail}."),
        (Some("out_of_memory"), _) => format!("The code was ended for want of memory{detail}."),
        (Some(by), _) => format!("The code was ended by {by}{detail}."),
        (None, _) => format!("The code has no outcome{detail}."),
    }
}

/// Values as texts, and those that are images.
fn split_values(results: &[Value]) -> (Vec<String>, Vec<ContentBlock>) {
    let (mut texts, mut images) = (Vec::new(), Vec::new());
    let mut remaining = MAX_TEXT_BYTES;
    for bundle in results {
        let image = IMAGE_TYPES.iter().find_map(|kind| {
            let data = bundle.get(kind)?.as_str()?;
            let data: String = data.split_ascii_whitespace().collect();
            (data.len() <= MAX_IMAGE_BYTES).then(|| ContentBlock::image(data, *kind))
        });
        let is_shown = image.is_some() && images.len() < MAX_IMAGES;
        images.extend(image.filter(|_| is_shown));
        let text = bundle.get("text/plain").and_then(Value::as_str);
        let text = text.map(str::to_owned).or_else(|| {
            let json = bundle.get("application/json")?;
            Some(json.to_string())
        });
        if let Some(text) = text.filter(|_| remaining > 0) {
            let text = truncate(&text);
            remaining = remaining.saturating_sub(text.len());
            texts.push(text);
        }
    }
    (texts, images)
}

/// A text within the bound: its beginning and its end, and how much lies between.
pub(super) fn truncate(text: &str) -> String {
    if text.len() <= MAX_TEXT_BYTES {
        return text.to_owned();
    }
    let half = MAX_TEXT_BYTES / 2;
    let (first, last) = (
        text.floor_char_boundary(half),
        text.ceil_char_boundary(text.len() - half),
    );
    let left_out = last - first;
    format!(
        "{}\n[… {left_out} bytes are left out …]\n{}",
        &text[..first],
        &text[last..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_at_the_bound_is_whole_and_one_past_it_is_cut() {
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
    fn images_are_images_and_what_is_too_large_is_none() {
        let small = json!({ "text/plain": "<Figure>", "image/png": "iVBO\nRw==" });
        let large = json!({ "image/png": "A".repeat(MAX_IMAGE_BYTES + 1) });
        let (texts, images) = split_values(&[small, large]);
        assert_eq!(texts, ["<Figure>"]);
        assert_eq!(images.len(), 1);
        let image = serde_json::to_value(&images[0]).unwrap();
        assert_eq!(image["data"], "iVBORw==");
        assert_eq!(image["mimeType"], "image/png");
    }
}
