//! The tools for files in a session.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fumehood_engine::{FileInfo, FileKind, WriteOptions};
use rmcp::RoleServer;
use rmcp::model::{CallToolResult, ContentBlock};
use rmcp::service::RequestContext;
use serde_json::json;

use super::params;
use super::results::{image_type, succeeded};
use super::tools::Tools;
use crate::api::requests::file_content;
use crate::error::ApiError;

/// The default number of bytes in one read.
const DEFAULT_READ_BYTES: u64 = 64 * 1024;

/// The number of bytes in one read, at most.
const MAX_READ_BYTES: u64 = 1024 * 1024;

/// The directory entries in one result, at most.
const MAX_ENTRIES: usize = 500;

impl Tools {
    pub(super) async fn write(
        &self,
        params: params::WriteFile,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ApiError> {
        let owner = self.owner(context)?;
        let bytes = file_content(params.text.as_deref(), params.base64.as_deref())?;
        let len = bytes.len();

        let sandbox = self.service.sandbox(&owner, &params.session).await?;
        let files = sandbox.engine_sandbox().files();
        let options = WriteOptions {
            parents: true,
            ..WriteOptions::default()
        };

        let written = files.write_with_options(&params.path, bytes, options);
        written.await.map_err(|error| sandbox.to_api_error(error))?;

        let text = format!("Wrote {len} bytes to {}.", params.path);
        let structured = json!({ "path": params.path, "bytes": len });

        Ok(succeeded(text, structured))
    }

    pub(super) async fn read(
        &self,
        params: params::ReadFile,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ApiError> {
        let owner = self.owner(context)?;
        let sandbox = self.service.sandbox(&owner, &params.session).await?;
        let files = sandbox.engine_sandbox().files();
        let to_api_error = |error| sandbox.to_api_error(error);

        // An image is read as a whole unless a part is requested.
        let info = files.stat(&params.path).await.map_err(to_api_error)?;
        let is_part = params.offset != 0 || params.bytes.is_some();
        let image = image_type(&params.path).filter(|_| !is_part);

        let default_len = match image {
            Some(_) => MAX_READ_BYTES,
            None => DEFAULT_READ_BYTES,
        };

        let len = params.bytes.unwrap_or(default_len);
        if !(1..=MAX_READ_BYTES).contains(&len) {
            let message = format!(
                "`bytes` is {len}; it must be between 1 and {MAX_READ_BYTES}; read a larger file in parts"
            );
            return Err(ApiError::invalid(message));
        }

        // One extra byte shows whether there is more: the metadata of a link, or of a file in /proc, does not.
        let read = files.read_range(&params.path, params.offset, len + 1);
        let mut bytes = read.await.map_err(to_api_error)?;
        let has_more = bytes.len() as u64 > len;

        if has_more {
            bytes.truncate(usize::try_from(len).unwrap_or(usize::MAX));
            bytes.truncate(complete_characters_len(&bytes));
        }

        // The size is unknown if neither the end was read nor the metadata is that of a regular file.
        let end = params.offset.saturating_add(bytes.len() as u64);
        let size = match info.kind {
            _ if !has_more && !bytes.is_empty() => Some(end),
            FileKind::File => Some(info.size),
            _ if !has_more && params.offset == 0 => Some(0),
            _ => None,
        };

        let is_complete = params.offset == 0 && !has_more;
        let mut structured = json!({
            "path": params.path, "size": size, "offset": params.offset, "bytes": bytes.len(),
            "complete": is_complete,
        });

        let block = match (image, std::str::from_utf8(&bytes)) {
            (Some(mime_type), _) if is_complete => {
                ContentBlock::image(STANDARD.encode(&bytes), mime_type)
            }
            (_, Ok(text)) => {
                structured["text"] = text.into();
                ContentBlock::text(text)
            }
            (_, Err(_)) => {
                let base64 = STANDARD.encode(&bytes);
                structured["base64"] = base64.clone().into();
                ContentBlock::text(base64)
            }
        };

        let mut content = vec![block];
        if has_more {
            let size = size.map_or("more".to_owned(), |size| size.to_string());
            let note = format!("[bytes {} to {end} of {size}]", params.offset);
            content.push(ContentBlock::text(note));
        }

        let mut result = CallToolResult::success(content);
        result.structured_content = Some(structured);

        Ok(result)
    }

    pub(super) async fn list(
        &self,
        params: params::ListFiles,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ApiError> {
        let owner = self.owner(context)?;
        let sandbox = self.service.sandbox(&owner, &params.session).await?;
        let files = sandbox.engine_sandbox().files();
        let path = params.path.as_deref().unwrap_or(".");
        let listed = files.list_recursive(path, params.depth.unwrap_or(1)).await;
        let mut entries = listed.map_err(|error| sandbox.to_api_error(error))?;

        let count = entries.len();
        entries.truncate(MAX_ENTRIES);
        let mut lines: Vec<_> = entries
            .iter()
            .map(|entry| format!("{} {} {}", kind_name(entry), entry.size, entry.path))
            .collect();

        if count > entries.len() {
            lines.push(format!("[{} more]", count - entries.len()));
        }

        let text = if lines.is_empty() {
            format!("{path} is empty.")
        } else {
            lines.join("\n")
        };

        let entries: Vec<_> = entries
            .iter()
            .map(
                |entry| json!({ "path": entry.path, "kind": kind_name(entry), "size": entry.size }),
            )
            .collect();

        Ok(succeeded(
            text,
            json!({ "entries": entries, "count": count }),
        ))
    }
}

/// Returns the length of `bytes` without an incomplete UTF-8 character at the end. Bytes that are not UTF-8, or only the
/// start of one character, count in full.
fn complete_characters_len(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => error.valid_up_to(),
        _ => bytes.len(),
    }
}

fn kind_name(file: &FileInfo) -> &'static str {
    match file.kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Link => "link",
        FileKind::Other => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incomplete_character_is_left_for_the_next_part() {
        assert_eq!(complete_characters_len("aä".as_bytes()), 3);
        assert_eq!(complete_characters_len(&"aä".as_bytes()[..2]), 1);
        assert_eq!(complete_characters_len(&"ä".as_bytes()[..1]), 1);
        assert_eq!(complete_characters_len(&[b'a', 0xff, b'b', 0xc3]), 4);
    }
}
