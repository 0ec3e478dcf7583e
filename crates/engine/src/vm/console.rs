use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// Number of bytes of a console that are stored, from its end: a kernel's panic message fits.
const TAIL_BYTES: usize = 8 * 1024;

/// Reads a guest's serial console, which would block the guest otherwise, and stores its end as evidence.
#[derive(Debug)]
pub(crate) struct Console {
    tail: Arc<Mutex<VecDeque<u8>>>,
    drain: JoinHandle<()>,
}

impl Console {
    pub(crate) fn drain(mut socket: UnixStream) -> Self {
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let sink = tail.clone();
        let drain = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = socket.read(&mut buffer).await {
                let mut tail = sink.lock().unwrap_or_else(PoisonError::into_inner);
                tail.extend(&buffer[..n]);
                let excess = tail.len().saturating_sub(TAIL_BYTES);
                tail.drain(..excess);
            }
        });

        Self { tail, drain }
    }

    /// Returns the last `lines` lines, made safe to print: the guest wrote them.
    pub(crate) fn tail(&self, lines: usize) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = tail.iter().copied().collect();
        drop(tail);
        let text = String::from_utf8_lossy(&bytes);
        let printable = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>();
        let all: Vec<String> = text
            .lines()
            .map(printable)
            .filter(|line| !line.trim().is_empty())
            .collect();

        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.drain.abort();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn the_tail_is_stored_and_printable() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut console = Console::drain(ours);
        theirs.write_all(&vec![b'x'; 100_000]).await.unwrap();
        theirs
            .write_all(b"\nKernel \x1b[31mpanic\r\nend\n")
            .await
            .unwrap();
        drop(theirs);
        (&mut console.drain).await.unwrap();
        assert_eq!(console.tail(2), "Kernel [31mpanic\nend");
        assert!(console.tail.lock().unwrap().len() <= TAIL_BYTES);
    }
}
