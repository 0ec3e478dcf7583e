//! What a guest's network takes: bytes, requests, connections, beside the same without a guest.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fumehood_engine::policy::{Document, NetworkLimits, RuleSpec};
use fumehood_engine::{Engine, Network, Sandbox, SpawnRequest, WriteOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::series::Series;
use super::sessions::milliseconds;

/// Bytes of one transfer.
const BYTES: u64 = 64 * 1024 * 1024;
const CONNECTIONS: usize = 50;
const REQUESTS: usize = 2000;
const CONNECTS: usize = 50;
/// The program that runs in the guest, as `cargo xtask bench` built it.
const LOAD: &str = "target/x86_64-unknown-linux-gnu/guest/fumehood-guest-load";

/// Where the server is: an address that stands for any other host's. A guest has a loopback interface of its own.
pub(crate) const SERVER: &str = "203.0.113.10";

/// Marks a process that is in a network of its own.
const INSIDE: &str = "FUMEHOOD_BENCH_NETWORK";

/// Measures in a network of its own.
pub(crate) async fn measure(engine: &Engine, rounds: u32) -> anyhow::Result<()> {
    match in_a_network("network", rounds, &[]).await? {
        true => measure_inside(engine, rounds).await,
        false => Ok(()),
    }
}

/// Whether this process is in a network of its own, which leads nowhere. Else another process measures this part
/// there, with these variables.
pub(crate) async fn in_a_network(
    part: &str,
    rounds: u32,
    variables: &[(&str, &str)],
) -> anyhow::Result<bool> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(true);
    }

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
        .context("a network of its own cannot be made; install util-linux and iproute2")?;

    ensure!(
        status.success(),
        "the measurements of {part} ended with {status}"
    );

    Ok(false)
}

async fn measure_inside(engine: &Engine, rounds: u32) -> anyhow::Result<()> {
    let server = serve().await?;
    let document = Document {
        allow: vec![RuleSpec::parse_word(&server.to_string())?],
        // The rounds follow each other without a pause.
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

    let load = std::fs::read(LOAD).with_context(|| format!("{LOAD} is not there"))?;
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

async fn bytes(sandbox: &Sandbox, server: SocketAddr, rounds: u32) -> anyhow::Result<()> {
    let most = milliseconds(BYTES, 60.0);
    for (way, title) in [
        ("down", "network: 64 MiB to the guest (60 MB/s)"),
        ("up", "network: 64 MiB from the guest (60 MB/s)"),
    ] {
        let mut series = Series::to_reach(title, most);
        for _ in 0..rounds {
            let words = [way, &server.to_string(), &BYTES.to_string()].map(String::from);
            series.add(load(sandbox, &words).await?[0]);
        }
        series.print(None);
    }

    Ok(())
}

async fn requests(sandbox: &Sandbox, server: SocketAddr, rounds: u32) -> anyhow::Result<()> {
    let mut series = Series::to_reach(
        "network: 2,000 requests over 50 connections (1,000/s)",
        2000.0,
    );

    for _ in 0..rounds {
        let (connections, times) = (CONNECTIONS.to_string(), REQUESTS.to_string());
        let words = ["requests".into(), server.to_string(), connections, times];
        series.add(load(sandbox, &words).await?[0]);
    }

    series.print(None);

    Ok(())
}

/// From the guest, and from this host without one.
async fn connections(sandbox: &Sandbox, server: SocketAddr) -> anyhow::Result<()> {
    let mut direct = Series::new("network: a connection from this host");
    for _ in 0..CONNECTS {
        let begun = Instant::now();
        drop(TcpStream::connect(server).await?);
        direct.add(begun.elapsed());
    }

    let mut through = Series::to_reach("network: a connection from the guest", 3.0);
    let words = ["connect".into(), server.to_string(), CONNECTS.to_string()];
    for took in load(sandbox, &words).await? {
        through.add(took);
    }

    direct.print(None);
    through.print(None);

    Ok(())
}

/// What the program in the guest took, by its own clock.
async fn load(sandbox: &Sandbox, words: &[String]) -> anyhow::Result<Vec<Duration>> {
    let argv = std::iter::once("./load".to_string()).chain(words.iter().cloned());
    let mut run = sandbox.spawn(&SpawnRequest::new(argv).timeout_s(120))?;
    let mut text = Vec::new();

    while let Some(event) = run.next().await {
        match event {
            fumehood_engine::Event::Stdout(piece) | fumehood_engine::Event::Stderr(piece) => {
                text.extend_from_slice(&piece);
            }
            _ => {}
        }
    }

    let text = String::from_utf8_lossy(&text).into_owned();
    let outcome = run.outcome().await?;
    ensure!(outcome.exit_code == Some(0), "{words:?}: {text}");
    let lines = text
        .lines()
        .map(|line| Ok(Duration::from_micros(line.parse()?)));

    lines.collect()
}

async fn serve() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((SERVER, 0)).await?;
    let at = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            // A client that goes away ends its own connection alone.
            tokio::spawn(async move { answer(client).await });
        }
    });

    Ok(at)
}

async fn answer(mut client: TcpStream) -> anyhow::Result<()> {
    client.set_nodelay(true)?;
    let mut piece = vec![0; 256 * 1024];
    let read = client.read(&mut piece).await?;
    let line = String::from_utf8_lossy(&piece[..read.min(40)]).into_owned();
    let number = line.lines().next().and_then(|l| l.split_once(' '));

    match number {
        Some(("DOWN", bytes)) => {
            let mut left: u64 = bytes.parse()?;
            while left > 0 {
                let now = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                client.write_all(&piece[..now]).await?;
                left -= now as u64;
            }
        }
        Some(("UP", bytes)) => {
            let head = line.find('\n').context("no line")? + 1;
            let mut left: u64 = bytes.parse::<u64>()? - (read - head) as u64;
            while left > 0 {
                left -= client.read(&mut piece).await? as u64;
            }
            client.write_all(b"k").await?;
        }
        // Requests, one at a time.
        _ => loop {
            client
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await?;
            if client.read(&mut piece).await? == 0 {
                break;
            }
        },
    }

    client.shutdown().await?;

    Ok(())
}
