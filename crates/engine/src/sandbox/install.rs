use std::time::Duration;

use fumehood_protocol::{ActionTag, EndedBy, InstallPackages, Language, Request};
use serde::{Deserialize, Serialize};

use super::sandbox::{Sandbox, invalid};
use crate::error::{Error, ErrorKind};
use crate::run::{Beginning, Event, Run};

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

impl Sandbox {
    /// Installs packages for Python (by uv) or JavaScript (by bun), each with a version specifier as its
    /// package index takes it (`six==1.16.0`, `lodash@^4`), into the user's home; contexts find them at
    /// once. Returns all that are installed then, in the versions that were resolved. Takes 300 s at most.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a package that is not allowed, and, with the
    /// tool's own words, for one that is not to be had; [`ErrorKind::Lost`](crate::ErrorKind::Lost).
    pub async fn install(
        &self,
        language: Language,
        packages: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Vec<InstalledPackage>, Error> {
        let install = InstallPackages {
            action: ActionTag,
            op_id: None,
            language,
            packages: packages.into_iter().map(Into::into).collect(),
            timeout: None,
            credit: None,
        };
        let (_, timeout_s) = install.check(self.limits()).map_err(invalid)?;
        let (operation, busy) = self.operate(None, |op_id, credit| {
            Request::InstallPackages(InstallPackages {
                op_id: Some(op_id),
                credit: Some(credit),
                ..install
            })
        })?;
        let begun = self.begun(
            operation,
            Some(Duration::from_secs(timeout_s)),
            Beginning::Now,
        );
        installed(self.drive(begun, busy)).await
    }
}

/// Follows an installation to its end.
async fn installed(mut run: Run) -> Result<Vec<InstalledPackage>, Error> {
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
