//! Operations that outlive their connection: `detach` and `attach`.

use super::envelope::{control_request, request, response};
use crate::value::IdempotencyKey;

control_request! {
    /// Stops following an operation that has an `idempotency_key`. It continues, and the agent answers with
    /// `detached`.
    Detach {}
}

response! {
    /// The operation continues without this client, and a client can attach to it.
    Detached {}
}

request! {
    /// Follows the operation with this key, starting at its output chunk `from_seq`. The agent answers with
    /// `attached`, output, and one `complete`. A client that followed it before receives `detached`.
    Attach {
        /// The key of the operation.
        idempotency_key: IdempotencyKey,
        /// The first output chunk to send.
        #[serde(default)]
        from_seq: u64,
        /// Bytes of output that may be sent before the first `credit`, as in `exec`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credit: Option<u64>,
    }
}

response! {
    /// This client follows the operation from here on.
    Attached {
        /// The first output chunk that is sent. It is later than the requested one if that was dropped.
        seq: u64,
        /// The process id in the guest, while there is a process.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<i32>,
        /// Bytes of input received so far, if the operation takes input.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input_bytes: Option<u64>,
        /// Bytes of input that may be sent now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input_credit: Option<u64>,
    }
}
