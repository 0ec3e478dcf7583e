//! Requests that control a running operation: cancel, flow control, input, signals, terminal size.

use super::envelope::{control_request, is_false, response};
use crate::value::{Chunk, SignalName};

control_request! {
    /// Cancels an operation: SIGINT, then SIGTERM, then SIGKILL. The operation itself answers, by its end.
    Cancel {}
}

control_request! {
    /// Lets an operation that was started with `credit` send more bytes of output.
    Credit {
        /// The number of additional bytes.
        bytes: u64,
    }
}

control_request! {
    /// Input of an operation: standard input of a program, or content of a file. The only answer is `credit`.
    Stdin {
        /// The bytes: at most `chunk_bytes`, and in total no more than the credit granted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        chunk: Option<Chunk>,
        /// The input ends here.
        #[serde(default, skip_serializing_if = "is_false")]
        eof: bool,
    }
}

control_request! {
    /// The same input as a raw frame: exactly `len` bytes follow the newline of this line. Allowed only if
    /// [`FEATURE_RAW_FRAMES`](crate::FEATURE_RAW_FRAMES) is active.
    InputData {
        /// The number of bytes that follow: at most `chunk_bytes`.
        len: u64,
        /// The input ends after them.
        #[serde(default, skip_serializing_if = "is_false")]
        eof: bool,
    }
}

response! {
    /// Grants more input, in addition to the first `input_bytes`.
    InputCredit {
        /// The number of additional bytes.
        bytes: u64,
    }
}

control_request! {
    /// Sends a signal to the process group of an operation. Not answered.
    SendSignal {
        /// Its number, 1 to 31, or its name, as `INT` or `SIGINT`.
        signal: SignalName,
    }
}

control_request! {
    /// Resizes the terminal of an operation. Not answered; without a terminal it has no effect.
    Resize {
        /// The number of lines.
        rows: u16,
        /// The number of characters in a line.
        cols: u16,
    }
}
