use std::ffi::OsString;
use std::fmt::Display;

/// An option of QEMU's command line. Its `Display` is the value of the option.
pub trait QemuArg {
    /// The name of the option, with its dash.
    const NAME: &'static str;
}

/// A builder of the arguments for a QEMU process.
#[derive(Debug, Clone, Default)]
pub struct CommandLine(Vec<OsString>);

impl CommandLine {
    /// Creates a command line without devices, configuration files, display or reboot.
    #[must_use]
    pub fn minimal() -> Self {
        Self(
            [
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ]
            .map(OsString::from)
            .to_vec(),
        )
    }

    /// Adds an option.
    #[must_use]
    pub fn with<S: QemuArg + Display>(mut self, option: &S) -> Self {
        self.0.push(S::NAME.into());
        self.0.push(option.to_string().into());
        self
    }

    /// Makes QEMU start without a machine and wait. The monitor supplies the guest's
    /// memory and state later (`object-add`, `qom-set`, `x-exit-preconfig`, `migrate-incoming`).
    #[must_use]
    pub fn waiting(mut self) -> Self {
        // The state is saved by `xen-save-devices-state`, which writes no configuration section. The network
        // card does not announce that it has moved, since nothing on its link needs to know.
        let options = [
            "-preconfig",
            "-incoming",
            "defer",
            "-global",
            "migration.send-configuration=off",
            "-global",
            "migration.announce-rounds=0",
        ];
        self.0.extend(options.map(OsString::from));
        self
    }

    /// Returns the arguments.
    #[must_use]
    pub fn into_args(self) -> Vec<OsString> {
        self.0
    }
}

/// Doubles the commas of a value: in QEMU's option syntax a single comma ends it.
pub(super) fn escape(value: &str) -> String {
    value.replace(',', ",,")
}
