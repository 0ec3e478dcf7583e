use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use fumehood_protocol::{AGENT_PORT, Limits};
use fumehood_sys::guest::{Signals, keep_freed_memory, set_realtime_priority};
use rustix::system::RebootCommand;

use super::error::{BootError, failed_to};
use super::{modules, mounts, network, system};
use crate::agent::Agent;
use crate::event_loop::EventLoop;
use crate::interpreter::InterpreterCatalog;
use crate::messages::eprint_message;
use crate::process::{Cgroups, Confinement, MemoryWatch, User};
use crate::settings::{DEFAULT_PATH, Settings, package_program_path};
use crate::transport::{Listener, VirtioPort};

/// How long a device may take to appear. In fumehood's own VMs they exist before this program starts.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(10);
/// Memory that programs cannot have, in bytes: for the agent with a request of `line_bytes`, and for the kernel to
/// reclaim memory.
const RESERVED_BYTES: u64 = 32 * 1024 * 1024;
/// Freed memory that the agent keeps, in bytes: as much as the buffers of a few programs take.
const KEPT_BYTES: i32 = 4 * 1024 * 1024;
/// The user that programs run as. The image contains the same user.
const USER: (&str, u32, &str) = ("user", 1000, "/home/user");

/// Runs as PID 1: boots, serves, and ends the VM if either fails.
pub(crate) fn run() -> ExitCode {
    let result = boot().and_then(|agent| agent.run().map_err(BootError::Agent));
    if let Err(error) = result {
        // Standard error is the kernel's console.
        eprint_message(&format!("boot failed: {error}"));
    }

    rustix::fs::sync();
    // QEMU runs with -no-reboot, so that this ends it.
    let _ = rustix::system::reboot(RebootCommand::Restart);

    ExitCode::FAILURE
}

fn boot() -> Result<EventLoop, BootError> {
    // The process itself.
    keep_freed_memory(KEPT_BYTES);
    if let Err(error) = set_realtime_priority() {
        // Answers come later without it, but nothing else changes.
        eprint_message(&format!("cannot become a real-time task: {error}"));
    }

    let signals = Signals::take().map_err(failed_to("take over signals"))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));

    // File systems, devices and the network.
    mounts::mount_kernel_filesystems()?;
    modules::load()?;
    wait_for("disk /dev/vda", || {
        Ok(Path::new("/dev/vda").exists().then_some(()))
    })?;

    let memory = program_memory();
    mounts::mount_root(memory)?;
    mounts::mount_runtime(memory)?;
    system::apply_settings()?;
    system::set_hostname()?;
    network::enable_loopback();
    let has_card = network::configure_card()?;
    system::make_home(USER.2, USER.1)?;

    // The confinement of programs.
    let cgroups = open_cgroups(memory)?;
    let (name, id, home) = USER;
    let user = User {
        name: name.into(),
        id,
        group: id,
        home: home.into(),
    };

    let mut confinement =
        Confinement::new(&user.home, DEFAULT_PATH, Some(&user)).map_err(BootError::Agent)?;
    let package_programs = package_program_path(&user.home);
    confinement.search_first(package_programs.clone());
    let memory = MemoryWatch::new(&cgroups).map_err(failed_to("watch over memory"))?;
    confinement.cgroups = Some(cgroups);

    if has_card {
        confinement.trust_ca_bundle(system::CA_BUNDLE);
    }

    // The agent.
    let interpreters = InterpreterCatalog::new("/run/fumehood".into(), DEFAULT_PATH)
        .map_err(failed_to("write the runners to /run/fumehood"))?
        .with_user_path(&package_programs);
    let identity = system::create_identity()?;
    let settings = Settings {
        limits: Limits::default(),
        token: None,
        boot_id: system::read_boot_id()?,
    };

    let agent = Agent {
        identity: Some(identity),
        memory: Some(memory),
        ..Agent::new(settings, confinement, interpreters)
    };

    let port = wait_for("virtio-serial port fumehood.agent", || {
        VirtioPort::open(AGENT_PORT, Instant::now())
            .map_err(failed_to(format!("open the port {AGENT_PORT}")))
    })?;

    EventLoop::new(agent, Listener::VirtioPort(port), signals, false).map_err(BootError::Agent)
}

/// Calls `find` until it finds something.
fn wait_for<T>(
    device: &'static str,
    find: impl Fn() -> Result<Option<T>, BootError>,
) -> Result<T, BootError> {
    let started = Instant::now();
    loop {
        if let Some(found) = find()? {
            return Ok(found);
        }

        if started.elapsed() > DEVICE_TIMEOUT {
            return Err(BootError::MissingDevice(device));
        }

        sleep(Duration::from_millis(1));
    }
}

/// The memory that all programs together may use, in bytes: all except the share of the agent.
fn program_memory() -> u64 {
    let memory = rustix::system::sysinfo();
    let total = memory.totalram.saturating_mul(u64::from(memory.mem_unit));
    total.saturating_sub(RESERVED_BYTES).max(RESERVED_BYTES)
}

fn open_cgroups(memory_bytes: u64) -> Result<Cgroups, BootError> {
    let path = mounts::mount_cgroups()?;
    Cgroups::open(&path, Some(memory_bytes)).map_err(failed_to("set up cgroups"))
}
