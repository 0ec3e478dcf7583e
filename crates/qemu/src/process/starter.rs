use std::cell::OnceCell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fumehood_launcher::{IsolationLayer, Namespaces, User};

use super::cgroup::Hierarchy;
use super::launch_attempt::{LaunchAttempt, LaunchError};
use super::qemu_process::{KeepAlive, Process};
use super::required_files::required_files;
use super::spec::{LaunchConfig, ProcessError, ProcessSpec, ProcessStart};

/// How long the cgroups of killed owners may stay once all of them have been removed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Starts processes, and caches facts about this host: the files that QEMU needs, and the isolation layers that
/// are available.
pub(super) struct Starter {
    config: LaunchConfig,
    /// The files that QEMU needs; found when it is first executed. Processes that continue from an image need none.
    files: OnceCell<Vec<PathBuf>>,
    namespaces: Namespaces,
    hierarchy: Option<Hierarchy>,
    /// When all cgroups of killed owners were last removed.
    swept: Option<Instant>,
    /// Why layers are missing.
    reasons: Vec<(IsolationLayer, String)>,
}

impl Starter {
    pub(super) fn new(config: LaunchConfig) -> Self {
        let namespaces = namespaces_for(config.user);

        let mut reasons = Vec::new();
        let hierarchy = Hierarchy::find()
            .map_err(|reason| reasons.push((IsolationLayer::Cgroup, reason)))
            .ok();
        Self {
            config,
            files: OnceCell::new(),
            namespaces,
            hierarchy,
            swept: None,
            reasons,
        }
    }

    /// Starts a process with all layers that are available. A layer that has failed is not tried again.
    pub(super) fn start(
        &mut self,
        spec: &ProcessSpec,
        keep_alive: Option<KeepAlive>,
    ) -> Result<Process, ProcessError> {
        self.sweep(Instant::now());

        loop {
            let (layer, reason) = match self.attempt(spec, keep_alive.clone()) {
                Ok(process) => return self.accept(process),
                Err(LaunchError::Other(error)) => return Err(error),
                Err(LaunchError::Layer(layer, reason)) => (layer, reason),
            };
            if self.config.require_all_layers {
                return Err(ProcessError::IncompleteIsolation(reason));
            }

            // Retry without the layer that failed.
            match layer {
                IsolationLayer::Cgroup if self.hierarchy.is_some() => self.hierarchy = None,
                IsolationLayer::Namespaces if self.namespaces != Namespaces::None => {
                    self.namespaces = Namespaces::None;
                    self.config.user = self.config.user_of_host_devices;
                }
                IsolationLayer::User if self.config.user != self.config.user_of_host_devices => {
                    self.config.user = self.config.user_of_host_devices;
                    self.namespaces = namespaces_for(self.config.user);
                }
                _ => return Err(ProcessError::Launch(reason)),
            }
            tracing::warn!(?layer, %reason, "an isolation layer of QEMU is not available");
            self.reasons.push((layer, reason));
        }
    }

    /// Ends what killed owners may have left behind. A server lives for long, so it looks again.
    fn sweep(&mut self, now: Instant) {
        let is_due = |at: Instant| now.saturating_duration_since(at) > SWEEP_INTERVAL;
        if !self.swept.is_none_or(is_due) {
            return;
        }
        if let Some(hierarchy) = &self.hierarchy {
            self.swept = hierarchy.sweep().then_some(now);
        }
    }

    fn attempt(
        &self,
        spec: &ProcessSpec,
        keep_alive: Option<KeepAlive>,
    ) -> Result<Process, LaunchError> {
        let files = match spec.start {
            ProcessStart::Execute { .. } => self.files()?,
            ProcessStart::Continue { .. } => &[],
        };

        let cgroup = self
            .hierarchy
            .as_ref()
            .map(|hierarchy| hierarchy.create(&spec.limits))
            .transpose()
            .map_err(|reason| LaunchError::Layer(IsolationLayer::Cgroup, reason))?;

        let attempt = LaunchAttempt {
            config: &self.config,
            files,
            namespaces: self.namespaces,
            spec,
        };
        attempt.run(cgroup, keep_alive)
    }

    fn files(&self) -> Result<&[PathBuf], LaunchError> {
        if let Some(files) = self.files.get() {
            return Ok(files);
        }

        // A failure is not kept: the next start tries again.
        let files = required_files(&self.config.program).map_err(|source| {
            LaunchError::Other(ProcessError::Spawn {
                program: self.config.program.clone(),
                source,
            })
        })?;
        Ok(self.files.get_or_init(|| files))
    }

    /// Rejects a process that lacks a required layer.
    fn accept(&self, process: Process) -> Result<Process, ProcessError> {
        let missing = process.missing_layers();
        if !self.config.require_all_layers || missing.is_empty() {
            return Ok(process);
        }
        let reasons: Vec<_> = missing.iter().map(|layer| self.reason(*layer)).collect();
        Err(ProcessError::IncompleteIsolation(reasons.join("; ")))
    }

    /// Returns why this layer is missing.
    pub(super) fn reason(&self, layer: IsolationLayer) -> String {
        let known = self.reasons.iter().find(|(of, _)| *of == layer);
        known.map_or_else(
            || default_reason(layer).to_string(),
            |(_, reason)| reason.clone(),
        )
    }
}

fn namespaces_for(user: User) -> Namespaces {
    if rustix::process::geteuid().is_root() && user != User::Same {
        Namespaces::Privileged
    } else {
        Namespaces::InUserNamespace
    }
}

fn default_reason(layer: IsolationLayer) -> &'static str {
    match layer {
        IsolationLayer::User => "QEMU cannot run as a separate user",
        IsolationLayer::Namespaces => "namespaces cannot be created",
        IsolationLayer::Landlock => {
            "this kernel has no Landlock, or one that does not restrict signals and sockets"
        }
        IsolationLayer::Cgroup => "a cgroup cannot be created",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_of_killed_owners_are_removed_again_and_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut starter = Starter::new(LaunchConfig {
            launcher: PathBuf::new(),
            program: PathBuf::new(),
            devices: Vec::new(),
            user: User::Same,
            user_of_host_devices: User::Same,
            require_all_layers: false,
        });
        starter.hierarchy = Some(Hierarchy::Unified(directory.path().to_path_buf()));

        let abandoned = directory.path().join(Hierarchy::name_of_a_killed_owner());
        let abandon = || std::fs::create_dir(&abandoned).unwrap();

        let start = Instant::now();
        abandon();
        starter.sweep(start);
        assert!(!abandoned.exists());

        // Another owner is killed while this one lives.
        abandon();
        starter.sweep(start + SWEEP_INTERVAL);
        assert!(abandoned.exists(), "each start would read the directory");
        starter.sweep(start + SWEEP_INTERVAL + Duration::from_millis(1));
        assert!(!abandoned.exists());
    }
}
