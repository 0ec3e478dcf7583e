//! Options about this machine, which all commands have.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
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
    /// Whether VMs continue from hot images where these are supported: on or off
    #[arg(
        long,
        env = "FUMEHOOD_HOT_IMAGES",
        default_value = "on",
        value_name = "SWITCH",
        global = true
    )]
    hot_images: Switch,
}

/// The value of an option that is on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

impl HostArgs {
    /// Returns whether all options have their defaults.
    pub(crate) fn is_default(&self) -> bool {
        self.store.is_none()
            && self.accelerator == AcceleratorChoice::Auto
            && self.qemu.is_none()
            && self.launcher.is_none()
            && self.require_isolation == RequiredIsolation::default()
            && self.hot_images == Switch::On
    }

    /// Returns options with which another process of this command uses the same store and the same programs, with software
    /// emulation, from any directory. It inherits the environment.
    ///
    /// # Errors
    /// The current directory cannot be determined.
    pub(crate) fn to_arguments(&self) -> io::Result<Vec<OsString>> {
        let paths = [
            ("--store", &self.store),
            ("--qemu", &self.qemu),
            ("--launcher", &self.launcher),
        ];

        let mut arguments = vec![OsString::from("--accelerator"), "tcg".into()];
        for (name, path) in paths {
            if let Some(path) = path {
                arguments.extend([name.into(), std::path::absolute(path)?.into_os_string()]);
            }
        }
        Ok(arguments)
    }

    /// Returns environment variables with which another process of this command has the same options, from any directory.
    ///
    /// # Errors
    /// The current directory cannot be determined.
    pub(crate) fn to_environment(&self) -> io::Result<Vec<(&'static str, OsString)>> {
        let accelerator = match self.accelerator {
            AcceleratorChoice::Auto => "auto",
            AcceleratorChoice::Kvm => "kvm",
            AcceleratorChoice::Tcg => "tcg",
        };
        let isolation = match self.require_isolation {
            RequiredIsolation::Any => "any",
            RequiredIsolation::Full => "full",
        };
        let hot_images = match self.hot_images {
            Switch::On => "on",
            Switch::Off => "off",
        };
        let mut variables = vec![
            ("FUMEHOOD_ACCELERATOR", accelerator.into()),
            ("FUMEHOOD_REQUIRE_ISOLATION", isolation.into()),
            ("FUMEHOOD_HOT_IMAGES", hot_images.into()),
        ];

        // A program without a slash is looked up in PATH.
        let paths = [
            ("FUMEHOOD_HOME", &self.store),
            ("FUMEHOOD_QEMU", &self.qemu),
            ("FUMEHOOD_LAUNCHER", &self.launcher),
        ];
        for (name, path) in paths {
            let Some(path) = path else { continue };
            let is_name = path.components().count() == 1 && name != "FUMEHOOD_HOME";
            let value = if is_name {
                path.clone()
            } else {
                std::path::absolute(path)?
            };
            variables.push((name, value.into_os_string()));
        }
        Ok(variables)
    }

    /// Returns the engine's configuration with these options.
    pub(crate) fn config(&self) -> Config {
        Config {
            store: self.store.clone(),
            accelerator: self.accelerator,
            qemu: self.qemu.clone(),
            launcher: self.launcher.clone(),
            require_isolation: self.require_isolation,
            hot_images: self.hot_images == Switch::On,
            ..Config::default()
        }
    }
}
