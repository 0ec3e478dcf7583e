//! `sandbox exec` and `sandbox shell`: programs in a sandbox.

use std::pin::pin;

use anyhow::bail;
use serde_json::{Map, Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::follow::{report, start, start_detached, write_output};
use super::lookup::{SandboxInfo, find};
use crate::args::{EnvironmentArgs, SandboxExecArgs, SandboxShellArgs};
use crate::commands::terminal::TerminalSession;
use crate::exit_code::INTERRUPTED;
use crate::io::{Interrupts, StdinForwarder, terminal_size};
use crate::server_client::{ServerClient, ServerRun};

/// The signal that ends this command, counted from the first one.
const LAST_SIGNAL: u32 = 3;

/// Runs a program.
///
/// # Errors
/// There is no such sandbox, or the program cannot be started.
pub(super) async fn exec(
    server: &ServerClient,
    args: &SandboxExecArgs,
    interrupts: &mut Interrupts,
) -> anyhow::Result<u8> {
    let sandbox = find(server, &args.sandbox).await?;
    let mut body = program(&args.command, &args.environment)?;
    body["cwd"] = json!(args.cwd);
    body["timeout_s"] = json!(args.timeout);

    let path = format!("{}/processes", sandbox.path());
    if args.detach {
        return start_detached(server, &path, body).await;
    }
    if args.tty {
        return on_terminal(server, &sandbox, body, args.timeout, interrupts).await;
    }

    let forwards_stdin = args.input.forwards_stdin(false);
    body["stdin"] = json!(forwards_stdin);
    let mut signals = ForwardedSignals::new()?;
    let run = start(server, &path, &body).await?;
    let _stdin = forwards_stdin.then(|| run.forward_stdin());
    follow(run, &mut signals, args.timeout, sandbox.memory_mib).await
}

/// Writes the output of a program until it ends, and passes on signals to it. The last one leaves it; the server then
/// cancels it.
async fn follow(
    run: ServerRun,
    signals: &mut ForwardedSignals,
    timeout_s: u64,
    memory_mib: u32,
) -> anyhow::Result<u8> {
    let control = run.control();
    let mut output = pin!(write_output(run));
    let mut count = 0;

    loop {
        tokio::select! {
            outcome = &mut output => return Ok(report(&outcome?, timeout_s, memory_mib)),
            signal = signals.next() => {
                count += 1;
                if count == LAST_SIGNAL {
                    control.cancel().await;
                    return Ok(INTERRUPTED);
                }
                control.signal(signal.as_raw_value());
            }
        }
    }
}

/// Opens a shell on a terminal.
///
/// # Errors
/// As [`exec`].
pub(super) async fn shell(
    server: &ServerClient,
    args: &SandboxShellArgs,
    interrupts: &mut Interrupts,
) -> anyhow::Result<u8> {
    let sandbox = find(server, &args.sandbox).await?;
    let shell = ["bash", "-l"].map(str::to_owned);
    let command = match args.command.is_empty() {
        true => &shell[..],
        false => &args.command,
    };
    let body = program(command, &args.environment)?;
    on_terminal(server, &sandbox, body, 0, interrupts).await
}

/// Returns the request for a program without a terminal or input.
fn program(command: &[String], environment: &EnvironmentArgs) -> anyhow::Result<Value> {
    if command.first().is_none_or(String::is_empty) {
        bail!("no program given; name one after the sandbox");
    }

    let variables = environment.variables()?.into_iter();
    let env: Map<_, _> = variables
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    Ok(json!({ "argv": command, "env": env }))
}

/// Runs a program on a terminal that is connected with this one.
async fn on_terminal(
    server: &ServerClient,
    sandbox: &SandboxInfo,
    mut body: Value,
    timeout_s: u64,
    interrupts: &mut Interrupts,
) -> anyhow::Result<u8> {
    // The program needs to know the capabilities of this terminal.
    if let Ok(terminal_type) = std::env::var("TERM")
        && body["env"]["TERM"].is_null()
    {
        body["env"]["TERM"] = terminal_type.into();
    }

    let session = TerminalSession::new()?;
    let (rows, cols) = terminal_size();
    body["pty"] = json!({ "rows": rows, "cols": cols });
    body["stdin"] = json!(true);
    let path = format!("{}/processes", sandbox.path());
    let run = start(server, &path, &body).await?;

    let control = run.control();
    let input = control.clone();
    let forward = |is_terminal| StdinForwarder::to_terminal(input, is_terminal);
    let resize = |rows, cols| control.resize(rows, cols);
    let outcome = session.run(forward, resize, write_output(run), interrupts);
    Ok(match outcome.await? {
        Some(outcome) => report(&outcome, timeout_s, sandbox.memory_mib),
        None => {
            control.cancel().await;
            INTERRUPTED
        }
    })
}

/// The signals that are passed on to a program.
struct ForwardedSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
}

impl ForwardedSignals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hangup.recv() => SignalKind::hangup(),
            _ = self.quit.recv() => SignalKind::quit(),
        }
    }
}
