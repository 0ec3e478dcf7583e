use std::sync::Arc;

use fumehood_gateway::Event as NetworkEvent;
use fumehood_protocol::EndedBy;
use tokio::sync::mpsc;

use super::index::PackageIndex;
use crate::error::{Error, ErrorKind};
use crate::packages::{InstalledPackage, PackageSet, PackageStep, ProgressCallback};
use crate::provision::{ANY_LANGUAGE, Provisioner};
use crate::run::{Event, Outcome, Run, SpawnRequest};
use crate::sandbox::{Sandbox, SandboxTimeouts, WriteOptions};
use crate::snapshot::TemplateSpec;
use crate::vm::Shape;

/// Installs packages, and prints the list of installed packages.
const INSTALL: &str = include_str!("../../builders/install.sh");
/// Packs them into a layer.
const PACK: &str = include_str!("../../builders/pack.sh");
/// The inputs of a layer besides the packages.
pub(super) const BUILDER: &str = concat!(
    include_str!("../../builders/install.sh"),
    include_str!("../../builders/pack.sh")
);
/// Creates the directories that layer and image have in common, with the image's owners.
const TREE: &str = "mkdir -p /build/home && install -d -o 1000 -g 1000 /build/home/user";

/// Directory of the packages in the builder.
const BUILD: &str = "/build";
/// Path of the finished layer in the builder.
const LAYER: &str = "/layer";

/// Maximum output of a package manager in an error message, in bytes, from its end.
const MAX_MESSAGE_BYTES: usize = 4000;

/// Maximum size of the list of installed packages, in bytes: some fifty thousand packages.
const MAX_LIST_BYTES: usize = 4 << 20;

/// Maximum size of a layer, in bytes: the largest sets of packages in use fit, and a guest's disk is smaller.
pub(crate) const MAX_LAYER_BYTES: u64 = 4 << 30;

/// A VM that installs packages. It reaches only their index, and is used once.
pub(crate) struct BuilderVm {
    sandbox: Sandbox,
    network_events: Option<mpsc::Receiver<NetworkEvent>>,
    memory_mib: u32,
}

impl BuilderVm {
    /// Starts the VM.
    ///
    /// # Errors
    /// As [`Provisioner::acquire`], and [`ErrorKind::Invalid`].
    pub(crate) async fn start(
        provisioner: &Arc<Provisioner>,
        index: &PackageIndex,
    ) -> Result<Self, Error> {
        let max_mib = provisioner.admission.max_guest_mib();
        let memory_mib = provisioner.config.builder_memory_mib.min(max_mib);
        let shape = Shape {
            network: true,
            ..Shape::plain(memory_mib)
        };
        let spec = TemplateSpec::plain(ANY_LANGUAGE, shape);

        let network = index.network().prepare()?;
        let (file, text) = index.configuration(&network);
        let acquired = provisioner.acquire(&spec, &network.init()).await?;
        let timeouts = SandboxTimeouts::default();
        let sandbox = Sandbox::new(provisioner.clone(), acquired, Some(network), timeouts)?;
        sandbox.allow_root().await?;

        // The package manager's configuration contains placeholders instead of credentials.
        let options = WriteOptions {
            parents: true,
            mode: Some(0o600),
            size: None,
        };

        let files = sandbox.files();
        files.write_with_options(file, text, options).await?;

        Ok(Self {
            network_events: sandbox.network_events(),
            sandbox,
            memory_mib,
        })
    }

    /// Installs the packages; returns all that are installed then, sorted.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] or [`ErrorKind::Unreachable`] with the output of the package manager.
    pub(crate) async fn install(
        &mut self,
        set: &PackageSet,
        progress: &ProgressCallback,
    ) -> Result<Vec<InstalledPackage>, Error> {
        progress.report(PackageStep::Installing);
        self.run_script(TREE, &[], true).await?;

        let mut args = vec![set.language().as_str(), BUILD];
        let specs: Vec<_> = set.complete_specs().collect();
        args.extend(specs.iter().map(AsRef::as_ref));
        let list = self.run_script(INSTALL, &args, false).await?;

        let installed: Result<Vec<InstalledPackage>, _> = serde_json::from_slice(&list);
        let mut installed = installed.map_err(|e| {
            let message = format!("cannot parse the list of installed packages: {e}");
            Error::new(ErrorKind::Protocol, message)
        })?;
        installed.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        installed.dedup();

        Ok(installed)
    }

    /// Packs the layer; returns its size in bytes.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if it does not fit, or is larger than [`MAX_LAYER_BYTES`].
    pub(crate) async fn pack(
        &mut self,
        set: &PackageSet,
        progress: &ProgressCallback,
    ) -> Result<u64, Error> {
        progress.report(PackageStep::Packing);
        let args = [set.language().as_str(), BUILD, LAYER];
        self.run_script(PACK, &args, true).await?;
        let bytes = self.sandbox.files().stat(LAYER).await?.size;
        check_size(bytes)?;
        Ok(bytes)
    }

    /// Downloads the layer to this host, which never looks into it.
    ///
    /// # Errors
    /// As [`Files::download`](crate::Files::download).
    pub(crate) async fn fetch_layer(&self, bytes: u64, to: std::fs::File) -> Result<(), Error> {
        let mut to = tokio::fs::File::from_std(to);
        let files = self.sandbox.files();
        let received = files.download_within(LAYER, &mut to, bytes).await?;

        if received != bytes {
            let message = format!("the guest sent {received} bytes of a layer of {bytes} bytes");
            return Err(Error::new(ErrorKind::Protocol, message));
        }

        Ok(())
    }

    pub(crate) async fn end(self) {
        self.sandbox.end().await;
    }

    /// Runs a script to its end; returns its standard output.
    async fn run_script(
        &mut self,
        script: &str,
        args: &[&str],
        as_root: bool,
    ) -> Result<Vec<u8>, Error> {
        let argv = ["bash", "-c", script, "builder"];
        let mut request = SpawnRequest::new(argv.into_iter().chain(args.iter().copied()));

        if as_root {
            request = request.root();
        }

        let (outcome, stdout, stderr) = collect_output(self.sandbox.spawn(&request)?).await?;
        match (outcome.ended_by, outcome.exit_code) {
            (EndedBy::Exited, Some(0)) => Ok(stdout),
            (EndedBy::AgentLost, _) => {
                let detail = outcome.evidence.detail.unwrap_or_default();
                Err(Error::new(ErrorKind::Lost, detail))
            }
            (ended_by, _) => Err(self.failure(ended_by, stderr.trim())),
        }
    }

    /// Explains a failed installation: the package manager's output, and what else is known.
    fn failure(&mut self, ended_by: EndedBy, stderr: &str) -> Error {
        let mut message = format!("installing the packages failed ({ended_by}): {stderr}");

        let is_full = stderr.contains("No space left on device") || stderr.contains("ENOSPC");
        if ended_by == EndedBy::OutOfMemory || is_full {
            let memory = self.memory_mib;
            message += &format!(
                "\nthe VM that installs them has {memory} MiB of memory, half of which is its disk; give it more (builder_memory_mib, --builder-memory)"
            );
            return Error::new(ErrorKind::Invalid, message);
        }

        let (unreachable, denied) = self.network_problems();
        for line in denied {
            message += &format!("\nnetwork: {line}");
        }

        match unreachable {
            Some(why) => {
                message += &format!("\nthe package index cannot be reached: {why}");
                Error::new(ErrorKind::Unreachable, message)
            }
            None => Error::new(ErrorKind::Invalid, message),
        }
    }

    /// Returns the last allowed access that failed, and the denials.
    fn network_problems(&mut self) -> (Option<String>, Vec<String>) {
        /// Maximum number of denials in a message.
        const MAX_DENIALS: usize = 5;

        let mut unreachable = None;

        if let Some(events) = &mut self.network_events {
            while let Ok(event) = events.try_recv() {
                let is_answered = event.status.is_some_and(|status| status < 500);
                if is_answered {
                    unreachable = None;
                } else if event.allowed && is_failure(&event) {
                    unreachable = Some(event.message);
                }
            }
        }

        let summary = self.sandbox.network().unwrap_or_default().summary;
        let denials = summary.denials.into_iter().take(MAX_DENIALS);
        let denials = denials.map(|denial| denial.event.message);

        (unreachable, denials.collect())
    }
}

/// Returns whether an access that was allowed has failed.
fn is_failure(event: &NetworkEvent) -> bool {
    matches!(event.code, "unreachable" | "lookup_failed") || event.status.is_some()
}

/// Rejects a layer that is too large.
///
/// # Errors
/// Returns [`ErrorKind::Invalid`].
fn check_size(bytes: u64) -> Result<(), Error> {
    if bytes <= MAX_LAYER_BYTES {
        return Ok(());
    }

    let message = format!(
        "the layer of the packages has {bytes} bytes; at most {MAX_LAYER_BYTES} are allowed; request fewer packages"
    );

    Err(Error::new(ErrorKind::Invalid, message))
}

/// Returns all that a script prints to standard output, and the end of its standard error.
async fn collect_output(mut run: Run) -> Result<(Outcome, Vec<u8>, String), Error> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(event) = run.next().await {
        match event {
            Event::Stdout(bytes) if stdout.len() + bytes.len() <= MAX_LIST_BYTES => {
                stdout.extend_from_slice(&bytes);
            }
            Event::Stdout(_) => {
                let message = format!("the list of packages has more than {MAX_LIST_BYTES} bytes");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            Event::Stderr(bytes) => {
                stderr.extend_from_slice(&bytes);
                let excess = stderr.len().saturating_sub(MAX_MESSAGE_BYTES);
                stderr.drain(..excess);
            }
            _ => {}
        }
    }

    let outcome = run.outcome().await?;
    let stderr = String::from_utf8_lossy(&stderr).into_owned();

    Ok((outcome, stdout, stderr))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_at_the_limit_and_one_past_it() {
        assert!(check_size(MAX_LAYER_BYTES).is_ok());
        let error = check_size(MAX_LAYER_BYTES + 1).unwrap_err();
        assert!(error.to_string().contains("4294967297"), "{error}");
    }
}
