//! What callers with a key may ask for. The server's own network surroundings belong to its operator.

use fumehood_engine::PortMapping;
use fumehood_engine::policy::names_special;

use super::service::Service;
use crate::api::requests::NetworkRequest;
use crate::error::{ApiError, ApiErrorKind};
use crate::owner::Owner;

impl Service {
    /// Checks that an owner may have a network: callers with a key may neither choose host ports nor, unless the
    /// operator allows it, reach private addresses and metadata services around the server.
    ///
    /// # Errors
    /// [`ApiErrorKind::Forbidden`].
    pub(crate) fn authorize_network(
        &self,
        owner: &Owner,
        network: &NetworkRequest,
    ) -> Result<(), ApiError> {
        if owner.is_local() || network.is_from_operator {
            return Ok(());
        }

        for port in &network.expose {
            self.authorize_port(owner, *port)?;
        }

        if self.0.settings.allow_private_networks_for_keys {
            return Ok(());
        }

        let allowed = network.policy.allow.iter();
        let mut nets = allowed.flat_map(|rule| &rule.addresses);
        match nets.find(|net| names_special(&net.0)) {
            None => Ok(()),
            Some(net) => Err(ApiError::new(
                ApiErrorKind::Forbidden,
                format!(
                    "`network.policy` allows {}, which includes special addresses (private, loopback, metadata); keys of \
                     this server may not reach them. Remove it, or ask the operator to start the server with \
                     --keys-reach-private",
                    net.0
                ),
            )),
        }
    }

    /// Checks that an owner may use this host port.
    ///
    /// # Errors
    /// [`ApiErrorKind::Forbidden`] if a caller with a key chooses one.
    pub(crate) fn authorize_port(&self, owner: &Owner, port: PortMapping) -> Result<(), ApiError> {
        if owner.is_local() || port.host == 0 {
            return Ok(());
        }

        let message = format!(
            "a key may not choose host port {}; use host port 0 and read the assigned port from `url`",
            port.host
        );
        Err(ApiError::new(ApiErrorKind::Forbidden, message))
    }
}

#[cfg(test)]
mod tests {
    use fumehood_engine::{Config, Engine};
    use serde_json::json;

    use super::*;
    use crate::service::Settings;

    #[tokio::test]
    async fn a_key_reaches_no_special_address_and_chooses_no_port_unless_that_is_allowed() {
        let refused =
            |allow_private_networks_for_keys, network: &serde_json::Value, owner: &Owner| {
                let settings = Settings {
                    allow_private_networks_for_keys,
                    ..Settings::default()
                };

                let none = || Engine::start(Config::default());
                let service = Service::open_in_memory(none, settings).unwrap();
                let network: NetworkRequest = serde_json::from_value(network.clone()).unwrap();

                service
                    .authorize_network(owner, &network)
                    .err()
                    .map(|error| error.kind)
            };

        let key = Owner::key("one");
        let rule =
            |net: &str| json!({ "policy": { "allow": [{ "addresses": [net], "ports": [80] }] } });
        for special in [
            "10.0.0.0/8",
            "127.0.0.1",
            "169.254.169.254",
            "fd00::/8",
            "::1",
        ] {
            assert_eq!(
                refused(false, &rule(special), &key),
                Some(ApiErrorKind::Forbidden),
                "{special}"
            );
            assert_eq!(refused(true, &rule(special), &key), None);
            assert_eq!(refused(false, &rule(special), &Owner::local()), None);
        }

        for public in ["203.0.113.0/24", "0.0.0.0/0", "::/0"] {
            assert_eq!(refused(false, &rule(public), &key), None, "{public}");
        }

        let port = |word: &str| json!({ "expose": [word] });
        assert_eq!(
            refused(true, &port("8080"), &key),
            Some(ApiErrorKind::Forbidden)
        );
        assert_eq!(refused(false, &port("0:8080"), &key), None);
        assert_eq!(refused(false, &port("8080"), &Owner::local()), None);
    }
}
