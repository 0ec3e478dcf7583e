use std::fmt;
use std::str::FromStr;
use std::sync::mpsc;
use std::time::Duration;

use fumehood_sys::host::probe_kvm;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The CPU itself, by `/dev/kvm`.
    Kvm,
    /// QEMU's software emulation: works everywhere, about ten times slower.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// Which accelerator is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AcceleratorChoice {
    /// KVM where it really works, else software emulation.
    #[default]
    Auto,
    /// KVM or an error.
    Kvm,
    /// Software emulation.
    Tcg,
}

impl FromStr for AcceleratorChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            other => Err(format!("`{other}` is no accelerator; use auto, kvm or tcg")),
        }
    }
}

/// The accelerator in use, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SelectedAccelerator {
    pub(crate) accelerator: Accelerator,
    /// For a person.
    pub(crate) reason: String,
}

/// Finds out what works here.
///
/// # Errors
/// [`ErrorKind::Host`] when KVM is wanted and does not work.
pub(crate) fn select_accelerator(choice: AcceleratorChoice) -> Result<SelectedAccelerator, Error> {
    let tcg = |reason: String| SelectedAccelerator {
        accelerator: Accelerator::Tcg,
        reason,
    };
    if choice == AcceleratorChoice::Tcg {
        return Ok(tcg("software emulation, as asked for".into()));
    }
    match kvm_works() {
        Ok(reason) => Ok(SelectedAccelerator {
            accelerator: Accelerator::Kvm,
            reason,
        }),
        Err(reason) if choice == AcceleratorChoice::Auto => {
            Ok(tcg(format!("software emulation, since {reason}")))
        }
        Err(reason) => Err(Error::new(
            ErrorKind::Host,
            format!("KVM was asked for and does not work here: {reason}; use `auto` or `tcg`"),
        )),
    }
}

/// How long the probe guest may take: it halts after 100,000 instructions.
const PROBE: Duration = Duration::from_secs(2);

/// A device that opens is not enough: some hypervisors offer `/dev/kvm` and emulate guest kernel
/// mode so slowly that a kernel needs half a minute. The CPU's flags are the cheap sign, a tiny
/// guest the real one.
fn kvm_works() -> Result<String, String> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")
        .map_err(|e| format!("/proc/cpuinfo cannot be read: {e}"))?;
    if !has_virtualisation(&cpuinfo) {
        return Err("the CPU shows neither vmx nor svm".into());
    }
    // On a thread of its own: a hypervisor that never returns costs a thread, not this program.
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(probe_kvm()));
    let probe = receiver
        .recv_timeout(PROBE)
        .map_err(|_| format!("a probe guest did not end within {} s", PROBE.as_secs()))??;
    if probe.is_hardware() {
        Ok(format!(
            "a probe guest ran on the CPU in {} µs",
            probe.elapsed.as_micros()
        ))
    } else {
        Err(format!(
            "/dev/kvm is emulated: a probe guest took {} ms",
            probe.elapsed.as_millis()
        ))
    }
}

fn has_virtualisation(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .is_some_and(|line| {
            line.split_ascii_whitespace()
                .any(|flag| flag == "vmx" || flag == "svm")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpus_flags_decide_first() {
        assert!(has_virtualisation("processor: 0\nflags\t\t: fpu vmx tsc\n"));
        assert!(has_virtualisation("flags: svm"));
        assert!(!has_virtualisation("flags\t: fpu vmx_fake svml\n"));
        assert!(!has_virtualisation(""));
    }

    #[test]
    fn software_emulation_is_always_there() {
        assert_eq!(
            select_accelerator(AcceleratorChoice::Tcg)
                .unwrap()
                .accelerator,
            Accelerator::Tcg
        );
        assert!(
            !select_accelerator(AcceleratorChoice::Auto)
                .unwrap()
                .reason
                .is_empty()
        );
    }
}
