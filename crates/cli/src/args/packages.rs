//! Options for packages.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use fumehood_engine::{Config, Language, RunRequest, SandboxBuilder};

use crate::io::PackageProgress;
use crate::requirements::read_requirements;

/// The heading of the options in `--help`.
pub(super) const PACKAGES_HEADING: &str =
    "Packages (from the package index configured on this host)";

/// Packages that programs can import.
#[derive(Debug, Args)]
#[command(next_help_heading = PACKAGES_HEADING)]
pub(crate) struct PackageArgs {
    /// Make a package of the program's language available: pandas, 'pandas==2.*', lodash@^4; may be repeated. Without
    /// a version, the newest one is used, which is resolved again after 24 hours. Packages are installed once, in a
    /// separate VM, and cached for later runs
    #[arg(short, long, value_name = "SPEC")]
    package: Vec<String>,
    /// Make the packages of a requirements file available: names with extras, versions and markers, and further files
    /// (-r). Other options, URLs and paths are not supported; may be repeated
    #[arg(short, long, value_name = "FILE")]
    requirements: Vec<PathBuf>,
    /// Resolve the packages again instead of using the versions of earlier runs
    #[arg(long)]
    refresh_packages: bool,
    /// Memory of the VM that installs packages; its disk takes half of it
    #[arg(long, value_name = "MIB", default_value_t = Config::default().builder_memory_mib)]
    builder_memory: u32,
    /// Timeout for an installation, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = Config::default().package_deadline.as_secs())]
    package_timeout: u64,
}

impl PackageArgs {
    /// Returns the packages of the options: those of `--package`, and those in requirements files.
    ///
    /// # Errors
    /// A requirements file cannot be read or is not supported, or packages of Python are requested for `language`.
    pub(crate) fn packages(&self, language: Language) -> anyhow::Result<Vec<String>> {
        if language != Language::Python && !self.requirements.is_empty() {
            bail!("--requirements names packages for Python, and the program is {language}");
        }

        let mut packages = self.package.clone();
        for file in &self.requirements {
            packages.extend(read_requirements(file)?);
        }
        Ok(packages)
    }

    /// Applies the options of the builder VM to the engine's configuration.
    pub(crate) fn configure(&self, config: &mut Config) {
        config.builder_memory_mib = self.builder_memory;
        config.package_deadline = Duration::from_secs(self.package_timeout);
    }

    /// Adds these packages to a one-shot run.
    pub(crate) fn add_to_run(&self, packages: &[String], request: RunRequest) -> RunRequest {
        let request = request.packages(packages);

        if self.refresh_packages {
            request.refresh_packages()
        } else {
            request
        }
    }

    /// Adds these packages to a sandbox, and shows the progress of their installation.
    pub(crate) fn add_to_sandbox(
        &self,
        packages: &[String],
        builder: SandboxBuilder,
        progress: &PackageProgress,
    ) -> SandboxBuilder {
        let progress = progress.clone();
        let builder = builder
            .packages(packages)
            .on_package_step(move |step| progress.show_step(step));

        if self.refresh_packages {
            builder.refresh_packages()
        } else {
            builder
        }
    }
}
