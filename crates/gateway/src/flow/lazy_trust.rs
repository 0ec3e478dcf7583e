//! The host's trust store, loaded when it is first needed.

use crate::tls::Trust;

/// The certificate authorities that this host trusts, loaded when they are first needed.
#[derive(Debug, Default)]
pub(super) struct LazyTrust(tokio::sync::OnceCell<Trust>);

impl LazyTrust {
    pub(super) async fn get(&self) -> Result<&Trust, String> {
        let load = || async {
            let loaded = tokio::task::spawn_blocking(Trust::of_host).await;
            let loaded = loaded.map_err(|e| e.to_string())?;
            loaded.map_err(|e| e.to_string())
        };
        self.0.get_or_try_init(load).await
    }
}
