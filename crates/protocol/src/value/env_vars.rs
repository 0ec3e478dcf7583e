use std::collections::{BTreeMap, btree_map};
use std::fmt;

use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{ErrorType, WireError};
use crate::limits::Limits;

/// Names that requests may not set: each makes an interpreter or the dynamic loader run or find code other
/// than the code that was sent.
pub const BLOCKED_NAMES: &[&str] = &[
    "BASHOPTS",
    "BASH_ENV",
    "BUN_OPTIONS",
    "ENV",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "IFS",
    "LOCPATH",
    "NODE_OPTIONS",
    "NODE_PATH",
    "PATH",
    "PERL5LIB",
    "PERL5OPT",
    "PROMPT_COMMAND",
    "PS4",
    "PYTHONBREAKPOINT",
    "PYTHONHOME",
    "PYTHONINSPECT",
    "PYTHONPATH",
    "PYTHONPYCACHEPREFIX",
    "PYTHONSTARTUP",
    "PYTHONUSERBASE",
    "SHELLOPTS",
];

/// Prefixes of names that are blocked as well.
pub const BLOCKED_PREFIXES: &[&str] = &["BASH_FUNC_", "BUN_INSPECT", "FUMEHOOD_", "LD_"];

/// Returns whether this name is blocked.
#[must_use]
pub fn is_blocked(name: &str) -> bool {
    BLOCKED_NAMES.contains(&name)
        || BLOCKED_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// The maximum number of entries stored while parsing. Further ones are only counted, so that memory stays
/// bounded for every line.
const MAX_STORED: usize = 4096;

/// Environment variables as a peer sent them. [`check`](Self::check) validates them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnvVars {
    vars: BTreeMap<String, String>,
    /// The number of entries that were sent but not stored.
    dropped: u64,
}

impl EnvVars {
    /// Returns whether there are no variables.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of variables that were sent.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.vars.len() as u64 + self.dropped
    }

    /// Iterates over name and value of each variable, sorted by name.
    pub fn iter(&self) -> btree_map::Iter<'_, String, String> {
        self.vars.iter()
    }

    /// Adds the variables of `others` that have no value here.
    #[must_use]
    pub fn over(mut self, others: &Self) -> Self {
        for (name, value) in &others.vars {
            self.vars
                .entry(name.clone())
                .or_insert_with(|| value.clone());
        }
        self
    }

    /// Rejects too many variables, empty, long or blocked names, long values, and control characters.
    ///
    /// # Errors
    /// `env_var_error` with the limit and the actual figure.
    pub fn check(&self, limits: &Limits) -> Result<(), WireError> {
        let reject = |message: String| Err(WireError::new(ErrorType::EnvVarError, message));

        if self.len() > limits.env_vars {
            return reject(format!(
                "{} environment variables; at most {} are allowed",
                self.len(),
                limits.env_vars
            ));
        }

        for (name, value) in &self.vars {
            if let Err(reason) =
                check_name(name, limits).and_then(|()| check_value(name, value, limits))
            {
                return reject(reason);
            }
        }

        Ok(())
    }
}

fn check_name(name: &str, limits: &Limits) -> Result<(), String> {
    let bytes = name.len() as u64;
    if bytes == 0 {
        return Err("an environment variable's name is empty; it must have at least 1 byte".into());
    }

    if bytes > limits.env_name_bytes {
        let max = limits.env_name_bytes;
        return Err(format!(
            "an environment variable's name has {bytes} bytes; at most {max} are allowed"
        ));
    }

    if let Some(c) = name.chars().find(|c| c.is_control()) {
        return Err(format!(
            "an environment variable's name contains the control character 0x{:02X}",
            u32::from(c)
        ));
    }

    if name.contains('=') {
        return Err(format!(
            "the environment variable name `{name}` contains `=`"
        ));
    }

    if is_blocked(name) {
        return Err(format!(
            "the environment variable `{name}` is blocked: it would change which code runs; \
             set what you need inside the code"
        ));
    }

    Ok(())
}

fn check_value(name: &str, value: &str, limits: &Limits) -> Result<(), String> {
    let bytes = value.len() as u64;
    if bytes > limits.env_value_bytes {
        let max = limits.env_value_bytes;
        return Err(format!(
            "the environment variable `{name}` has a value of {bytes} bytes; at most {max} are allowed"
        ));
    }

    match value
        .chars()
        .find(|&c| c.is_control() && c != '\t' && c != '\n')
    {
        Some(c) => Err(format!(
            "the value of the environment variable `{name}` contains the control character 0x{:02X}; \
             only tab and newline are allowed",
            u32::from(c)
        )),
        None => Ok(()),
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for EnvVars {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        Self {
            vars: iter
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
            dropped: 0,
        }
    }
}

impl Serialize for EnvVars {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.vars.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for EnvVars {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EnvVarsVisitor)
    }
}

struct EnvVarsVisitor;

impl<'de> Visitor<'de> for EnvVarsVisitor {
    type Value = EnvVars;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<EnvVars, A::Error> {
        let mut env = EnvVars::default();
        // Stored up to the maximum, then only counted.
        while env.vars.len() < MAX_STORED {
            match map.next_entry::<String, String>()? {
                // A second value would hide the first one.
                Some((name, _)) if env.vars.contains_key(&name) => {
                    let shown: String = name
                        .chars()
                        .take(80)
                        .flat_map(char::escape_default)
                        .collect();
                    return Err(A::Error::custom(format!("duplicate variable `{shown}`")));
                }
                Some((name, value)) => env.vars.insert(name, value),
                None => return Ok(env),
            };
        }

        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            env.dropped += 1;
        }

        Ok(env)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for EnvVars {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EnvVars".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        BTreeMap::<String, String>::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str) -> Result<(), String> {
        let vars: EnvVars = [(name, value)].into_iter().collect();
        vars.check(&Limits::default()).map_err(|error| {
            assert_eq!(error.error_type, ErrorType::EnvVarError);
            error.message
        })
    }

    fn many(n: usize) -> EnvVars {
        (0..n).map(|i| (format!("V{i}"), "x")).collect()
    }

    #[test]
    fn own_values_override_others() {
        let over: EnvVars = [("A", "1"), ("B", "2")].into_iter().collect();
        let under: EnvVars = [("B", "3"), ("C", "4")].into_iter().collect();
        let all: EnvVars = [("A", "1"), ("B", "2"), ("C", "4")].into_iter().collect();
        assert_eq!(over.over(&under), all);
    }

    #[test]
    fn the_count_at_the_limit_and_one_past_it() {
        assert!(many(100).check(&Limits::default()).is_ok());
        let error = many(101).check(&Limits::default()).unwrap_err();
        assert!(
            error.message.contains("101") && error.message.contains("100"),
            "{error}"
        );
    }

    #[test]
    fn a_name_at_the_limit_and_one_past_it() {
        assert!(check(&"n".repeat(256), "").is_ok());
        assert!(check(&"n".repeat(257), "").unwrap_err().contains("257"));
        assert!(check("", "").is_err());
    }

    #[test]
    fn a_value_at_the_limit_and_one_past_it() {
        assert!(check("N", &"v".repeat(4096)).is_ok());
        assert!(check("N", &"v".repeat(4097)).unwrap_err().contains("4097"));
    }

    #[test]
    fn control_characters() {
        assert!(check("N", "a\tb\nc").is_ok());
        assert!(check("N", "\x1b[31m").unwrap_err().contains("0x1B"));
        assert!(check("N", "\0").is_err());
        assert!(
            check("N", "\u{9b}").is_err(),
            "C1 controls are terminal escapes too"
        );
        assert!(check("N\t", "").is_err());
        assert!(check("A=B", "").is_err());
    }

    #[test]
    fn every_blocked_name_is_rejected() {
        for name in BLOCKED_NAMES {
            assert!(check(name, "x").unwrap_err().contains("blocked"), "{name}");
        }

        for prefix in BLOCKED_PREFIXES {
            assert!(check(&format!("{prefix}X"), "x").is_err(), "{prefix}");
        }

        assert!(check("PATHS", "x").is_ok());
        assert!(check("PYTHONHASHSEED", "0").is_ok());
    }

    #[test]
    fn a_name_that_occurs_twice_is_rejected() {
        let parse = serde_json::from_str::<EnvVars>;
        assert_eq!(parse(r#"{"A":"1","B":"1"}"#).unwrap().len(), 2);
        let error = parse(r#"{"A":"1","A":"1"}"#).unwrap_err().to_string();
        assert!(error.contains("duplicate variable `A`"), "{error}");
    }

    #[test]
    fn excess_variables_are_counted_but_not_stored() {
        let body: Vec<String> = (0..50_000).map(|i| format!(r#""{i}":"""#)).collect();
        let vars: EnvVars = serde_json::from_str(&format!("{{{}}}", body.join(","))).unwrap();
        assert_eq!(vars.len(), 50_000);
        assert_eq!(vars.vars.len(), MAX_STORED);
        assert!(
            vars.check(&Limits::default())
                .unwrap_err()
                .message
                .contains("50000")
        );
    }
}
