//! Runs in a guest: speaks with the server of the network's measurements, and prints microseconds.
//!
//! `down|up ADDRESS BYTES`, `connect ADDRESS TIMES`, `requests ADDRESS CONNECTIONS TIMES`.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::event::{PollFd, PollFlags, poll};

const PIECE_BYTES: usize = 256 * 1024;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["down", address, bytes] => down(address.parse()?, bytes.parse()?),
        ["up", address, bytes] => up(address.parse()?, bytes.parse()?),
        ["connect", address, times] => connect(address.parse()?, times.parse()?),
        ["requests", address, connections, times] => {
            requests(address.parse()?, connections.parse()?, times.parse()?)
        }
        _ => bail!(
            "down|up ADDRESS BYTES, connect ADDRESS TIMES, requests ADDRESS CONNECTIONS TIMES"
        ),
    }
}

fn print(took: Duration) {
    println!("{}", took.as_micros());
}

fn down(address: SocketAddr, bytes: u64) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let begun = Instant::now();
    stream.write_all(format!("DOWN {bytes}\n").as_bytes())?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut came = 0;

    loop {
        match stream.read(&mut piece)? {
            0 => break,
            read => came += read as u64,
        }
    }

    print(begun.elapsed());
    ensure!(came == bytes, "{came} bytes came");

    Ok(())
}

fn up(address: SocketAddr, bytes: u64) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let begun = Instant::now();
    stream.write_all(format!("UP {bytes}\n").as_bytes())?;
    let piece = vec![7; PIECE_BYTES];
    let mut left = bytes;

    while left > 0 {
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
        stream.write_all(&piece[..now])?;
        left -= now as u64;
    }

    // The server's word that it has all of them.
    stream.read_exact(&mut [0; 1])?;
    print(begun.elapsed());

    Ok(())
}

/// Each on a line.
fn connect(address: SocketAddr, times: u32) -> anyhow::Result<()> {
    for _ in 0..times {
        let begun = Instant::now();
        let stream = TcpStream::connect(address)?;
        print(begun.elapsed());
        drop(stream);
    }

    Ok(())
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: load.test\r\n\r\n";

/// Keeps each connection busy with one request at a time.
fn requests(address: SocketAddr, connections: usize, times: usize) -> anyhow::Result<()> {
    let mut streams = Vec::with_capacity(connections);
    for _ in 0..connections {
        let stream = TcpStream::connect(address)?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }

    let begun = Instant::now();
    let (mut sent, mut answered) = (0, 0);
    for stream in &mut streams {
        stream.write_all(REQUEST)?;
        sent += 1;
    }

    let mut piece = [0; 4096];
    while answered < times {
        for at in ready(&streams)? {
            match streams[at].read(&mut piece) {
                Ok(0) => bail!("the server has closed after {answered} answers"),
                Ok(read) => ensure!(piece[..read].ends_with(b"\r\n\r\nok"), "half an answer"),
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

    print(begun.elapsed());

    Ok(())
}

fn ready(streams: &[TcpStream]) -> anyhow::Result<Vec<usize>> {
    let watched = streams.iter().map(|s| PollFd::new(s, PollFlags::IN));
    let mut watched: Vec<_> = watched.collect();
    poll(&mut watched, None).context("nothing can be waited for")?;
    let ready = watched.iter().enumerate();
    let ready = ready.filter(|(_, fd)| !fd.revents().is_empty());
    Ok(ready.map(|(at, _)| at).collect())
}
