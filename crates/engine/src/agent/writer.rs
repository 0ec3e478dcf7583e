use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;

/// A message to an agent.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// One or more lines.
    Line(Vec<u8>),
    /// Lines, and the bytes of the frame that the last one announces.
    Frame(Vec<u8>, Bytes),
    /// A line that is caused by the guest's own output.
    Credit(Vec<u8>),
}

/// Messages are combined up to this size for one write, in bytes: each write wakes the guest.
const BATCH_BYTES: usize = 16 * 1024;

/// Writes messages until all senders are dropped or the socket is closed.
pub(crate) async fn write(
    mut sink: OwnedWriteHalf,
    mut outbox: mpsc::UnboundedReceiver<Outgoing>,
    unwritten: Arc<AtomicUsize>,
) {
    let mut batch = Vec::new();
    // Bytes of input and credit in this batch.
    let mut counted = 0;
    while let Some(first) = outbox.recv().await {
        let mut next = Some(first);
        while let Some(outgoing) = next {
            // Add the message to the batch, except for a large frame.
            let large = match outgoing {
                Outgoing::Line(line) => {
                    batch.extend_from_slice(&line);
                    None
                }
                Outgoing::Credit(line) => {
                    counted += line.len();
                    batch.extend_from_slice(&line);
                    None
                }
                Outgoing::Frame(line, bytes) => {
                    counted += bytes.len();
                    batch.extend_from_slice(&line);
                    let fits = batch.len() + bytes.len() <= BATCH_BYTES;

                    if fits {
                        batch.extend_from_slice(&bytes);
                    }

                    Some(bytes).filter(|_| !fits)
                }
            };

            // Write a full batch, and a large frame after it.
            if large.is_some() || batch.len() >= BATCH_BYTES {
                if sink.write_all(&batch).await.is_err() {
                    return;
                }
                batch.clear();
            }

            if let Some(bytes) = large
                && sink.write_all(&bytes).await.is_err()
            {
                return;
            }

            if batch.is_empty() {
                unwritten.fetch_sub(std::mem::take(&mut counted), Ordering::Relaxed);
            }

            next = outbox.try_recv().ok();
        }

        // No more messages are waiting: write the rest.
        if sink.write_all(&batch).await.is_err() {
            return;
        }

        unwritten.fetch_sub(std::mem::take(&mut counted), Ordering::Relaxed);
        batch = Vec::new();
    }
}
