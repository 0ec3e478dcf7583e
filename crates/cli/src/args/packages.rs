use std::time::Duration;

use clap::Args;
use fumehood_engine::{Config, RunRequest, SandboxBuilder};

use crate::io::PackageProgress;

/// Packages that programs find.
#[derive(Debug, Args)]
#[command(
    next_help_heading = "Packages (from the index that this host's tools are configured for)"
)]
pub(crate) struct PackageArgs {
    /// Has the program find this package of its language, with a version specifier: 'pandas==2.*', lodash@^4. It is
    /// installed once, in a VM of its own; later runs with the same packages begin with them. May be repeated
    #[arg(short, long, value_name = "SPEC")]
    package: Vec<String>,
    /// Resolves the packages again, whatever versions they came to before
    #[arg(long, requires = "package")]
    refresh_packages: bool,
    /// Memory of the VM that packages are installed in; half of it is its disk
    #[arg(long, value_name = "MIB", default_value_t = Config::default().builder_memory_mib)]
    builder_memory: u32,
    /// Seconds until an installation is given up
    #[arg(long, value_name = "SECONDS", default_value_t = Config::default().package_deadline.as_secs())]
    package_timeout: u64,
}

impl PackageArgs {
    /// Whether none is asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.package.is_empty()
    }

    pub(crate) fn configure(&self, config: &mut Config) {
        config.builder_memory_mib = self.builder_memory;
        config.package_deadline = Duration::from_secs(self.package_timeout);
    }

    /// Asks for them in a run of its own.
    pub(crate) fn request(&self, request: RunRequest) -> RunRequest {
        let request = request.packages(self.package.iter().cloned());
        match self.refresh_packages {
            true => request.refresh_packages(),
            false => request,
        }
    }

    /// Asks for them in a sandbox, and shows what is done for that.
    pub(crate) fn build(&self, builder: SandboxBuilder, shown: &PackageProgress) -> SandboxBuilder {
        let shown = shown.clone();
        let builder = builder
            .packages(self.package.iter().cloned())
            .on_package_step(move |step| shown.step(step));
        match self.refresh_packages {
            true => builder.refresh_packages(),
            false => builder,
        }
    }
}
