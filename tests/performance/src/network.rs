//! The network of a guest: bytes, requests and connections.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fumehood_engine::policy::{Document, NetworkLimits, RuleSpec};
use fumehood_engine::{Engine, Network, Sandbox, SpawnRequest, WriteOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::series::Series;
use crate::sessions::milliseconds;

/// The number of bytes of one transfer.
const BYTES: u64 = 64 * 1024 * 1024;
const CONNECTIONS: usize = 50;
const REQUESTS: usize = 2000;
const CONNECTS: usize = 50;
/// The program that runs in the guest, as `cargo xtask bench` built it.
const LOAD: &str = "target/x86_64-unknown-linux-gnu/guest/fumehood-guest-load";

/// The address of the server, which stands for any other host. It cannot be a loopback address, because the
/// guest has its own loopback interface.
pub(crate) const SERVER: &str = "203.0.113.10";

/// The environment variable of a process in a private network namespace.
const INSIDE: &str = "FUMEHOOD_BENCH_NETWORK";

/// Measures in a private network namespace.
pub(crate) async fn measure(engine: &Engine, rounds: u32) -> anyhow::Result<()> {
    if enter_private_network("network", rounds, &[]).await? {
        measure_inside(engine, rounds).await?;
    }

    Ok(())
}

/// Returns whether this process is in a private network namespace, which has no route to other hosts. If not,
/// runs this part with these variables in another process that is.
pub(crate) async fn enter_private_network(
    part: &str,
    rounds: u32,
    variables: &[(&str, &str)],
) -> anyhow::Result<bool> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(true);
    }

    // The server's address needs an interface: the loopback interface of the new namespace.
    let script =
        format!("ip link set lo up && ip address add {SERVER}/32 dev lo && exec \"$0\" \"$@\"");
    let mut command = tokio::process::Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }

    command.args(["--net", "sh", "-c", &script]);
    command.arg(std::env::current_exe()?);
    let status = command
        .args([rounds.to_string().as_str(), part])
        .env(INSIDE, "1")
        .envs(variables.iter().copied())
        .status()
        .await
        .context("cannot create a network namespace: install util-linux and iproute2")?;

    ensure!(
        status.success(),
        "the measurements of `{part}` ended with {status}"
    );

    Ok(false)
}

/// Measures from a guest that may only connect to the server of this process.
async fn measure_inside(engine: &Engine, rounds: u32) -> anyhow::Result<()> {
    let server = serve().await?;
    let document = Document {
        allow: vec![RuleSpec::parse_word(&server.to_string())?],
        // The rounds run without a pause between them.
        limits: NetworkLimits {
            connections_per_s: u32::MAX,
            ..NetworkLimits::default()
        },
        ..Document::default()
    };

    let sandbox = engine
        .sandbox()
        .network(Network::new(document.policy("bench")?))
        .await?;

    let load = std::fs::read(LOAD)
        .with_context(|| format!("cannot read {LOAD}: run `cargo xtask bench`"))?;
    let options = WriteOptions {
        mode: Some(0o755),
        ..WriteOptions::default()
    };

    sandbox
        .files()
        .write_with_options("load", load, options)
        .await?;
    bytes(&sandbox, server, rounds).await?;
    requests(&sandbox, server, rounds).await?;
    connections(&sandbox, server).await?;
    sandbox.end().await;

    Ok(())
}

/// Measures transfers in both directions.
async fn bytes(sandbox: &Sandbox, server: SocketAddr, rounds: u32) -> anyhow::Result<()> {
    let target_ms = milliseconds(BYTES, 60.0);
    for (direction, title) in [
        ("down", "network: 64 MiB to the guest (60 MB/s)"),
        ("up", "network: 64 MiB from the guest (60 MB/s)"),
    ] {
        let mut series = Series::with_target(title, target_ms);
        for _ in 0..rounds {
            let words = [direction, &server.to_string(), &BYTES.to_string()].map(String::from);
            series.add(load(sandbox, &words).await?[0]);
        }
        series.print();
    }

    Ok(())
}

/// Measures requests over many connections.
async fn requests(sandbox: &Sandbox, server: SocketAddr, rounds: u32) -> anyhow::Result<()> {
    let mut series = Series::with_target(
        "network: 2,000 requests over 50 connections (1,000/s)",
        2000.0,
    );

    for _ in 0..rounds {
        let (connections, times) = (CONNECTIONS.to_string(), REQUESTS.to_string());
        let words = ["requests".into(), server.to_string(), connections, times];
        series.add(load(sandbox, &words).await?[0]);
    }

    series.print();

    Ok(())
}

/// Measures connections from the guest, and from this host without a guest.
async fn connections(sandbox: &Sandbox, server: SocketAddr) -> anyhow::Result<()> {
    let mut direct = Series::new("network: a connection from this host");
    for _ in 0..CONNECTS {
        let start = Instant::now();
        drop(TcpStream::connect(server).await?);
        direct.add(start.elapsed());
    }

    let mut through = Series::with_target("network: a connection from the guest", 3.0);
    let words = ["connect".into(), server.to_string(), CONNECTS.to_string()];
    for took in load(sandbox, &words).await? {
        through.add(took);
    }

    direct.print();
    through.print();

    Ok(())
}

/// Runs the load program in the guest. Returns the times that it measured.
async fn load(sandbox: &Sandbox, words: &[String]) -> anyhow::Result<Vec<Duration>> {
    let argv = std::iter::once("./load".to_string()).chain(words.iter().cloned());
    let mut run = sandbox.spawn(&SpawnRequest::new(argv).timeout_s(120))?;
    let mut output = Vec::new();

    while let Some(event) = run.next().await {
        match event {
            fumehood_engine::Event::Stdout(chunk) | fumehood_engine::Event::Stderr(chunk) => {
                output.extend_from_slice(&chunk);
            }
            _ => {}
        }
    }

    let text = String::from_utf8_lossy(&output).into_owned();
    let outcome = run.outcome().await?;
    ensure!(outcome.exit_code == Some(0), "{words:?}: {text}");
    let lines = text
        .lines()
        .map(|line| Ok(Duration::from_micros(line.parse()?)));

    lines.collect()
}

/// Starts the server and returns its address.
async fn serve() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((SERVER, 0)).await?;
    let at = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            // An error ends only this connection.
            tokio::spawn(async move { answer(client).await });
        }
    });

    Ok(at)
}

/// Serves one connection: a download, an upload, or requests.
async fn answer(mut client: TcpStream) -> anyhow::Result<()> {
    client.set_nodelay(true)?;
    let mut buffer = vec![0; 256 * 1024];
    let read = client.read(&mut buffer).await?;
    let line = String::from_utf8_lossy(&buffer[..read.min(40)]).into_owned();
    let number = line.lines().next().and_then(|l| l.split_once(' '));

    match number {
        Some(("DOWN", bytes)) => {
            let mut left: u64 = bytes.parse()?;
            while left > 0 {
                let now = usize::try_from(left)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len());
                client.write_all(&buffer[..now]).await?;
                left -= now as u64;
            }
        }
        Some(("UP", bytes)) => {
            let head = line.find('\n').context("the request has no first line")? + 1;
            let mut left = bytes.parse::<u64>()?.saturating_sub((read - head) as u64);
            while left > 0 {
                let received = client.read(&mut buffer).await? as u64;
                ensure!(received > 0, "the client closed the connection early");
                left = left.saturating_sub(received);
            }
            client.write_all(b"k").await?;
        }
        // Requests, one at a time.
        _ => loop {
            client
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await?;
            if client.read(&mut buffer).await? == 0 {
                break;
            }
        },
    }

    client.shutdown().await?;

    Ok(())
}
