//! The network of a request.

use std::collections::BTreeMap;

use fumehood_engine::policy::{Document, SecretName};
use fumehood_engine::{Network, PortMapping, SecretValue};
use serde::{Deserialize, Deserializer, de};
use utoipa::ToSchema;

use crate::error::ApiError;

/// The secrets of one request, and its exposed ports, at most.
const MAX_NETWORK_ITEMS: usize = 64;

/// The network of a VM.
#[derive(Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkRequest {
    /// The policy; without a rule that allows something, nothing is reachable.
    #[schema(value_type = Object)]
    #[serde(default)]
    pub policy: Document,
    /// The values of the policy's secrets, by name. They are never stored, logged or returned.
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
    /// Guest ports to expose on the host's loopback interface: `8080`, or `HOST:GUEST` such as `0:3000`, where 0 is any
    /// free port.
    #[schema(max_items = 64, value_type = Vec<String>)]
    #[serde(default, deserialize_with = "port_mappings")]
    pub expose: Vec<PortMapping>,
    /// Whether the policy comes from the operator. Callers with keys may then use all of it.
    #[serde(skip)]
    #[schema(ignore)]
    pub(crate) is_from_operator: bool,
}

/// Deserializes port mappings from their text form.
fn port_mappings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PortMapping>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let ports = texts.iter().map(|text| text.parse());
    ports
        .collect::<Result<_, fumehood_engine::Error>>()
        .map_err(de::Error::custom)
}

impl std::fmt::Debug for NetworkRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Names only: the values of secrets must not reach a log.
        let names: Vec<_> = self.secrets.keys().collect();
        f.debug_struct("NetworkRequest")
            .field("secrets", &names)
            .field("expose", &self.expose)
            .finish_non_exhaustive()
    }
}

impl NetworkRequest {
    /// Converts the request into the engine's network.
    ///
    /// # Errors
    /// [`ApiErrorKind::Invalid`](crate::ApiErrorKind::Invalid) with the field that is invalid.
    pub(crate) fn to_network(&self) -> Result<Network, ApiError> {
        if self.secrets.len() > MAX_NETWORK_ITEMS || self.expose.len() > MAX_NETWORK_ITEMS {
            let message = format!(
                "`network` may have at most {MAX_NETWORK_ITEMS} secrets and {MAX_NETWORK_ITEMS} exposed ports"
            );
            return Err(ApiError::invalid(message));
        }

        let invalid = |field: &str, error: &dyn std::fmt::Display| {
            ApiError::invalid(format!("`network.{field}`: {error}"))
        };

        let policy = self.policy.clone().policy("request");
        let mut network = Network::new(policy.map_err(|e| invalid("policy", &e))?);
        for (name, value) in &self.secrets {
            let name: SecretName = name.parse().map_err(|e| invalid("secrets", &e))?;
            let value = SecretValue::new(value.clone()).map_err(|e| invalid("secrets", &e))?;
            network = network.secret(name, value);
        }

        for port in &self.expose {
            network = network.expose(*port);
        }

        Ok(network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn ports_are_parsed_from_text() {
        let network: NetworkRequest = parse(r#"{"expose":["8080","0:3000"]}"#).unwrap();
        let ports: Vec<_> = network.expose.iter().map(ToString::to_string).collect();
        assert_eq!(ports, ["8080:8080", "0:3000"]);
        assert!(parse::<NetworkRequest>(r#"{"expose":["x"]}"#).is_err());
    }
}
