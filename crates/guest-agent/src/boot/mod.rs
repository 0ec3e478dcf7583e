//! Makes a system of a fresh microVM: what an init does, and no more.
//!
//! The kernel has unpacked an initramfs that holds this program alone. The root file system is a
//! read-only disk; a tmpfs over it takes what is written.

mod modules;
mod mounts;
mod network;
mod system;

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use fumehood_protocol::{AGENT_PORT, Limits};
use fumehood_sys::guest::{Signals, keep_freed_memory, set_realtime_priority};
use rustix::system::RebootCommand;

use crate::agent::Agent;
use crate::cgroup::Cgroups;
use crate::command::Interpreters;
use crate::confine::{Confinement, User};
use crate::door::{Door, Port};
use crate::event_loop::{DEFAULT_PATH, EventLoop};
use crate::memory::MemoryWatch;
use crate::settings::Settings;

/// How long a device may take to appear. Ours are there before this program starts.
const DEVICE_PATIENCE: Duration = Duration::from_secs(10);
/// Memory that programs cannot have, in bytes: the agent's own, with a request of `line_bytes`
/// in it, and what the kernel needs to make room.
const RESERVED_BYTES: u64 = 32 * 1024 * 1024;
/// Memory that the agent keeps when it has freed it, in bytes: what the buffers of a few programs take.
const KEPT_BYTES: i32 = 4 * 1024 * 1024;
/// The certificate authorities that programs trust, all in one file.
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Who programs run as. The image knows the same user.
const USER: (&str, u32, &str) = ("user", 1000, "/home/user");

/// Why the guest could not be made ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// The kernel refused something.
    #[error("cannot {what}: {source}")]
    System {
        /// What was refused.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A device did not appear.
    #[error("there is no {0}; look at the VM's devices")]
    Missing(&'static str),
    /// A part of the agent said no.
    #[error("{0}")]
    Agent(String),
}

/// Adds what was being done to a kernel's refusal.
pub(crate) fn refused<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> BootError {
    move |source| BootError::System {
        what: what.into(),
        source: source.into(),
    }
}

/// PID 1: boots, serves, and ends the VM if either fails.
pub(crate) fn run() -> ExitCode {
    let result = boot().and_then(|agent| agent.run().map_err(BootError::Agent));
    if let Err(error) = result {
        // Standard error is the kernel's console.
        eprintln!("fumehood-agent: boot failed: {error}");
    }
    rustix::fs::sync();
    // QEMU runs with -no-reboot: this ends it.
    let _ = rustix::system::reboot(RebootCommand::Restart);
    ExitCode::FAILURE
}

fn boot() -> Result<EventLoop, BootError> {
    keep_freed_memory(KEPT_BYTES);
    // Without it answers come later, and no other.
    if let Err(error) = set_realtime_priority() {
        eprintln!("fumehood-agent: it waits for its turn like any program: {error}");
    }
    let signals = Signals::take().map_err(refused("take over signals"))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    mounts::pseudo()?;
    modules::load()?;
    wait_for("disk /dev/vda", || {
        Ok(Path::new("/dev/vda").exists().then_some(()))
    })?;
    let memory = programs_memory();
    mounts::root(memory)?;
    mounts::rest(memory)?;
    system::settings()?;
    system::name()?;
    network::loopback();
    let has_card = network::card()?;
    system::home(USER.2, USER.1)?;
    let cgroups = cgroups(memory)?;
    let (name, id, home) = USER;
    let user = User {
        name: name.into(),
        id,
        group: id,
        home: home.into(),
    };
    let mut confinement =
        Confinement::new(&user.home, DEFAULT_PATH, Some(&user)).map_err(BootError::Agent)?;
    let memory = MemoryWatch::new(&cgroups).map_err(refused("watch over memory"))?;
    confinement.cgroups = Some(cgroups);
    if has_card {
        confinement.trust(BUNDLE);
    }
    let interpreters = Interpreters::new("/run/fumehood".into(), DEFAULT_PATH)
        .map_err(refused("write the runners to /run/fumehood"))?;
    let identity = system::identity()?;
    let settings = Settings {
        limits: Limits::default(),
        token: None,
        boot_id: system::boot_id()?,
    };
    let agent = Agent {
        identity: Some(identity),
        memory: Some(memory),
        ..Agent::new(settings, confinement, interpreters)
    };
    let port = wait_for("virtio-serial port fumehood.agent", || {
        Port::open(AGENT_PORT, Instant::now())
            .map_err(refused(format!("open the port {AGENT_PORT}")))
    })?;
    EventLoop::new(agent, Door::Port(port), signals, false).map_err(BootError::Agent)
}

/// Calls `look` until it finds something.
fn wait_for<T>(
    what: &'static str,
    look: impl Fn() -> Result<Option<T>, BootError>,
) -> Result<T, BootError> {
    let begun = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if begun.elapsed() > DEVICE_PATIENCE {
            return Err(BootError::Missing(what));
        }
        sleep(Duration::from_millis(1));
    }
}

/// What memory there is, but for what the agent needs, in bytes.
fn programs_memory() -> u64 {
    let memory = rustix::system::sysinfo();
    let total = memory.totalram.saturating_mul(u64::from(memory.mem_unit));
    total.saturating_sub(RESERVED_BYTES).max(RESERVED_BYTES)
}

/// All programs together get so much memory.
fn cgroups(bytes: u64) -> Result<Cgroups, BootError> {
    let path = mounts::cgroups()?;
    Cgroups::open(&path, Some(bytes)).map_err(refused("set up cgroups"))
}
