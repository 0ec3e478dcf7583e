//! Readers that are slow, stuck or gone, and clients that send only half of something.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;

use crate::fault::{Fault, Promise, Scene};
use crate::http::Exchange;
use crate::work::{CommandJob, Ended, SLEEP, Work};

/// A program that prints more than all buffers on the way hold.
const MUCH: &str = "echo up; seq 2000000";
/// The end of its output.
const MUCH_END: &str = "2000000";

pub(super) fn faults() -> Vec<Fault> {
    vec![
        Fault::anytime("reader-vanishes", Work::Stream(MUCH), |t| {
            t.job.vanish();
            Ok(())
        })
        .within(5),
        Fault::up("reader-of-session-vanishes", Work::Session(SLEEP), |t| {
            t.job.vanish();
            Ok(())
        })
        .within(5),
        Fault::up("request-vanishes", Work::Stream(SLEEP), |t| {
            t.job.vanish();
            Ok(())
        })
        .within(5),
        Fault::up("stdout-closed", Work::Command(&[], "echo up; yes"), |t| {
            t.job.vanish();
            Ok(())
        })
        .promise(Promise::exits(&[141]))
        .within(10),
        Fault::up(
            "stdout-closed-through-server",
            Work::ThroughServer("echo up; yes"),
            |t| {
                t.job.vanish();
                Ok(())
            },
        )
        .promise(Promise::exits(&[141]))
        .within(10),
        Fault::scene("stuck-reader-of-events", stuck_reader)
            .promise(Promise::causes_of(&["exited"]).says(MUCH_END))
            .within(40),
        Fault::scene("stuck-reader-of-stdout", stuck_stdout)
            .promise(Promise::exits(&[0]).says(MUCH_END))
            .within(40),
        Fault::scene("half-a-request", half_a_request).promise(Promise::statuses(&[200])),
        Fault::scene("silent-connections", silent_connections).promise(Promise::statuses(&[200])),
    ]
}

/// How long a reader is stuck.
const PAUSE: Duration = Duration::from_secs(2);

/// A client reads nothing for a while. The server answers others meanwhile, and all output arrives at last.
fn stuck_reader(s: &mut Scene<'_>) -> anyhow::Result<Ended> {
    let body = format!("{{\"language\":\"shell\",\"code\":\"{MUCH}\"}}");
    let socket = s.world.places.socket();
    let accept = "text/event-stream";
    let stream = Exchange::start(&socket, "POST", "/v1/runs", accept, body.as_bytes())?;

    thread::sleep(PAUSE);
    s.world.expect("GET", "/healthz", &Value::Null, 200)?;
    Ended::of_request(stream.finish(s.world.deadline(s.within_s)))
}

/// The same with a pipe.
fn stuck_stdout(s: &mut Scene<'_>) -> anyhow::Result<Ended> {
    let job = CommandJob::start_unread(s.world, &["run", "-l", "shell", "-c", MUCH], PAUSE)?;
    job.finish(s.world.deadline(s.within_s))
}

/// Clients send the head of a request, or a part of its body, and go away.
fn half_a_request(s: &mut Scene<'_>) -> anyhow::Result<Ended> {
    let request =
        b"POST /v1/runs HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4000\r\n\r\n{\"language\":";
    for _ in 0..20 {
        let mut stream = UnixStream::connect(s.world.places.socket())?;
        let length = s.random.below(request.len() as u64);
        stream.write_all(&request[..usize::try_from(length)?])?;
    }
    healthy(s)
}

/// Clients connect and say nothing.
fn silent_connections(s: &mut Scene<'_>) -> anyhow::Result<Ended> {
    let socket = s.world.places.socket();
    let silent: Result<Vec<_>, _> = (0..200).map(|_| UnixStream::connect(&socket)).collect();
    ensure!(silent?.len() == 200, "not all could connect");
    healthy(s)
}

fn healthy(s: &Scene<'_>) -> anyhow::Result<Ended> {
    Ended::of_request(s.world.request("GET", "/healthz", &Value::Null))
}
