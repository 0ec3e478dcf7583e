//! The requests that establish and check a connection: `hello` and `ping`.

use super::envelope::{request, response};

request! {
    /// Asks whether the agent is there. The agent answers with `pong`.
    #[derive(Default)]
    Ping {}
}

response! {
    /// The answer to `ping`.
    Pong {
        /// The version of the agent.
        version: String,
    }
}

request! {
    /// The first request of a version-1 connection. The agent answers with `hello`.
    #[derive(Default)]
    Hello {
        /// The highest version that the client supports. The answer states the version that both support.
        protocol: u32,
        /// The secret of an agent that listens on TCP.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<String>,
        /// Returned in the answer. A client on a connection that may hold stale bytes discards everything
        /// before it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nonce: Option<String>,
        /// The features that the client requests. The agent ignores those that it does not know.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        features: Vec<String>,
    }
}

response! {
    /// The answer to `hello`: the version and the features of this connection from now on.
    HelloReply {
        /// The version of the agent.
        version: String,
        /// The agreed protocol version: the lower of both sides' highest.
        protocol: u32,
        /// The requested features that the agent has. They are active from now on.
        features: Vec<String>,
        /// Differs after every boot, so that a client can recognise that its guest was replaced.
        boot_id: String,
        /// The nonce of the request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nonce: Option<String>,
    }
}
