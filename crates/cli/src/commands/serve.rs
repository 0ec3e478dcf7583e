use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use fumehood_engine::{Engine, Pool};
use fumehood_server::{Listeners, Service, Settings, Store, default_socket};
use tokio::signal::unix::{SignalKind, signal};

use super::{runtime, say};
use crate::args::{Host, Serve};

pub(crate) fn run(args: &Serve, host: &Host) -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    let served = runtime.block_on(serve(args, host));
    // A task that does not end must not hold the command: QEMU dies with it.
    runtime.shutdown_background();
    served?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: &Serve, host: &Host) -> anyhow::Result<()> {
    let mut config = host.config();
    config.queue_length = args.queue;
    config.queue_deadline = Duration::from_secs(args.queue_s);
    config.refuse_under_pressure = true;
    config.pool = Pool {
        warm_vms: args.hot,
        standby_processes: args.blank,
        ..Pool::default()
    };
    let settings = Settings {
        state: args.state.clone().unwrap_or_else(Store::default_path),
        hosts: args.host.clone(),
        rate: args.rate,
        drain: Duration::from_secs(args.drain_s),
        keys_reach_special: args.keys_reach_private,
        agents_network: super::mcp::network(&args.agents)?,
        ..Settings::default()
    };
    // Before anybody is told that this listens: who is to be ended is, however early that is asked.
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let service = Service::open_with(move || Engine::start(config.clone()), settings)?;
    let socket = args.socket.clone().unwrap_or_else(default_socket);
    let mut listeners = Listeners::default().unix(&socket)?;
    say(&format!("listening at {}", socket.display()))?;
    if !args.no_tcp {
        let (with_tcp, at) = listeners.tcp(&service, args.listen).await?;
        listeners = with_tcp;
        say(&format!("listening at http://{at}"))?;
    }
    let idle = async {
        match args.exit_when_idle {
            Some(seconds) => service.idle(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    let end = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = idle => tracing::info!("nothing was asked for long enough"),
        }
    };
    listeners.serve(&service, end).await;
    Ok(())
}

/// Begins the log of a server, on standard error.
pub(crate) fn log(is_json: bool) -> anyhow::Result<()> {
    let filter = std::env::var("FUMEHOOD_LOG").unwrap_or_else(|_| "info".into());
    let filter = tracing_subscriber::EnvFilter::try_new(filter).context("FUMEHOOD_LOG")?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match is_json {
        true => builder.json().init(),
        false => builder.init(),
    }
    Ok(())
}
