use std::collections::BTreeMap;
use std::net::SocketAddr;

use fumehood_gateway::Connections;
use fumehood_image::{OpenedState, StateId};
use fumehood_protocol::PROTOCOL_VERSION;
use fumehood_sys::host::tsc_khz;
use serde::{Deserialize, Serialize};

use super::kind::SavedStateKind;
use crate::error::{Error, ErrorKind};
use crate::host::Accelerator;
use crate::network::{Network, PreparedNetwork, SavedNetwork};
use crate::packages::InstalledPackage;
use crate::provision::Provisioner;
use crate::sandbox::CheckpointOrigin;
use crate::snapshot::{RunningPrograms, host_cpu};
use crate::vm::{Layer, Machine, Shape};

/// How much the rate of the host's time stamp counter may differ, in parts of a thousand: the guest's clock has the rate of
/// the host that it was booted on.
const MAX_CLOCK_DEVIATION: u64 = 10;

/// The description of a state on disk, besides memory and devices. Secrets are not part of it, and neither is the policy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Description {
    pub(super) kind: SavedStateKind,
    /// The version of fumehood that wrote it.
    version: String,
    /// The version of the protocol that the guest's agent speaks.
    protocol: u32,
    /// The image of the guest.
    image: String,
    machine: MachineRecord,
    /// Machine id and host name.
    pub(super) identity: (String, String),
    /// Both ends of each connection that the guest has, first its own.
    pub(super) connections: Vec<(SocketAddr, SocketAddr)>,
    /// The placeholders of secrets that the guest has, by name.
    pub(super) placeholders: BTreeMap<String, String>,
    pub(super) programs: RunningPrograms,
    pub(super) packages: Vec<InstalledPackage>,
}

/// Everything that the state of the devices depends on.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct MachineRecord {
    accelerator: Accelerator,
    memory_mib: u32,
    network: bool,
    acpi: bool,
    /// The part of QEMU's command line that it depends on.
    command_line: String,
    /// The fingerprint of QEMU's program.
    qemu: String,
    /// The processor, if it executes the guest's instructions itself.
    host_cpu: Option<String>,
    tsc_khz: u64,
}

impl Description {
    pub(super) fn new(
        provisioner: &Provisioner,
        machine: &Machine,
        kind: SavedStateKind,
        origin: CheckpointOrigin,
        network: Option<&SavedNetwork>,
        programs: RunningPrograms,
    ) -> Self {
        let placeholders = network.map_or(&[][..], SavedNetwork::placeholders);
        let connections = network.map(|network| network.connections().endpoints());
        Self {
            kind,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL_VERSION,
            image: provisioner.factory.image().id().to_owned(),
            machine: MachineRecord::new(provisioner, machine),
            identity: origin.identity,
            connections: connections.unwrap_or_default(),
            placeholders: placeholders.iter().cloned().collect(),
            programs,
            packages: origin.packages,
        }
    }

    /// Returns the guest's memory, in MiB.
    pub(super) fn memory_mib(&self) -> u32 {
        self.machine.memory_mib
    }

    /// Returns whether the guest has a network card.
    pub(super) fn has_network(&self) -> bool {
        self.machine.network
    }

    /// Prepares the network of a guest that is continued: it has placeholders, and connections that no longer exist.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if the guest has no network card, for a value without secret, or a port that is in use.
    pub(super) fn prepare(
        &self,
        id: &StateId,
        network: Option<&Network>,
    ) -> Result<Option<PreparedNetwork>, Error> {
        if network.is_some() && !self.has_network() {
            let message = format!(
                "saved state {id} has no network card, so it cannot get a network; resume it without one"
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let stale = Connections::from_endpoints(self.connections.iter().copied());
        let prepared = network.map(|network| network.prepare_resumed(&self.placeholders, stale));
        prepared.transpose()
    }

    /// Returns the machine of a state, if this host and this version have the same one.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Host`] with the reason.
    pub(super) fn machine(
        &self,
        provisioner: &Provisioner,
        opened: &OpenedState,
    ) -> Result<Machine, Error> {
        let id = &opened.manifest().id;
        let refused = |why: String| {
            let message = format!("saved state {id} cannot be resumed here: {why}");
            Error::new(ErrorKind::Host, message)
        };

        if self.protocol != PROTOCOL_VERSION {
            return Err(refused(format!(
                "its agent speaks version {} of the protocol, and fumehood {} speaks {PROTOCOL_VERSION}; resume it with \
                 fumehood {}",
                self.protocol,
                env!("CARGO_PKG_VERSION"),
                self.version
            )));
        }

        let machine = self
            .opened_machine(opened)
            .map_err(|e| refused(e.to_string()))?;
        let here = MachineRecord::new(provisioner, &machine);
        self.machine
            .check(&here, provisioner.accelerator)
            .map_err(refused)?;
        if opened.manifest().memory_bytes != machine.memory_bytes() {
            return Err(refused(
                "its manifest has two sizes of the memory".to_owned(),
            ));
        }
        Ok(machine)
    }

    fn opened_machine(&self, opened: &OpenedState) -> std::io::Result<Machine> {
        let manifest = opened.manifest();
        let layer = match (opened.layer(), &manifest.layer) {
            (Some(file), Some(pinned)) => Some(Layer::new(file.try_clone()?, &*pinned.sha256)),
            _ => None,
        };
        let rootfs = Layer::new(opened.rootfs().try_clone()?, &*manifest.rootfs.sha256);
        Ok(Machine {
            accelerator: self.machine.accelerator,
            shape: Shape {
                memory_mib: self.machine.memory_mib,
                network: self.machine.network,
                layer,
            },
            acpi: self.machine.acpi,
            rootfs: Some(rootfs),
        })
    }
}

impl MachineRecord {
    fn new(provisioner: &Provisioner, machine: &Machine) -> Self {
        Self {
            accelerator: machine.accelerator,
            memory_mib: machine.shape.memory_mib,
            network: machine.shape.network,
            acpi: machine.acpi,
            command_line: machine.text(),
            qemu: provisioner.templates.qemu_fingerprint().to_owned(),
            host_cpu: (machine.accelerator == Accelerator::Kvm).then(host_cpu),
            tsc_khz: tsc_khz(),
        }
    }

    /// Compares it with what this host would create for the same machine.
    fn check(&self, here: &Self, accelerator: Accelerator) -> Result<(), String> {
        if self.accelerator != accelerator {
            return Err(format!(
                "it was saved with the accelerator {}, and this engine uses {}; choose the same one with `--accel {}`",
                self.accelerator, accelerator, self.accelerator
            ));
        }
        if self.qemu != here.qemu {
            return Err(format!(
                "it was saved by another build of QEMU ({}), and this one is {}; install that build, or name its program",
                self.qemu, here.qemu
            ));
        }
        if self.host_cpu != here.host_cpu {
            return Err("it was saved with KVM on another processor".to_owned());
        }
        if self.command_line != here.command_line {
            return Err(format!(
                "this version of fumehood creates another machine; it was `{}`, and is `{}`",
                self.command_line, here.command_line
            ));
        }
        let difference = self.tsc_khz.abs_diff(here.tsc_khz);
        if difference.saturating_mul(1000) > self.tsc_khz.saturating_mul(MAX_CLOCK_DEVIATION) {
            return Err(format!(
                "its clock has the rate of a host with {} kHz, and this one has {} kHz",
                self.tsc_khz, here.tsc_khz
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> MachineRecord {
        MachineRecord {
            accelerator: Accelerator::Tcg,
            memory_mib: 512,
            network: false,
            acpi: false,
            command_line: "-M microvm".into(),
            qemu: "7.2".into(),
            host_cpu: None,
            tsc_khz: 2_000_000,
        }
    }

    #[test]
    fn what_cannot_be_resumed_here_is_refused_with_the_reason() {
        let saved = record();
        saved.check(&record(), Accelerator::Tcg).unwrap();
        let refused = |here: MachineRecord, accelerator, part: &str| {
            let reason = saved.check(&here, accelerator).unwrap_err();
            assert!(reason.contains(part), "{reason}");
        };
        refused(record(), Accelerator::Kvm, "--accel tcg");

        let mut here = record();
        here.qemu = "10.0".into();
        refused(here, Accelerator::Tcg, "another build of QEMU (7.2)");

        here = record();
        here.command_line = "-M q35".into();
        refused(here, Accelerator::Tcg, "-M q35");

        here = record();
        here.tsc_khz = 2_100_000;
        refused(here, Accelerator::Tcg, "2100000 kHz");
        // Hosts without an exact rate measure it at each boot.
        here = record();
        here.tsc_khz = 2_000_500;
        saved.check(&here, Accelerator::Tcg).unwrap();

        here = record();
        here.host_cpu = Some("other".into());
        refused(here, Accelerator::Tcg, "another processor");
    }
}
