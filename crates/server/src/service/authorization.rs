//! What keys may ask for, whoever holds them: this host's own surroundings are its operator's.

use fumehood_engine::PortMapping;
use fumehood_engine::policy::names_special;

use super::service::Service;
use crate::api::requests::NetworkBody;
use crate::error::{ApiError, Kind};
use crate::owner::Owner;

impl Service {
    /// Refuses a network that an owner may not have: by a key nobody reaches private addresses or metadata services of
    /// the server's surroundings, unless the operator has said so.
    ///
    /// # Errors
    /// [`Kind::Forbidden`].
    pub(crate) fn allows(&self, owner: &Owner, network: &NetworkBody) -> Result<(), ApiError> {
        if owner.is_local() || network.is_operators {
            return Ok(());
        }
        for word in &network.expose {
            // What is no pair of ports is refused where it is read.
            let expose = word.parse::<PortMapping>();
            expose.map_or(Ok(()), |expose| self.allows_port(owner, expose))?;
        }
        if self.0.settings.keys_reach_special {
            return Ok(());
        }
        let nets = network
            .policy
            .allow
            .iter()
            .flat_map(|entry| &entry.addresses);
        let mut nets = nets.filter(|net| names_special(&net.0));
        match nets.next() {
            None => Ok(()),
            Some(net) => {
                let message = format!(
                    "`network.policy`: the addresses {} are special (private, loopback, metadata…), and keys of this server \
                     may not reach such ones; leave them out, or ask its operator to start it with --keys-reach-private",
                    net.0
                );
                Err(ApiError::new(Kind::Forbidden, message))
            }
        }
    }

    /// Refuses a port of this host that an owner may not choose.
    ///
    /// # Errors
    /// [`Kind::Forbidden`].
    pub(crate) fn allows_port(&self, owner: &Owner, expose: PortMapping) -> Result<(), ApiError> {
        if owner.is_local() || expose.host == 0 {
            return Ok(());
        }
        let message = format!(
            "the port {} of this host: a key may only have one that is free; ask for 0, and look at the `url`",
            expose.host
        );
        Err(ApiError::new(Kind::Forbidden, message))
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
        let refused = |keys_reach_special, network: &serde_json::Value, owner: &Owner| {
            let settings = Settings {
                keys_reach_special,
                ..Settings::default()
            };
            let none = || Engine::start(Config::default());
            let service = Service::open_in_memory(none, settings).unwrap();
            let network: NetworkBody = serde_json::from_value(network.clone()).unwrap();
            service
                .allows(owner, &network)
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
                Some(Kind::Forbidden),
                "{special}"
            );
            assert_eq!(refused(true, &rule(special), &key), None);
            assert_eq!(refused(false, &rule(special), &Owner::local()), None);
        }
        for public in ["203.0.113.0/24", "0.0.0.0/0", "::/0"] {
            assert_eq!(refused(false, &rule(public), &key), None, "{public}");
        }
        let port = |word: &str| json!({ "expose": [word] });
        assert_eq!(refused(true, &port("8080"), &key), Some(Kind::Forbidden));
        assert_eq!(refused(false, &port("0:8080"), &key), None);
        assert_eq!(refused(false, &port("8080"), &Owner::local()), None);
    }
}
