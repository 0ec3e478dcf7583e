//! The format of policy documents.

use serde::{Deserialize, Serialize};

use super::error::{DocumentError, MAX_DOCUMENT_BYTES};
use super::rule_spec::RuleSpec;
use crate::policy::rule::NetworkLimits;
use crate::value::{HeaderName, HostName, SecretName, line_of, one_or_many};

/// A policy document, in TOML or JSON.
///
/// ```
/// use fumehood_gateway::policy::Document;
///
/// let document = Document::parse_toml(r#"
///     [[allow]]
///     host = ["api.example.com", "*.files.example.com"]
///     ports = [443, "8000-8010"]
/// "#)?;
/// let policy = document.policy("example")?;
/// assert_eq!(policy.rules[0].id.as_ref(), "allow-1");
/// # Ok::<(), fumehood_gateway::policy::DocumentError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Document {
    /// The rules.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<RuleSpec>,
    /// The limits.
    pub limits: NetworkLimits,
    /// The secrets, without their values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secret: Vec<SecretEntry>,
}

/// A secret in a document: a table `[[secret]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretEntry {
    /// The guest's environment variable that holds its placeholder.
    pub name: SecretName,
    /// The hosts that it may be sent to: names, not patterns.
    #[serde(deserialize_with = "one_or_many")]
    pub host: Vec<HostName>,
    /// The request headers that may contain it.
    #[serde(default = "authorization", deserialize_with = "one_or_many")]
    pub header: Vec<HeaderName>,
}

impl SecretEntry {
    /// Returns a secret for one host, in the header `authorization`.
    #[must_use]
    pub fn new(name: SecretName, host: HostName) -> Self {
        Self {
            name,
            host: vec![host],
            header: authorization(),
        }
    }
}

fn authorization() -> Vec<HeaderName> {
    "authorization".parse().into_iter().collect()
}

impl Document {
    /// Parses a document in TOML.
    ///
    /// # Errors
    /// Fails if the text is too long, not TOML, or not a valid document; the error contains the line.
    pub fn parse_toml(text: &str) -> Result<Self, DocumentError> {
        check_size(text)?;
        let form = |path: String, error: &toml::de::Error| DocumentError::Form {
            line: error.span().map(|span| line_of(text, span.start)),
            path,
            message: error.message().to_owned(),
        };

        let parser =
            toml::Deserializer::parse(text).map_err(|error| form(String::new(), &error))?;

        serde_path_to_error::deserialize(parser)
            .map_err(|error| form(error.path().to_string(), error.inner()))
    }

    /// Parses a document in JSON.
    ///
    /// # Errors
    /// Fails if the text is too long, not JSON, or not a valid document.
    pub fn parse_json(text: &str) -> Result<Self, DocumentError> {
        check_size(text)?;
        let mut parser = serde_json::Deserializer::from_str(text);
        let form = |path: String, error: &serde_json::Error| DocumentError::Form {
            line: Some(error.line()).filter(|line| *line > 0),
            path,
            message: error.to_string(),
        };

        let document = serde_path_to_error::deserialize(&mut parser)
            .map_err(|error| form(error.path().to_string(), error.inner()))?;
        parser.end().map_err(|error| form(String::new(), &error))?;

        Ok(document)
    }
}

fn check_size(text: &str) -> Result<(), DocumentError> {
    if text.len() > MAX_DOCUMENT_BYTES {
        return Err(DocumentError::TooLarge(text.len()));
    }
    Ok(())
}
