//! `fumehood serve`: the HTTP server.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use fumehood_engine::{Config, Engine, Pool};
use fumehood_server::{Listeners, Service, Settings, Store, default_socket};
use tokio::signal::unix::{SignalKind, signal};

use super::mcp::load_network;
use super::runtime::start_runtime;
use crate::args::{HostArgs, ServeArgs};
use crate::io::{LogWriter, print_line};

pub(crate) fn run(args: &ServeArgs, host: &HostArgs) -> anyhow::Result<ExitCode> {
    let runtime = start_runtime()?;
    let result = runtime.block_on(serve(args, host));

    // A task that does not end must not keep the process alive. QEMU dies with it.
    runtime.shutdown_background();
    result?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: &ServeArgs, host: &HostArgs) -> anyhow::Result<()> {
    let (config, settings) = (config(args, host), settings(args)?);

    // Install the handlers before the socket is announced, so that an early signal ends the server cleanly.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let service = Service::open_with(move || Engine::start(config.clone()), settings)?;
    let listeners = listen(args, &service).await?;

    let idle = async {
        match args.exit_when_idle {
            Some(seconds) => service.wait_until_idle(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    let shutdown = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = idle => tracing::info!("shutting down: idle for the configured time"),
        }
    };
    listeners.serve(&service, shutdown).await;
    Ok(())
}

fn config(args: &ServeArgs, host: &HostArgs) -> Config {
    let mut config = host.config();
    config.queue_length = args.queue;
    config.queue_deadline = Duration::from_secs(args.queue_s);
    config.refuse_under_pressure = true;
    config.limits.timeout_s = args.timeout.seconds;
    config.pool = Pool {
        warm_vms: args.warm_vms,
        standby_processes: args.standby_processes,
        ..Pool::default()
    };
    config
}

fn settings(args: &ServeArgs) -> anyhow::Result<Settings> {
    Ok(Settings {
        state: args.state.clone().unwrap_or_else(Store::default_path),
        allowed_hosts: args.host.clone(),
        requests_per_second: args.rate,
        drain_timeout: Duration::from_secs(args.drain_s),
        max_timeout_s: args.timeout.seconds,
        allow_private_networks_for_keys: args.keys_reach_private,
        mcp_policy: load_network(&args.mcp_network)?,
        ..Settings::default()
    })
}

/// Opens the listeners and prints their addresses.
async fn listen(args: &ServeArgs, service: &Service) -> anyhow::Result<Listeners> {
    let socket = args.socket.clone().unwrap_or_else(default_socket);
    let mut listeners = Listeners::default().bind_unix(&socket)?;
    let mut addresses = vec![socket.display().to_string()];
    if !args.no_tcp {
        let (with_tcp, address) = listeners.bind_tcp(service, args.listen).await?;
        listeners = with_tcp;
        addresses.push(format!("http://{address}"));
    }

    // Clients that know the path need no record, so a full disk is no reason to stop.
    if let Err(error) = service.store().record_socket(&socket) {
        tracing::warn!(%error, "cannot record the socket for clients that look for it");
    }

    // Nothing can fail any more: whoever reads this may connect.
    for address in addresses {
        print_line(&format!("listening at {address}"))?;
    }
    Ok(listeners)
}

/// Installs the server's log on standard error. The default level is `info`.
///
/// # Errors
/// FUMEHOOD_LOG is not a valid filter.
pub(crate) fn init_log(is_json: bool) -> anyhow::Result<()> {
    let filter = std::env::var("FUMEHOOD_LOG").unwrap_or_else(|_| "info".into());
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .context("FUMEHOOD_LOG is not a valid log filter")?;

    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(|| LogWriter);
    if is_json {
        builder.json().init();
    } else {
        builder.init();
    }
    Ok(())
}
