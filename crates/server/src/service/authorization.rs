//! What callers with a key may ask for. The server's own network surroundings belong to its operator.

use fumehood_engine::policy::{NetworkLimits, names_special};
use fumehood_engine::{ConnectionBudget, Network, PortMapping};

use super::service::Service;
use crate::api::requests::NetworkRequest;
use crate::error::{ApiError, ApiErrorKind};
use crate::owner::Owner;
use crate::sync::lock;

/// The connections of one key's VMs are one of this many parts of those of all VMs.
const KEYS_PER_BUDGET: usize = 4;

impl Service {
    /// Returns the network of a request, if its owner may have it. Its connections count for the owner.
    ///
    /// # Errors
    /// As [`authorize_network`](Self::authorize_network), and [`ApiErrorKind::Invalid`].
    pub(super) fn network(
        &self,
        owner: &Owner,
        request: &NetworkRequest,
    ) -> Result<Network, ApiError> {
        self.authorize_network(owner, request)?;
        let budget = self.connection_budget(owner);
        Ok(request.to_network()?.connection_budget(budget))
    }

    /// Returns the budget of all connections of an owner's VMs.
    fn connection_budget(&self, owner: &Owner) -> ConnectionBudget {
        let all = &self.0.connections;
        if owner.is_local() {
            return all.clone();
        }

        let max = (self.0.settings.max_vm_connections / KEYS_PER_BUDGET).max(1);
        let mut by_owner = lock(&self.0.connections_by_owner);
        let budget = by_owner.entry(owner.clone());
        budget
            .or_insert_with(|| all.share(max, "of this key's VMs"))
            .clone()
    }

    /// Checks that a policy of a key raises no limit past the operator's bound.
    fn authorize_limits(&self, limits: &NetworkLimits) -> Result<(), ApiError> {
        let max = &self.0.settings.max_network_limits;
        let rows = [
            (
                "connections",
                limits.connections.into(),
                max.connections.into(),
            ),
            (
                "connections_per_s",
                limits.connections_per_s.into(),
                max.connections_per_s.into(),
            ),
            (
                "lookups_per_s",
                limits.lookups_per_s.into(),
                max.lookups_per_s.into(),
            ),
            ("bytes_up", limits.bytes_up, max.bytes_up),
            ("bytes_down", limits.bytes_down, max.bytes_down),
        ];

        match rows
            .into_iter()
            .find(|(_, value, max): &(_, u64, u64)| value > max)
        {
            None => Ok(()),
            Some((name, value, max)) => {
                let message = format!(
                    "`network.policy` sets limits.{name} to {value}; keys of this server may set at most {max}; lower it, or \
                     ask the operator for a policy of the server's own"
                );
                Err(ApiError::new(ApiErrorKind::Forbidden, message))
            }
        }
    }

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

        self.authorize_limits(&network.policy.limits)?;
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
    async fn a_key_raises_no_limit_past_the_operators_bound() {
        let none = || Engine::start(Config::default());
        let service = Service::open_in_memory(none, Settings::default()).unwrap();
        let check = |owner: &Owner, limits: serde_json::Value| {
            let network = json!({ "policy": { "limits": limits } });
            let network: NetworkRequest = serde_json::from_value(network).unwrap();
            service
                .network(owner, &network)
                .map_err(|error| error.message)
        };

        let key = Owner::key("one");
        for limit in [
            "connections",
            "connections_per_s",
            "lookups_per_s",
            "bytes_up",
            "bytes_down",
        ] {
            let max = serde_json::to_value(service.0.settings.max_network_limits).unwrap();
            let max = max[limit].as_u64().unwrap();
            let network = check(&key, json!({ limit: max })).unwrap();
            let shown = format!("{network:?}");
            assert!(shown.contains("of this key's VMs"), "{shown}");

            let error = check(&key, json!({ limit: max + 1 })).unwrap_err();
            assert!(
                error.contains(limit) && error.contains(&max.to_string()),
                "{error}"
            );
            check(&Owner::local(), json!({ limit: max + 1 })).unwrap();
        }

        // All networks of a key count in one budget.
        let budgets = [(); 2].map(|()| service.connection_budget(&key));
        assert_eq!(format!("{:?}", budgets[0]), format!("{:?}", budgets[1]));
        assert_eq!(lock(&service.0.connections_by_owner).len(), 1);
    }

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
