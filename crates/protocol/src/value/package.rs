use std::fmt;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::language::Language;
use crate::error::{ErrorType, WireError};
use crate::limits::Limits;

/// The maximum number of packages stored while parsing. Further ones are only counted.
const MAX_STORED: usize = 1024;

/// Package arguments as a peer sent them. [`parse`](Self::parse) validates them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packages {
    specs: Vec<String>,
    dropped: u64,
}

impl Packages {
    /// Returns the number of packages that were sent.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.specs.len() as u64 + self.dropped
    }

    /// Returns whether there are no packages.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Parses each package argument as a package of `language`.
    ///
    /// # Errors
    /// `package_error` that names the argument, the rule and, if there is one, the limit.
    pub fn parse(
        &self,
        language: Language,
        limits: &Limits,
    ) -> Result<Vec<PackageSpec>, WireError> {
        let reject = |message| Err(WireError::new(ErrorType::PackageError, message));

        if language == Language::Shell {
            return reject(NO_SHELL_PACKAGES.to_string());
        }

        if self.is_empty() || self.len() > limits.packages {
            return reject(format!(
                "{} packages; 1 to {} are allowed",
                self.len(),
                limits.packages
            ));
        }

        self.specs
            .iter()
            .map(|spec| PackageSpec::parse(spec, language, limits))
            .collect()
    }
}

impl<S: Into<String>> FromIterator<S> for Packages {
    fn from_iter<I: IntoIterator<Item = S>>(iter: I) -> Self {
        Self {
            specs: iter.into_iter().map(Into::into).collect(),
            dropped: 0,
        }
    }
}

const NO_SHELL_PACKAGES: &str =
    "packages can be installed for python and javascript, not for shell";

/// A package with its version specifier, safe to pass to an installer as one argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageSpec {
    argument: String,
    name_len: usize,
}

impl PackageSpec {
    /// Parses `argument` as a package of this language.
    ///
    /// Python: a name, extras in brackets, then any PEP 440 specifier (`pandas[excel]>=2,<3`).
    /// JavaScript: `name@range` or `@scope/name@range`. A name without a range is rejected, since it resolves
    /// differently from day to day.
    ///
    /// # Errors
    /// `package_error` that names the argument and the rule.
    pub fn parse(argument: &str, language: Language, limits: &Limits) -> Result<Self, WireError> {
        let reject = |reason: String| {
            let shown: String = argument
                .chars()
                .take(80)
                .flat_map(char::escape_default)
                .collect();
            WireError::new(
                ErrorType::PackageError,
                format!("package `{shown}`: {reason}"),
            )
        };

        let bytes = argument.len() as u64;
        if bytes > limits.package_spec_bytes {
            return Err(reject(format!(
                "{bytes} bytes; at most {} are allowed",
                limits.package_spec_bytes
            )));
        }

        // The `/` after a scope is the only one that is allowed.
        let checked = match language {
            Language::Javascript => split_scope(argument).map_or(argument, |(_, rest)| rest),
            Language::Python | Language::Shell => argument,
        };
        check_forbidden(checked).map_err(reject)?;
        let name_len = match language {
            Language::Python => parse_python(argument),
            Language::Javascript => parse_javascript(argument),
            Language::Shell => Err(NO_SHELL_PACKAGES.into()),
        }
        .map_err(reject)?;
        if name_len as u64 > limits.package_bytes {
            return Err(reject(format!(
                "the name has {name_len} bytes; at most {} are allowed",
                limits.package_bytes
            )));
        }

        Ok(Self {
            argument: argument.to_string(),
            name_len,
        })
    }

    /// Returns the name of the package.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.argument[..self.name_len]
    }

    /// Returns the whole argument.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.argument
    }
}

/// Rejects everything that an installer could read as an option, a URL or a path.
fn check_forbidden(argument: &str) -> Result<(), String> {
    if argument.starts_with('-') {
        return Err("options are not allowed".into());
    }

    for (part, what) in [
        ("://", "URLs"),
        ("/", "`/`"),
        ("\\", "`\\`"),
        ("..", "`..`"),
    ] {
        if argument.contains(part) {
            return Err(format!(
                "{what} are not allowed: only packages of the index, by name and version"
            ));
        }
    }

    match argument.chars().find(|c| c.is_control() || !c.is_ascii()) {
        Some(c) => Err(format!(
            "the character U+{:04X} is not allowed",
            u32::from(c)
        )),
        None => Ok(()),
    }
}

/// Validates `name[extras] specifier[, specifier]…` and returns the length of the name.
fn parse_python(argument: &str) -> Result<usize, String> {
    // The name.
    let name_len = argument
        .find(|c: char| !is_name_char(c))
        .unwrap_or(argument.len());
    let (name, rest) = argument.split_at(name_len);
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric())
        || !name.ends_with(|c: char| c.is_ascii_alphanumeric())
    {
        return Err("a name must start and end with a letter or a digit".into());
    }

    // Optional extras in brackets.
    let mut rest = rest.trim_start_matches(' ');
    if let Some(inner) = rest.strip_prefix('[') {
        let (extras, after) = inner
            .split_once(']')
            .ok_or("the extras lack a closing bracket")?;
        if !extras
            .split(',')
            .all(|e| !e.trim().is_empty() && e.trim().chars().all(is_name_char))
        {
            return Err("the extras are not valid names".into());
        }

        rest = after.trim_start_matches(' ');
    }

    // At least one specifier.
    if rest.is_empty() {
        return Err(format!(
            "a version specifier is required, for example `{name}==1.0` or `{name}>=1,<2`"
        ));
    }

    rest.split(',')
        .try_for_each(|part| check_python_specifier(part.trim_matches(' ')))?;
    Ok(name_len)
}

fn check_python_specifier(part: &str) -> Result<(), String> {
    const OPERATORS: [&str; 8] = ["===", "==", "!=", "<=", ">=", "~=", "<", ">"];
    let version = OPERATORS
        .iter()
        .find_map(|operator| part.strip_prefix(operator));
    let version = version
        .ok_or_else(|| format!("`{part}` is not a version specifier"))?
        .trim_matches(' ');

    let valid = |c: char| c.is_ascii_alphanumeric() || ".*+!-_".contains(c);
    if version.is_empty() || !version.chars().all(valid) {
        return Err(format!("`{part}` does not contain a valid version"));
    }

    Ok(())
}

/// Splits `@scope/rest` into the scope and the rest. A scope has the characters of a name.
fn split_scope(argument: &str) -> Option<(&str, &str)> {
    let (scope, rest) = argument.strip_prefix('@')?.split_once('/')?;
    let is_name = scope.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !scope.contains("..")
        && scope.chars().all(|c| is_name_char(c) || c == '~');
    is_name.then_some((scope, rest))
}

/// Validates `name@range` or `@scope/name@range` and returns the length of the name, with its scope.
fn parse_javascript(argument: &str) -> Result<usize, String> {
    let unscoped = split_scope(argument).map_or(argument, |(_, rest)| rest);
    let (name, range) = unscoped
        .split_once('@')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| format!("a version range is required, for example `{argument}@^1.0.0`"))?;

    let valid_name = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| is_name_char(c) || c == '~');
    if !valid_name {
        return Err(
            "a name must start with a letter or a digit, and contain only letters, digits, `.`, `_`, `-`, `~`"
                .into(),
        );
    }

    let valid = |c: char| c.is_ascii_alphanumeric() || ".*^~<>=|+- ".contains(c);
    if range.trim_matches(' ').is_empty() || !range.chars().all(valid) {
        return Err(format!("`{range}` is not a version range"));
    }

    Ok(argument.len() - unscoped.len() + name.len())
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

impl Serialize for Packages {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.specs.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Packages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(PackagesVisitor)
    }
}

struct PackagesVisitor;

impl<'de> Visitor<'de> for PackagesVisitor {
    type Value = Packages;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of strings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Packages, A::Error> {
        let mut packages = Packages::default();
        // Stored up to the maximum, then only counted.
        while packages.specs.len() < MAX_STORED {
            match seq.next_element()? {
                Some(spec) => packages.specs.push(spec),
                None => return Ok(packages),
            }
        }

        while seq.next_element::<IgnoredAny>()?.is_some() {
            packages.dropped += 1;
        }

        Ok(packages)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Packages {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Packages".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Vec::<String>::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(argument: &str, language: Language) -> Result<PackageSpec, WireError> {
        PackageSpec::parse(argument, language, &Limits::default())
    }

    #[test]
    fn python_specifiers() {
        for good in [
            "pandas==2.0.0",
            "pandas!=4.0.6",
            "a>=1,<2",
            "a ~= 1.4",
            "x[y,z]==1.*",
            "p===1.0+local",
            "n>1!2",
        ] {
            assert!(parse(good, Language::Python).is_ok(), "{good}");
        }

        for bad in [
            "pandas",
            "",
            "==1",
            "-e==1",
            "--index==1",
            "a==",
            "a=1",
            "../a==1",
            "a/b==1",
            "a\\b==1",
            "a==1;x",
            "a @ file",
            "git+https://x==1",
            "a==1..2",
            "a[==1",
            "a[]==1",
            "a==1\n",
            "ä==1",
            "a==$(x)",
            ".a==1",
        ] {
            let error = parse(bad, Language::Python).unwrap_err();
            assert_eq!(error.error_type, ErrorType::PackageError, "{bad}");
        }

        assert_eq!(parse("x[y]==1", Language::Python).unwrap().name(), "x");
    }

    #[test]
    fn javascript_ranges() {
        for good in [
            "lodash@4.17.21",
            "left-pad@^1.3.0",
            "a@1 || 2",
            "a@>=1 <2",
            "a@latest",
            "@scope/a@1",
            "@types/node@^22",
        ] {
            assert!(parse(good, Language::Javascript).is_ok(), "{good}");
        }

        for bad in [
            "lodash",
            "lodash@",
            "@scope/a",
            "@scope/a/b@1",
            "@../a@1",
            "@a..b/c@1",
            "@/a@1",
            "@-s/a@1",
            "@scope/../a@1",
            "a/b@1",
            "a@file:x",
            "a@../b",
            "a@https://b",
            "a@1;b",
            "-g@1",
            "a@\u{7f}",
        ] {
            assert!(parse(bad, Language::Javascript).is_err(), "{bad}");
        }

        assert_eq!(
            parse("lodash@4", Language::Javascript).unwrap().name(),
            "lodash"
        );

        let scoped = parse("@types/node@22", Language::Javascript).unwrap();
        assert_eq!(scoped.name(), "@types/node");
    }

    #[test]
    fn a_name_at_the_limit_and_one_past_it() {
        assert!(parse(&format!("{}==1", "a".repeat(214)), Language::Python).is_ok());
        let error = parse(&format!("{}==1", "a".repeat(215)), Language::Python).unwrap_err();
        assert!(
            error.message.contains("215") && error.message.contains("214"),
            "{error}"
        );
    }

    #[test]
    fn an_argument_at_the_limit_and_one_past_it() {
        let argument = |len: usize| format!("a=={}", "1".repeat(len - 3));
        assert!(parse(&argument(512), Language::Python).is_ok());
        assert!(
            parse(&argument(513), Language::Python)
                .unwrap_err()
                .message
                .contains("513")
        );
    }

    #[test]
    fn the_count_at_the_limit_and_one_past_it() {
        let many = |n: usize| -> Packages { (0..n).map(|i| format!("p{i}==1")).collect() };
        let limits = Limits::default();
        assert_eq!(many(1).parse(Language::Python, &limits).unwrap().len(), 1);
        assert_eq!(many(50).parse(Language::Python, &limits).unwrap().len(), 50);
        assert!(
            many(51)
                .parse(Language::Python, &limits)
                .unwrap_err()
                .message
                .contains("51")
        );
        assert!(many(0).parse(Language::Python, &limits).is_err());
        assert!(many(1).parse(Language::Shell, &limits).is_err());
    }

    #[test]
    fn excess_packages_are_counted_but_not_stored() {
        let json = format!("[{}]", vec![r#""a""#; 20_000].join(","));
        let packages: Packages = serde_json::from_str(&json).unwrap();
        assert_eq!(packages.len(), 20_000);
        assert_eq!(packages.specs.len(), MAX_STORED);
    }
}
