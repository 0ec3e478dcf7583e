use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;

/// What goes to an agent.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// One line or more.
    Line(Vec<u8>),
    /// Lines, and the bytes of a frame that the last of them announces.
    Frame(Vec<u8>, Bytes),
    /// A line that the guest's own output brings about.
    Credit(Vec<u8>),
}

/// Bytes that are gathered for one write: each write wakes the guest.
const TOGETHER_BYTES: usize = 16 * 1024;

/// Writes what is sent, for as long as there is somebody to send it.
pub(crate) async fn write(
    mut sink: OwnedWriteHalf,
    mut outbox: mpsc::UnboundedReceiver<Outgoing>,
    unwritten: Arc<AtomicUsize>,
) {
    let mut gathered = Vec::new();
    // Bytes of counted and credit that are on their way.
    let mut counted = 0;
    while let Some(first) = outbox.recv().await {
        let mut next = Some(first);
        while let Some(outgoing) = next {
            let large = match outgoing {
                Outgoing::Line(line) => {
                    gathered.extend_from_slice(&line);
                    None
                }
                Outgoing::Credit(line) => {
                    counted += line.len();
                    gathered.extend_from_slice(&line);
                    None
                }
                Outgoing::Frame(line, bytes) => {
                    counted += bytes.len();
                    gathered.extend_from_slice(&line);
                    let fits = gathered.len() + bytes.len() <= TOGETHER_BYTES;
                    if fits {
                        gathered.extend_from_slice(&bytes);
                    }
                    Some(bytes).filter(|_| !fits)
                }
            };
            if large.is_some() || gathered.len() >= TOGETHER_BYTES {
                if sink.write_all(&gathered).await.is_err() {
                    return;
                }
                gathered.clear();
            }
            if let Some(bytes) = large
                && sink.write_all(&bytes).await.is_err()
            {
                return;
            }
            if gathered.is_empty() {
                unwritten.fetch_sub(std::mem::take(&mut counted), Ordering::Relaxed);
            }
            next = outbox.try_recv().ok();
        }
        if sink.write_all(&gathered).await.is_err() {
            return;
        }
        unwritten.fetch_sub(std::mem::take(&mut counted), Ordering::Relaxed);
        gathered = Vec::new();
    }
}
