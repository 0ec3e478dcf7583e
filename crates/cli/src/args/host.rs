//! Options about this machine, which all commands have.

use std::path::PathBuf;

use clap::Args;
use fumehood_engine::{AcceleratorChoice, Config, RequiredIsolation};

/// Where the images are, and how VMs are started.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Host")]
pub(crate) struct HostArgs {
    /// Directory for images and caches [default: ~/.local/share/fumehood]
    #[arg(long, env = "FUMEHOOD_HOME", value_name = "DIR", global = true)]
    store: Option<PathBuf>,
    /// Accelerator for VMs: auto, kvm or tcg (software emulation)
    #[arg(
        long,
        env = "FUMEHOOD_ACCELERATOR",
        default_value = "auto",
        value_name = "NAME",
        global = true
    )]
    accelerator: AcceleratorChoice,
    /// QEMU binary [default: qemu-system-x86_64 in PATH]
    #[arg(long, env = "FUMEHOOD_QEMU", value_name = "PROGRAM", global = true)]
    qemu: Option<PathBuf>,
    /// Launcher binary, which isolates QEMU from the host [default: fumehood-launcher next to this binary, or in the
    /// store]
    #[arg(long, env = "FUMEHOOD_LAUNCHER", value_name = "PROGRAM", global = true)]
    launcher: Option<PathBuf>,
    /// Isolation layers around QEMU that must be available: `full` refuses to start a VM if one is missing, `any`
    /// reports the missing ones
    #[arg(
        long,
        env = "FUMEHOOD_REQUIRE_ISOLATION",
        default_value = "any",
        value_name = "LEVEL",
        global = true
    )]
    require_isolation: RequiredIsolation,
}

impl HostArgs {
    /// Returns whether all options have their defaults.
    pub(crate) fn is_default(&self) -> bool {
        self.store.is_none()
            && self.accelerator == AcceleratorChoice::Auto
            && self.qemu.is_none()
            && self.launcher.is_none()
            && self.require_isolation == RequiredIsolation::default()
    }

    /// Returns the engine's configuration with these options.
    pub(crate) fn config(&self) -> Config {
        Config {
            store: self.store.clone(),
            accelerator: self.accelerator,
            qemu: self.qemu.clone(),
            launcher: self.launcher.clone(),
            require_isolation: self.require_isolation,
            ..Config::default()
        }
    }
}
