//! The destination of the log.

use std::io::{self, Write};

/// Standard error, for the log. Lines that cannot be written are dropped: a full disk or a closed pipe behind the log must
/// not fail the operation that is logged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().lock().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
