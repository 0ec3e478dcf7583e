use fumehood_protocol::EndedBy;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};
use crate::run::{Event, Run};

/// A package that is installed in a sandbox, as its tool names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledPackage {
    /// Its name.
    pub name: String,
    /// Its version, exactly.
    pub version: String,
}

/// The most of what a tool says that goes into an error, in bytes, from its end.
const WORDS_BYTES: usize = 4000;

/// Follows an installation to its end.
pub(crate) async fn installed(mut run: Run) -> Result<Vec<InstalledPackage>, Error> {
    let mut packages = None;
    let mut words = Vec::new();
    while let Some(event) = run.next().await {
        match event {
            Event::Result(value) => {
                let list = value.get("application/json").unwrap_or_default();
                packages = serde_json::from_value(list).ok();
            }
            Event::Stdout(bytes) | Event::Stderr(bytes) => {
                words.extend_from_slice(&bytes);
                let past = words.len().saturating_sub(WORDS_BYTES);
                words.drain(..past);
            }
            _ => {}
        }
    }
    let outcome = run.outcome().await?;
    match (outcome.ended_by, outcome.exit_code, packages) {
        (EndedBy::Exited, Some(0), Some(packages)) => Ok(packages),
        (EndedBy::AgentLost, ..) => {
            let detail = outcome.evidence.detail.unwrap_or_default();
            Err(Error::new(ErrorKind::Lost, detail).after_start())
        }
        (ended_by, ..) => {
            let said = String::from_utf8_lossy(&words);
            let message = format!(
                "the packages were not installed ({ended_by}): {}",
                said.trim()
            );
            Err(Error::new(ErrorKind::Invalid, message))
        }
    }
}
