//! Settings of npm and bun.

use std::path::Path;

use configparser::ini::Ini;
use serde::Deserialize;
use url::Url;

use super::credential::{Credential, Login};
use super::error::IndexError;
use super::settings::IndexSettings;
use super::tool_environment::{ToolEnvironment, read};

/// The name for settings outside of sections, which are all settings of an npmrc file.
const NO_SECTION: &str = "npmrc";

/// Reads the settings of npm and bun, or else asks npm for its default.
pub(super) fn find(environment: &ToolEnvironment) -> Result<IndexSettings, IndexError> {
    let mut settings = IndexSettings::default();
    for name in [
        "NPM_CONFIG_REGISTRY",
        "npm_config_registry",
        "BUN_CONFIG_REGISTRY",
    ] {
        if let Some(url) = environment.var(name) {
            settings.add(url, name, "the environment")?;
        }
    }

    let mut scoped = IndexSettings::default();
    let named = ["NPM_CONFIG_USERCONFIG", "npm_config_userconfig"];
    let named = named
        .iter()
        .find_map(|name| environment.var(name))
        .map(Into::into);

    let user = named.or_else(|| environment.in_home(".npmrc"));
    for file in [user, Some(environment.in_etc("npmrc"))]
        .into_iter()
        .flatten()
    {
        read_npmrc(&file, environment, &mut settings, &mut scoped)?;
    }

    if let Some(file) = environment.in_home(".bunfig.toml") {
        read_bunfig(&file, environment, &mut settings, &mut scoped)?;
    }

    if settings.urls.is_empty()
        && let Some(answer) = (environment.run_tool)("npm", &["config", "get", "registry"])
    {
        settings.add(answer.trim(), "registry", "npm's configuration")?;
    }

    // Scopes are only used with a main registry: packages outside of scopes need a source.
    if !settings.urls.is_empty() {
        scoped.urls.retain(|url| !settings.urls.contains(url));
        settings.urls.append(&mut scoped.urls);
        settings.credentials.append(&mut scoped.credentials);
    }

    Ok(settings)
}

/// Reads lines like `registry=…`, `@scope:registry=…`, `//host/path/:_authToken=…`.
fn read_npmrc(
    file: &Path,
    environment: &ToolEnvironment,
    settings: &mut IndexSettings,
    scoped: &mut IndexSettings,
) -> Result<(), IndexError> {
    let Some(text) = read(file)? else {
        return Ok(());
    };

    let location = file.display().to_string();

    // The format is INI with `=` only, and with comments on separate lines.
    let mut defaults = Ini::new_cs().defaults();
    defaults.default_section = NO_SECTION.into();
    defaults.delimiters = vec!['='];
    defaults.enable_inline_comments = false;
    let mut ini = Ini::new_from_defaults(defaults);
    let map = ini.read(text).map_err(|reason| IndexError::File {
        file: location.clone(),
        reason,
    })?;

    for (key, value) in map.get(NO_SECTION).into_iter().flatten() {
        let value = value
            .as_deref()
            .unwrap_or_default()
            .trim_matches(['"', '\'']);

        let value = expand(value, environment);
        if key == "registry" && settings.urls.is_empty() {
            settings.add(&value, key, &location)?;
        } else if key.ends_with(":registry") {
            scoped.add(&value, key, &location)?;
        } else if let Some((index, kind)) = key.rsplit_once("/:") {
            settings.credentials.extend(credential(index, kind, value));
        }
    }

    Ok(())
}

/// Returns a credential of npm. Separate user and password settings, which npm advises against, are not read.
fn credential(index: &str, kind: &str, value: String) -> Option<Credential> {
    let login = match kind {
        "_authToken" => Login::Token(value),
        "_auth" => Login::Encoded(value),
        _ => return None,
    };

    let url: Url = format!("https:{index}/").parse().ok()?;
    Some(Credential { url, login })
}

/// Expands `${NAME}` to the variable's value. Like npm, it keeps the text if the variable is not set.
fn expand(value: &str, environment: &ToolEnvironment) -> String {
    let mut expanded = String::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once("${") {
        expanded.push_str(before);
        let Some((name, remaining)) = after.split_once('}') else {
            expanded.push_str("${");
            rest = after;
            continue;
        };

        match environment.env.get(name) {
            Some(set) => expanded.push_str(set),
            None => expanded.extend(["${", name, "}"]),
        }

        rest = remaining;
    }

    expanded.push_str(rest);

    expanded
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Bunfig {
    install: BunInstall,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BunInstall {
    registry: Option<BunRegistry>,
    scopes: std::collections::BTreeMap<String, BunRegistry>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum BunRegistry {
    Url(String),
    Table { url: String, token: Option<String> },
}

fn read_bunfig(
    file: &Path,
    environment: &ToolEnvironment,
    settings: &mut IndexSettings,
    scoped: &mut IndexSettings,
) -> Result<(), IndexError> {
    let Some(text) = read(file)? else {
        return Ok(());
    };

    let location = file.display().to_string();
    let bunfig: Bunfig = toml::from_str(&text).map_err(|_| IndexError::File {
        file: location.clone(),
        reason: "it is not a valid bunfig.toml".into(),
    })?;

    // A registry is a URL, or a table with a token.
    let add = |registry: BunRegistry, to: &mut IndexSettings| {
        let (url, token) = match registry {
            BunRegistry::Url(url) => (url, None),
            BunRegistry::Table { url, token } => (url, token),
        };

        to.add(&expand(&url, environment), "registry", &location)?;
        if let (Some(token), Some(url)) = (token, to.urls.last().cloned()) {
            let login = Login::Token(expand(&token, environment));
            to.credentials.push(Credential { url, login });
        }

        Ok(())
    };

    if let Some(registry) = bunfig.install.registry {
        add(registry, settings)?;
    }

    bunfig
        .install
        .scopes
        .into_values()
        .try_for_each(|registry| add(registry, scoped))
}
