//! Options for packages.

use std::time::Duration;

use clap::Args;
use fumehood_engine::{Config, RunRequest, SandboxBuilder};

use crate::io::PackageProgress;

/// Packages that programs can import.
#[derive(Debug, Args)]
#[command(next_help_heading = "Packages (from the package index configured on this host)")]
pub(crate) struct PackageArgs {
    /// Make a package of the program's language available: pandas, 'pandas==2.*', lodash@^4; may be repeated. Without
    /// a version, the newest one is used, which is resolved again after 24 hours. Packages are installed once, in a
    /// separate VM, and cached for later runs
    #[arg(short, long, value_name = "SPEC")]
    package: Vec<String>,
    /// Resolve the packages again instead of using the versions of earlier runs
    #[arg(long, requires = "package")]
    refresh_packages: bool,
    /// Memory of the VM that installs packages; its disk takes half of it
    #[arg(long, value_name = "MIB", default_value_t = Config::default().builder_memory_mib)]
    builder_memory: u32,
    /// Timeout for an installation, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = Config::default().package_deadline.as_secs())]
    package_timeout: u64,
}

impl PackageArgs {
    /// Returns whether no package is requested.
    pub(crate) fn is_empty(&self) -> bool {
        self.package.is_empty()
    }

    /// Applies the options of the builder VM to the engine's configuration.
    pub(crate) fn configure(&self, config: &mut Config) {
        config.builder_memory_mib = self.builder_memory;
        config.package_deadline = Duration::from_secs(self.package_timeout);
    }

    /// Adds the packages to a one-shot run.
    pub(crate) fn add_to_run(&self, request: RunRequest) -> RunRequest {
        let request = request.packages(self.package.iter().cloned());

        if self.refresh_packages {
            request.refresh_packages()
        } else {
            request
        }
    }

    /// Adds the packages to a sandbox, and shows the progress of their installation.
    pub(crate) fn add_to_sandbox(
        &self,
        builder: SandboxBuilder,
        progress: &PackageProgress,
    ) -> SandboxBuilder {
        let progress = progress.clone();
        let builder = builder
            .packages(self.package.iter().cloned())
            .on_package_step(move |step| progress.show_step(step));

        if self.refresh_packages {
            builder.refresh_packages()
        } else {
            builder
        }
    }
}
