use std::time::Duration;

use fumehood_gateway::Denial;
use fumehood_protocol::{ActionTag, EndedBy, InstallPackages, Language, Request};

use super::sandbox::{Sandbox, invalid};
use crate::error::{Error, ErrorKind};
use crate::packages::{InstalledPackage, with_specifier};
use crate::run::{Event, ExpectedStart, Run};

/// Maximum output of the package manager in an error message, in bytes, from its end.
const MAX_MESSAGE_BYTES: usize = 4000;

impl Sandbox {
    /// Installs packages for Python (with uv) or JavaScript (with bun) into the user's home, each with a version
    /// specifier of its package index (`six==1.16.0`, `lodash@^4`); without one, the newest version unless one is
    /// installed. Running contexts find them at once. Returns all installed packages with their resolved versions. The
    /// timeout is 300 s.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] for a package that is not allowed or, with the output of the package manager,
    /// could not be installed, and at once if no index can be reached, because the sandbox has no network and its user
    /// has configured no index within it. Returns [`ErrorKind::Lost`].
    pub async fn install(
        &self,
        language: Language,
        packages: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Vec<InstalledPackage>, Error> {
        let install = InstallPackages {
            action: ActionTag,
            op_id: None,
            language,
            packages: packages
                .into_iter()
                .map(|package| with_specifier(&package.into(), language).into_owned())
                .collect(),
            timeout: None,
            credit: None,
        };

        let (_, timeout_s) = install.check(self.limits()).map_err(invalid)?;
        self.check_index_is_reachable(language).await?;
        let denials = self.denials();

        // The guest runs the package manager; its output is bounded like that of a program.
        let (operation, guard) = self.start_operation(None, |op_id, credit| {
            Request::InstallPackages(InstallPackages {
                op_id: Some(op_id),
                credit: Some(credit),
                ..install
            })
        })?;

        let timeout = Some(Duration::from_secs(timeout_s));
        let driver = self.driver(operation, timeout, ExpectedStart::Immediate);

        let installed = installed_packages(self.drive(driver, guard)).await;
        installed.map_err(|error| self.explain_denial(error, &denials, language))
    }
}

impl Sandbox {
    /// Checks that a package manager can reach some index: over the network, or one within the guest. It would find out
    /// only after 10 s of attempts to resolve the name of its default index.
    async fn check_index_is_reachable(&self, language: Language) -> Result<(), Error> {
        if self.active_network().is_some() {
            return Ok(());
        }

        for file in index_files(language) {
            match self.files().stat(file).await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Lost => return Err(error),
                Err(_) => {}
            }
        }

        let message = format!(
            "cannot install packages without a network: no package index can be reached; give the packages at the start \
             instead, or start with a network that allows the index (index:{language})"
        );
        Err(Error::new(ErrorKind::Invalid, message))
    }
}

impl Sandbox {
    fn denials(&self) -> Vec<Denial> {
        let network = self.network();
        network.map_or_else(Vec::new, |network| network.summary.denials)
    }

    /// Adds the connections that the policy has denied since to a failed installation: package managers only report a failed
    /// connection.
    fn explain_denial(&self, error: Error, before: &[Denial], language: Language) -> Error {
        let denials = self.denials();
        let new = denials.iter().rev().find(|one| !before.contains(one));
        match new {
            Some(denial) if error.kind() == ErrorKind::Invalid => {
                let why = &denial.event.message;
                let message = format!(
                    "{error}\n{why} The rule index:{language} allows the package index of this host."
                );
                Error::new(ErrorKind::Invalid, message)
            }
            _ => error,
        }
    }
}

/// Returns the files in which the user of a guest can configure another index, relative to the home.
fn index_files(language: Language) -> &'static [&'static str] {
    match language {
        Language::Python => &[".config/uv/uv.toml", "uv.toml", "pyproject.toml"],
        Language::Javascript | Language::Shell => &[
            ".bunfig.toml",
            "bunfig.toml",
            ".npmrc",
            ".config/.bunfig.toml",
        ],
    }
}

/// Follows an installation to its end.
async fn installed_packages(mut run: Run) -> Result<Vec<InstalledPackage>, Error> {
    let mut packages = None;
    let mut output = Vec::new();

    while let Some(event) = run.next().await {
        match event {
            Event::Result(value) => {
                let list = value.get("application/json").unwrap_or_default();
                packages = serde_json::from_value(list).ok();
            }
            Event::Stdout(bytes) | Event::Stderr(bytes) => {
                output.extend_from_slice(&bytes);
                let excess = output.len().saturating_sub(MAX_MESSAGE_BYTES);
                output.drain(..excess);
            }
            _ => {}
        }
    }

    // A list without success is not trusted, and success needs a list.
    let outcome = run.outcome().await?;
    match (outcome.ended_by, outcome.exit_code, packages) {
        (EndedBy::Exited, Some(0), Some(packages)) => Ok(packages),
        (EndedBy::AgentLost, ..) => {
            let detail = outcome.evidence.detail.unwrap_or_default();
            Err(Error::new(ErrorKind::Lost, detail).after_start())
        }
        (ended_by, ..) => {
            let output = String::from_utf8_lossy(&output);
            let message = format!(
                "installing the packages failed ({ended_by}): {}",
                output.trim()
            );
            Err(Error::new(ErrorKind::Invalid, message))
        }
    }
}
