//! Serves TCP on a machine that the agent does not own.

use std::io::{self, Write};
use std::net::TcpListener;

use fumehood_sys::guest::Signals;
use rustix::fs::Mode;
use rustix::process::DumpableBehavior;

use crate::agent::Agent;
use crate::args::ListenOptions;
use crate::event_loop::EventLoop;
use crate::interpreter::InterpreterCatalog;
use crate::messages::eprint_message;
use crate::process::{Cgroups, Confinement};
use crate::settings::{DEFAULT_PATH, Settings};
use crate::transport::Listener;

/// Serves TCP until a signal ends the process.
///
/// # Errors
/// Returns a message for the operator.
pub(crate) fn listen(options: ListenOptions) -> Result<(), String> {
    let failed = |what: &'static str| move |e: io::Error| format!("cannot {what}: {e}");
    let signals = Signals::take().map_err(failed("take over signals"))?;
    protect_process(&options)?;

    let path = std::env::var("PATH").unwrap_or_else(|_| DEFAULT_PATH.into());
    let current_dir = std::env::current_dir().map_err(failed("find the working directory"))?;
    let working_dir = options
        .user
        .as_ref()
        .map_or(current_dir.as_path(), |user| user.home.as_path());

    let mut confinement = Confinement::new(working_dir, &path, options.user.as_ref())?;
    if let Some(path) = &options.cgroup {
        let cgroups = Cgroups::open(path, None);
        confinement.cgroups =
            Some(cgroups.map_err(|e| format!("cannot use {} for cgroups: {e}", path.display()))?);
    }

    print_warnings(&options);

    let boot_id = random_id().map_err(failed("get random bytes"))?;
    let runners = std::env::temp_dir().join(format!("fumehood-agent-{boot_id}"));
    let interpreters =
        InterpreterCatalog::new(runners, &path).map_err(failed("write the runners"))?;
    let settings = Settings {
        limits: options.limits,
        token: options.token,
        boot_id,
    };

    let agent = Agent::new(settings, confinement, interpreters);

    let listener = TcpListener::bind(options.address).map_err(|e| {
        format!(
            "cannot listen on {}: {e}; choose another port, or 0 for any",
            options.address
        )
    })?;

    listener
        .set_nonblocking(true)
        .map_err(failed("make the socket non-blocking"))?;

    let address = listener.local_addr().map_err(failed("find the port"))?;

    // The caller waits for this line.
    let mut stdout = io::stdout();
    writeln!(stdout, "listening on {address}")
        .and_then(|()| stdout.flush())
        .map_err(failed("print the address"))?;

    EventLoop::new(agent, Listener::Tcp(listener), signals, true)?.run()
}

/// Sets up this process so that programs cannot read it or outlive it.
fn protect_process(options: &ListenOptions) -> Result<(), String> {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    if options.user.is_some() {
        // The agent's own groups would give programs rights that their user does not have.
        rustix::thread::set_thread_groups(&[])
            .map_err(|e| format!("cannot leave the groups of this process: {e}"))?;
    }

    // Programs of the same user must not read the token in this process's memory.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|e| format!("cannot hide this process's memory: {e}"))?;
    // Orphans become children of this process, which can then kill them.
    let own = Some(rustix::process::getpid());

    rustix::process::set_child_subreaper(own).map_err(|e| format!("cannot become a subreaper: {e}"))
}

fn print_warnings(options: &ListenOptions) {
    if options.token.is_none() {
        eprint_message("warning: no token: every user of this machine can run code here");
    }

    if options.user.is_none() && rustix::process::geteuid().is_root() {
        eprint_message("warning: programs run as root; choose another user with --user");
    }
}

/// Returns 128 random bits as hexadecimal digits.
fn random_id() -> io::Result<String> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
