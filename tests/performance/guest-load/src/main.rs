//! Runs in a guest and connects to the server of the network measurements. Prints times in microseconds.
//!
//! `down|up ADDRESS BYTES`, `connect ADDRESS TIMES`, `requests ADDRESS CONNECTIONS TIMES`.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::event::{PollFd, PollFlags, poll};

const BUFFER_BYTES: usize = 256 * 1024;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["down", address, bytes] => down(address.parse()?, bytes.parse()?),
        ["up", address, bytes] => up(address.parse()?, bytes.parse()?),
        ["connect", address, times] => connect(address.parse()?, times.parse()?),
        ["requests", address, connections, times] => {
            requests(address.parse()?, connections.parse()?, times.parse()?)
        }
        _ => bail!(
            "usage: down|up ADDRESS BYTES, connect ADDRESS TIMES, requests ADDRESS CONNECTIONS TIMES"
        ),
    }
}

fn print(took: Duration) {
    println!("{}", took.as_micros());
}

/// Receives this many bytes and prints the time.
fn down(address: SocketAddr, bytes: u64) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let start = Instant::now();
    stream.write_all(format!("DOWN {bytes}\n").as_bytes())?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut received = 0;

    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            read => received += read as u64,
        }
    }

    print(start.elapsed());
    ensure!(received == bytes, "received {received} bytes");

    Ok(())
}

/// Sends this many bytes and prints the time until the server has received them.
fn up(address: SocketAddr, bytes: u64) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let start = Instant::now();
    stream.write_all(format!("UP {bytes}\n").as_bytes())?;
    let buffer = vec![7; BUFFER_BYTES];
    let mut left = bytes;

    while left > 0 {
        let now = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(BUFFER_BYTES);
        stream.write_all(&buffer[..now])?;
        left -= now as u64;
    }

    // The server confirms that it has received all bytes.
    stream.read_exact(&mut [0; 1])?;
    print(start.elapsed());

    Ok(())
}

/// Opens connections one after another and prints the time of each on a line.
fn connect(address: SocketAddr, times: u32) -> anyhow::Result<()> {
    for _ in 0..times {
        let start = Instant::now();
        let stream = TcpStream::connect(address)?;
        print(start.elapsed());
        drop(stream);
    }

    Ok(())
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: load.test\r\n\r\n";

/// Sends requests over many connections, one at a time on each, and prints the time of all.
fn requests(address: SocketAddr, connections: usize, times: usize) -> anyhow::Result<()> {
    let mut streams = Vec::with_capacity(connections);
    for _ in 0..connections {
        let stream = TcpStream::connect(address)?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }

    // The first request on each connection.
    let start = Instant::now();
    let (mut sent, mut answered) = (0, 0);
    for stream in &mut streams {
        stream.write_all(REQUEST)?;
        sent += 1;
    }

    // Each answer is followed by the next request on its connection.
    let mut buffer = [0; 4096];
    while answered < times {
        for at in ready(&streams)? {
            match streams[at].read(&mut buffer) {
                Ok(0) => bail!("the server closed a connection after {answered} answers"),
                Ok(read) => ensure!(
                    buffer[..read].ends_with(b"\r\n\r\nok"),
                    "an incomplete answer"
                ),
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            }

            answered += 1;
            if sent < times {
                streams[at].write_all(REQUEST)?;
                sent += 1;
            }
        }
    }

    print(start.elapsed());

    Ok(())
}

/// Waits and returns the indices of the streams that can be read.
fn ready(streams: &[TcpStream]) -> anyhow::Result<Vec<usize>> {
    let mut watched: Vec<_> = streams
        .iter()
        .map(|stream| PollFd::new(stream, PollFlags::IN))
        .collect();
    poll(&mut watched, None).context("poll failed")?;

    Ok(watched
        .iter()
        .enumerate()
        .filter(|(_, fd)| !fd.revents().is_empty())
        .map(|(at, _)| at)
        .collect())
}
