use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::mpsc;
use std::time::Duration;

use fumehood_sys::host::{open_kvm, probe_kvm};
use serde::{Deserialize, Serialize};

use super::kvm_verdict::{KvmVerdict, VerdictKey, decide, prepare_directories};
use crate::error::{Error, ErrorKind};

/// What executes the instructions of guests. In JSON: `kvm` or `tcg`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The CPU, through `/dev/kvm`.
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

/// The accelerator to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AcceleratorChoice {
    /// KVM if it works, else software emulation.
    #[default]
    Auto,
    /// KVM, or an error.
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
            other => Err(format!(
                "unknown accelerator `{other}`; use auto, kvm or tcg"
            )),
        }
    }
}

/// The accelerator in use, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SelectedAccelerator {
    pub(crate) accelerator: Accelerator,
    /// A phrase for people.
    pub(crate) reason: String,
}

/// Selects the accelerator for this QEMU. The result of a probe of KVM is kept in this store, if it can be written.
///
/// # Errors
/// Returns [`ErrorKind::Host`] if KVM is required and does not work.
pub(crate) fn select_accelerator(
    choice: AcceleratorChoice,
    qemu: Option<&Path>,
    store: Option<&Path>,
) -> Result<SelectedAccelerator, Error> {
    let tcg = |reason: String| SelectedAccelerator {
        accelerator: Accelerator::Tcg,
        reason,
    };

    if choice == AcceleratorChoice::Tcg {
        return Ok(tcg("software emulation, as configured".into()));
    }

    match check_kvm(qemu, store) {
        Ok(reason) => Ok(SelectedAccelerator {
            accelerator: Accelerator::Kvm,
            reason,
        }),
        Err(reason) if choice == AcceleratorChoice::Auto => {
            Ok(tcg(format!("software emulation, because {reason}")))
        }
        Err(reason) => {
            let message =
                format!("KVM is required and does not work: {reason}; use `auto` or `tcg`");
            Err(Error::new(ErrorKind::Host, message))
        }
    }
}

/// The device of KVM.
const DEVICE: &str = "/dev/kvm";

/// Timeout of the probe guest: it halts after 100,000 instructions, at most five times.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Checks whether KVM works; returns why or why not. A device that can be opened is not sufficient: some hypervisors
/// offer `/dev/kvm` and emulate the guest's kernel mode so slowly that a kernel needs half a minute. The CPU's flags
/// are checked first because that is cheap, then a tiny guest is run, once in each boot.
fn check_kvm(qemu: Option<&Path>, store: Option<&Path>) -> Result<String, String> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")
        .map_err(|e| format!("/proc/cpuinfo cannot be read: {e}"))?;
    if !has_virtualization(&cpuinfo) {
        return Err("the CPU has neither vmx nor svm".into());
    }

    // Whether this user may open the device can change at any time, so it is not part of the verdict.
    open_kvm()?;
    let verdict = match VerdictKey::new(Path::new(DEVICE), qemu) {
        Some(key) => decide(&prepare_directories(store), &key, probe)?,
        None => probe()?,
    };

    match verdict {
        KvmVerdict::Hardware { micros } => {
            Ok(format!("a probe guest ran on the CPU in {micros} µs"))
        }
        KvmVerdict::Emulated { micros } => Err(format!(
            "{DEVICE} is emulated: a probe guest took {} ms",
            micros / 1000
        )),
        KvmVerdict::Hangs => Err(format!(
            "a probe guest did not end within {} s",
            PROBE_TIMEOUT.as_secs()
        )),
    }
}

/// Runs a tiny guest on a separate thread: a hypervisor that never returns blocks that thread, and not this program.
fn probe() -> Result<KvmVerdict, String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(probe_kvm()));
    let Ok(probe) = receiver.recv_timeout(PROBE_TIMEOUT) else {
        return Ok(KvmVerdict::Hangs);
    };

    let probe = probe?;
    let micros = u64::try_from(probe.fastest.as_micros()).unwrap_or(u64::MAX);
    Ok(if probe.is_hardware() {
        KvmVerdict::Hardware { micros }
    } else {
        KvmVerdict::Emulated { micros }
    })
}

fn has_virtualization(cpuinfo: &str) -> bool {
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
    fn the_flags_of_the_cpu_are_checked_first() {
        assert!(has_virtualization("processor: 0\nflags\t\t: fpu vmx tsc\n"));
        assert!(has_virtualization("flags: svm"));
        assert!(!has_virtualization("flags\t: fpu vmx_fake svml\n"));
        assert!(!has_virtualization(""));
    }

    #[test]
    fn software_emulation_is_always_available() {
        assert_eq!(
            select_accelerator(AcceleratorChoice::Tcg, None, None)
                .unwrap()
                .accelerator,
            Accelerator::Tcg
        );

        assert!(
            !select_accelerator(AcceleratorChoice::Auto, None, None)
                .unwrap()
                .reason
                .is_empty()
        );
    }
}
