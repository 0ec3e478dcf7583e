//! `fumehood serve`: the HTTP server.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use fumehood_engine::{Config, Engine, Pool};
use fumehood_server::{Listeners, OnIdle, Service, Settings, Store, default_socket};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::mcp::load_network;
use crate::args::{HostArgs, ServeArgs};
use crate::commands::runtime::start_runtime;
use crate::io::{LogLimit, LogWriter, print_line};

/// Serves with at most this many descriptors.
pub(crate) fn run(args: &ServeArgs, host: &HostArgs, descriptors: u64) -> anyhow::Result<ExitCode> {
    if args.background {
        // Ctrl-C at the terminal, or closing it, does not end this server. A shell that calls this leads a session already.
        let _ = rustix::process::setsid();
    }

    fumehood_engine::bound_heap();
    let runtime = start_runtime()?;
    let result = runtime.block_on(serve(args, host, descriptors));

    // A task that does not end must not keep the process alive. QEMU dies with it.
    runtime.shutdown_background();
    result?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: &ServeArgs, host: &HostArgs, descriptors: u64) -> anyhow::Result<()> {
    let shares = DescriptorShares::of(descriptors);
    let config = config(args, host);
    let settings = settings(args, &shares)?;

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
    let listeners = listeners.with_max_connections(shares.connections_per_listener);
    listeners.serve(&service, shutdown).await;
    Ok(())
}

/// How the descriptors of this process are shared: an eighth for the connections of each of the two listeners, and half for
/// those of VMs, which take up to two each. The rest, a quarter, starts VMs, opens files and accepts connections.
#[derive(Debug, PartialEq, Eq)]
struct DescriptorShares {
    connections_per_listener: usize,
    vm_connections: usize,
}

impl DescriptorShares {
    /// More connections than this need more memory than descriptors.
    const MAX_VM_CONNECTIONS: usize = 16_384;

    fn of(descriptors: u64) -> Self {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        Self {
            connections_per_listener: descriptors / 8,
            vm_connections: (descriptors / 4).clamp(1, Self::MAX_VM_CONNECTIONS),
        }
    }
}

fn config(args: &ServeArgs, host: &HostArgs) -> Config {
    let mut config = host.config();
    config.queue_length = args.queue;
    config.queue_deadline = Duration::from_secs(args.queue_s);
    config.refuse_under_pressure = true;
    config.limits.timeout_s = args.timeout.seconds;
    config.pool = Pool {
        warm_vms: args.warm_vms,
        ..Pool::default()
    };
    config
}

fn settings(args: &ServeArgs, shares: &DescriptorShares) -> anyhow::Result<Settings> {
    Ok(Settings {
        state: args.state.clone().unwrap_or_else(Store::default_path),
        allowed_hosts: args.host.clone(),
        requests_per_second: args.rate,
        drain_timeout: Duration::from_secs(args.drain_s),
        on_idle: if args.on_idle == "end" {
            OnIdle::End
        } else {
            OnIdle::Pause
        },
        max_states_per_key: args.max_states,
        max_state_bytes_per_key: args.max_state_gib << 30,
        max_state_days: args.max_state_days,
        max_timeout_s: args.timeout.seconds,
        max_vm_connections: shares.vm_connections,
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

    // Nothing can fail any more, so clients may connect once they read this.
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
        builder.json().finish().with(LogLimit::default()).init();
    } else {
        builder.finish().with(LogLimit::default()).init();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_left_for_vms_and_doors() {
        for descriptors in [64, 1024, 524_288] {
            let shares = DescriptorShares::of(descriptors);
            let taken = 2 * shares.connections_per_listener + 2 * shares.vm_connections;
            let left = usize::try_from(descriptors).unwrap() - taken;
            assert!(
                left >= usize::try_from(descriptors / 4).unwrap(),
                "{shares:?}"
            );
        }
    }

    #[test]
    fn vms_get_their_share_of_the_descriptors() {
        #[derive(clap::Parser)]
        struct Server {
            #[command(flatten)]
            args: ServeArgs,
        }

        let server = <Server as clap::Parser>::parse_from(["serve"]);
        for descriptors in [64, 4096] {
            let settings = settings(&server.args, &DescriptorShares::of(descriptors)).unwrap();
            assert_eq!(settings.max_vm_connections as u64, descriptors / 4);
        }
    }
}
