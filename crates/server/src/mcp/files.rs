//! Files of a session, as a model writes and reads them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fumehood_engine::{FileInfo, FileKind};
use rmcp::RoleServer;
use rmcp::model::{CallToolResult, ContentBlock};
use rmcp::service::RequestContext;
use serde_json::json;

use super::params;
use super::results::done;
use super::tools::Tools;
use crate::error::ApiError;

/// What one read gives unless more is asked for, in bytes.
const READ_BYTES: u64 = 64 * 1024;

/// The most that one read gives, in bytes.
const MOST_READ_BYTES: u64 = 1024 * 1024;

/// Entries of a directory that a model is shown.
const MOST_ENTRIES: usize = 500;

impl Tools {
    pub(super) async fn write(
        &self,
        asked: params::WriteFile,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ApiError> {
        let owner = self.owner(context)?;
        let bytes = match (asked.text, asked.base64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(text)) => {
                let text: String = text.split_ascii_whitespace().collect();
                let wrong = |error| ApiError::invalid(format!("`base64` is none: {error}"));
                STANDARD.decode(text).map_err(wrong)?
            }
            _ => {
                return Err(ApiError::invalid(
                    "give the content as `text` or as `base64`, one of them",
                ));
            }
        };
        let sandbox = self.service.sandbox(&owner, &asked.session)?;
        let len = bytes.len();
        let options = fumehood_engine::WriteOptions {
            parents: true,
            ..Default::default()
        };
        let files = sandbox.handle().files();
        let written = files.write_with_options(&asked.path, bytes, options).await;
        written.map_err(|error| sandbox.explain(error))?;
        let structured = json!({ "path": asked.path, "bytes": len });
        Ok(done(format!("{} has {len} bytes.", asked.path), structured))
    }

    pub(super) async fn read(
        &self,
        asked: params::ReadFile,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ApiError> {
        let owner = self.owner(context)?;
        let sandbox = self.service.sandbox(&owner, &asked.session)?;
        let files = sandbox.handle().files();
        let failed = |error| sandbox.explain(error);
        let found = files.stat(&asked.path).await.map_err(failed)?;
        let image = image_kind(&asked.path).filter(|_| asked.offset == 0 && asked.bytes.is_none());
        let usual = match image {
            Some(_) => MOST_READ_BYTES,
            None => READ_BYTES,
        };
        let len = asked.bytes.unwrap_or(usual);
        if !(1..=MOST_READ_BYTES).contains(&len) {
            let message = format!(
                "`bytes` is {len}; 1 to {MOST_READ_BYTES} are allowed; read a larger file in parts"
            );
            return Err(ApiError::invalid(message));
        }
        // One more says whether there is more: what `stat` says of a link, or of a file in /proc, is not that.
        let mut bytes = files
            .read_range(&asked.path, asked.offset, len + 1)
            .await
            .map_err(failed)?;
        let has_more = bytes.len() as u64 > len;
        if has_more {
            bytes.truncate(usize::try_from(len).unwrap_or(usize::MAX));
            bytes.truncate(whole_characters(&bytes));
        }
        let end = asked.offset.saturating_add(bytes.len() as u64);
        // Of a link whose end was not seen, the size is not known.
        let size = match found.kind {
            _ if !has_more && !bytes.is_empty() => Some(end),
            FileKind::File => Some(found.size),
            _ if !has_more && asked.offset == 0 => Some(0),
            _ => None,
        };
        let is_all = asked.offset == 0 && !has_more;
        let mut structured = json!({
            "path": asked.path, "size": size, "offset": asked.offset, "bytes": bytes.len(), "is_all": is_all,
        });
        let content = match (image, std::str::from_utf8(&bytes)) {
            (Some(kind), _) if is_all => ContentBlock::image(STANDARD.encode(&bytes), kind),
            (_, Ok(text)) => {
                structured["text"] = text.into();
                ContentBlock::text(text)
            }
            (_, Err(_)) => {
                let text = STANDARD.encode(&bytes);
                structured["base64"] = text.clone().into();
                ContentBlock::text(text)
            }
        };
        let mut content = vec![content];
        if has_more {
            let of = size.map_or("more".to_owned(), |size| size.to_string());
            content.push(ContentBlock::text(format!(
                "[bytes {} to {end} of {of}]",
                asked.offset
            )));
        }
        let mut result = CallToolResult::success(content);
        result.structured_content = Some(structured);
        Ok(result)
    }

    pub(super) async fn list(
        &self,
        asked: params::ListFiles,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ApiError> {
        let owner = self.owner(context)?;
        let sandbox = self.service.sandbox(&owner, &asked.session)?;
        let files = sandbox.handle().files();
        let path = asked.path.as_deref().unwrap_or(".");
        let found = files.list_recursive(path, asked.depth.unwrap_or(1)).await;
        let mut found = found.map_err(|error| sandbox.explain(error))?;
        let count = found.len();
        found.truncate(MOST_ENTRIES);
        let mut lines: Vec<_> = found
            .iter()
            .map(|one| format!("{} {} {}", kind(one), one.size, one.path))
            .collect();
        if count > found.len() {
            lines.push(format!("[{} more]", count - found.len()));
        }
        let entries = found
            .iter()
            .map(|one| json!({ "path": one.path, "kind": kind(one), "size": one.size }));
        let structured = json!({ "entries": entries.collect::<Vec<_>>(), "count": count });
        let text = match lines.is_empty() {
            true => format!("{path} is empty."),
            false => lines.join("\n"),
        };
        Ok(done(text, structured))
    }
}

/// How many of these bytes are text up to the last whole character; all of them if they are none, or not even one
/// character. The rest is the beginning of a character that was cut.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => error.valid_up_to(),
        _ => bytes.len(),
    }
}

fn kind(file: &FileInfo) -> &'static str {
    match file.kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Link => "link",
        FileKind::Other => "other",
    }
}

/// The kind of image that a file is by its name.
fn image_kind(path: &str) -> Option<&'static str> {
    let (_, extension) = path.rsplit_once('.')?;
    match extension.to_ascii_lowercase().as_str() {
        "png" => Some("image/png"),
        "jpg" | "jpeg" => Some("image/jpeg"),
        "gif" => Some("image/gif"),
        "webp" => Some("image/webp"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_character_is_left_for_the_next_part() {
        assert_eq!(whole_characters("aä".as_bytes()), 3);
        assert_eq!(whole_characters(&"aä".as_bytes()[..2]), 1);
        assert_eq!(whole_characters(&"ä".as_bytes()[..1]), 1);
        assert_eq!(whole_characters(&[b'a', 0xff, b'b', 0xc3]), 4);
    }
}
