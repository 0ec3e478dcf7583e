//! The part of the entry points for `fuzz/` that needs the parameters of tools.

use serde_json::Value;

use super::params;
use super::tools::sandbox_run_request;
use crate::api::requests::{UploadRequest, file_content};

/// Parses the parameters of every tool, and converts them.
pub(crate) fn parse_params(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };

    if let Ok(run) = serde_json::from_value::<params::RunCode>(value.clone())
        && let Ok(request) = sandbox_run_request(run)
    {
        let _ = request.to_run_request();
    }
    if let Ok(upload) = serde_json::from_value::<params::Upload>(value.clone()) {
        let upload = UploadRequest::from(upload);
        let _ = file_content(upload.text.as_deref(), upload.base64.as_deref());
    }
    if let Ok(file) = serde_json::from_value::<params::WriteFile>(value.clone()) {
        let _ = file_content(file.text.as_deref(), file.base64.as_deref());
    }

    // These are not converted before a session is looked up.
    let _ = serde_json::from_value::<params::StartSession>(value.clone());
    let _ = serde_json::from_value::<params::EndSession>(value.clone());
    let _ = serde_json::from_value::<params::ListSessions>(value.clone());
    let _ = serde_json::from_value::<params::ReadFile>(value.clone());
    let _ = serde_json::from_value::<params::ListFiles>(value.clone());
    let _ = serde_json::from_value::<params::InstallPackages>(value);
}
