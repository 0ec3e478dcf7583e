use fumehood_gateway::Summary;
use serde::Serialize;

/// What a guest did on its network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NetworkOutcome {
    /// URLs of its exposed ports on this host, in the order of the request.
    pub urls: Vec<String>,
    /// Connections, bytes, and denials.
    #[serde(flatten)]
    pub summary: Summary,
}
