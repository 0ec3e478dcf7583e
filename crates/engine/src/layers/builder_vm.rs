use std::sync::Arc;

use fumehood_gateway::Event as NetworkEvent;
use fumehood_protocol::EndedBy;
use tokio::sync::mpsc;

use super::index::PackageIndex;
use crate::error::{Error, ErrorKind};
use crate::packages::{PackageSet, PackageStep, Told};
use crate::provision::{ANY_LANGUAGE, Host};
use crate::run::{Event, Outcome, Run, SpawnRequest};
use crate::sandbox::{InstalledPackage, Sandbox, Times, WriteOptions};
use crate::snapshot::Which;
use crate::vm::Shape;

/// Installs packages; prints what is there then.
const INSTALL: &str = include_str!("../../builders/install.sh");
/// Makes a layer of them.
const PACK: &str = include_str!("../../builders/pack.sh");
/// Makes the directories that the layer and the image have in common, with the image's owners.
const TREE: &str = "mkdir -p /build/home && install -d -o 1000 -g 1000 /build/home/user";

/// Where the packages lie in the builder, and what is made of them.
const BUILD: &str = "/build";
const LAYER: &str = "/layer";

/// The most of what a tool says that goes into an error, in bytes, from its end.
const WORDS_BYTES: usize = 4000;

/// The list of what is installed at most, in bytes: some fifty thousand packages.
const LIST_BYTES: usize = 4 << 20;

/// Bytes of a layer at most: the largest sets of packages that people install, and a guest's disk is smaller.
pub(crate) const LAYER_BYTES: u64 = 4 << 30;

/// A VM that packages are installed in, and nothing else: it reaches their index only, and is thrown away.
pub(crate) struct PackageBuilder {
    sandbox: Sandbox,
    happened: Option<mpsc::Receiver<NetworkEvent>>,
    memory_mib: u32,
}

impl PackageBuilder {
    /// Starts it.
    ///
    /// # Errors
    /// As [`Host::acquire`], and [`ErrorKind::Invalid`].
    pub(crate) async fn start(host: &Arc<Host>, index: &PackageIndex) -> Result<Self, Error> {
        let most = host.admission.most_mib();
        let memory_mib = host.config.builder_memory_mib.min(most);
        let which = Which {
            language: ANY_LANGUAGE,
            shape: Shape {
                network: true,
                ..Shape::plain(memory_mib)
            },
        };
        let prepared = index.network().prepare()?;
        let (file, text) = index.configuration(&prepared);
        let fresh = host.acquire(&which, &prepared.brought()).await?;
        let sandbox = Sandbox::new(host.clone(), fresh, Some(prepared), Times::default())?;
        sandbox.allow_root().await?;
        let options = WriteOptions {
            parents: true,
            mode: Some(0o600),
            size: None,
        };
        sandbox
            .files()
            .write_with_options(file, text, options)
            .await?;
        Ok(Self {
            happened: sandbox.network_events(),
            sandbox,
            memory_mib,
        })
    }

    /// Installs the packages; returns all that are there then, sorted.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`]: they are not to be had so, in the tool's own words; [`ErrorKind::Unreachable`].
    pub(crate) async fn install(
        &mut self,
        set: &PackageSet,
        told: &Told,
    ) -> Result<Vec<InstalledPackage>, Error> {
        told.tell(PackageStep::Installing);
        self.script(TREE, &[], true).await?;
        let mut words = vec![set.language().as_str(), BUILD];
        words.extend(set.specs().iter().map(String::as_str));
        let list = self.script(INSTALL, &words, false).await?;
        let found: Result<Vec<InstalledPackage>, _> = serde_json::from_slice(&list);
        let mut found = found.map_err(|e| {
            let message = format!("the list of installed packages cannot be read: {e}");
            Error::new(ErrorKind::Protocol, message)
        })?;
        found.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        found.dedup();
        Ok(found)
    }

    /// Makes the layer; returns how many bytes it has.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`]: it does not fit, or is larger than [`LAYER_BYTES`].
    pub(crate) async fn pack(&mut self, set: &PackageSet, told: &Told) -> Result<u64, Error> {
        told.tell(PackageStep::Packing);
        let words = [set.language().as_str(), BUILD, LAYER];
        self.script(PACK, &words, true).await?;
        let bytes = self.sandbox.files().stat(LAYER).await?.size;
        within(bytes)?;
        Ok(bytes)
    }

    /// Brings the layer to this host. Nothing here looks into it.
    ///
    /// # Errors
    /// As [`Files::download`](crate::Files::download).
    pub(crate) async fn bring(&self, bytes: u64, to: std::fs::File) -> Result<(), Error> {
        let mut to = tokio::fs::File::from_std(to);
        let files = self.sandbox.files();
        let came = files.download_within(LAYER, &mut to, bytes).await?;
        if came != bytes {
            let message = format!("the guest sent {came} bytes of a layer that has {bytes}");
            return Err(Error::new(ErrorKind::Protocol, message));
        }
        Ok(())
    }

    pub(crate) async fn end(self) {
        self.sandbox.end().await;
    }

    /// Runs a script to its end; returns what it prints.
    async fn script(
        &mut self,
        text: &str,
        words: &[&str],
        as_root: bool,
    ) -> Result<Vec<u8>, Error> {
        let argv = ["bash", "-c", text, "builder"];
        let mut request = SpawnRequest::new(argv.into_iter().chain(words.iter().copied()));
        if as_root {
            request = request.root();
        }
        let (outcome, out, said) = heard(self.sandbox.spawn(&request)?).await?;
        match (outcome.ended_by, outcome.exit_code) {
            (EndedBy::Exited, Some(0)) => Ok(out),
            (EndedBy::AgentLost, _) => {
                let detail = outcome.evidence.detail.unwrap_or_default();
                Err(Error::new(ErrorKind::Lost, detail))
            }
            (ended_by, _) => Err(self.failure(ended_by, said.trim())),
        }
    }

    /// Why packages were not installed, in the tool's own words, and what else is known.
    fn failure(&mut self, ended_by: EndedBy, said: &str) -> Error {
        let mut message = format!("the packages were not installed ({ended_by}): {said}");
        let is_full = said.contains("No space left on device") || said.contains("ENOSPC");
        if ended_by == EndedBy::OutOfMemory || is_full {
            let memory = self.memory_mib;
            message += &format!(
                "\nthe VM that installs them has {memory} MiB of memory, half of which is its disk; give it more (builder_memory_mib, --builder-memory)"
            );
            return Error::new(ErrorKind::Invalid, message);
        }
        let (unreachable, denied) = self.trouble();
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

    /// The last thing that could not be reached though it was allowed, and what was denied.
    fn trouble(&mut self) -> (Option<String>, Vec<String>) {
        /// Denials that are told.
        const TOLD: usize = 5;
        let mut unreachable = None;
        if let Some(happened) = &mut self.happened {
            while let Ok(event) = happened.try_recv() {
                let is_answered = event.status.is_some_and(|status| status < 500);
                if is_answered {
                    unreachable = None;
                } else if event.allowed && is_failure(&event) {
                    unreachable = Some(event.message);
                }
            }
        }
        let summary = self.sandbox.network().unwrap_or_default().summary;
        let denials = summary.denials.into_iter().take(TOLD);
        (unreachable, denials.map(|one| one.event.message).collect())
    }
}

/// Whether something was allowed and did not succeed.
fn is_failure(event: &NetworkEvent) -> bool {
    matches!(event.code, "unreachable" | "lookup_failed") || event.status.is_some()
}

/// # Errors
/// [`ErrorKind::Invalid`].
fn within(bytes: u64) -> Result<(), Error> {
    if bytes <= LAYER_BYTES {
        return Ok(());
    }
    let message = format!(
        "the packages make a layer of {bytes} bytes; {LAYER_BYTES} are allowed; ask for fewer of them"
    );
    Err(Error::new(ErrorKind::Invalid, message))
}

/// All that a script prints, and the end of what it says otherwise.
async fn heard(mut run: Run) -> Result<(Outcome, Vec<u8>, String), Error> {
    let (mut out, mut said) = (Vec::new(), Vec::new());
    while let Some(event) = run.next().await {
        match event {
            Event::Stdout(bytes) if out.len() + bytes.len() <= LIST_BYTES => {
                out.extend_from_slice(&bytes);
            }
            Event::Stdout(_) => {
                let message = format!("the list of packages has more than {LIST_BYTES} bytes");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            Event::Stderr(bytes) => {
                said.extend_from_slice(&bytes);
                let past = said.len().saturating_sub(WORDS_BYTES);
                said.drain(..past);
            }
            _ => {}
        }
    }
    let outcome = run.outcome().await?;
    Ok((outcome, out, String::from_utf8_lossy(&said).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_at_the_limit_and_one_past_it() {
        assert!(within(LAYER_BYTES).is_ok());
        let error = within(LAYER_BYTES + 1).unwrap_err();
        assert!(error.to_string().contains("4294967297"), "{error}");
    }
}
