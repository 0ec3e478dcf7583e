use fumehood_protocol::Limits;

/// What an operator decides, once, at the agent's start.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// What a client may ask for at most.
    pub(crate) limits: Limits,
    /// The secret that `hello` must bring; none in our own VMs and with `--no-token`.
    pub(crate) token: Option<String>,
    /// Differs after every boot.
    pub(crate) boot_id: String,
}

/// The agent's version, as every answer names it.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
