//! Settings of pip and uv.

use std::path::PathBuf;

use configparser::ini::Ini;
use serde::Deserialize;
use url::Url;

use super::error::IndexError;
use super::settings::IndexSettings;
use super::tool_environment::{ToolEnvironment, read};
use crate::value::line_of;

/// The settings of one tool.
#[derive(Default)]
struct ToolSettings {
    main: Option<Setting>,
    extra: Vec<Setting>,
}

/// A URL, and where it is set.
#[derive(Clone)]
struct Setting {
    url: String,
    name: &'static str,
    location: String,
}

/// pip's built-in default: its index, and the host of the index's files.
struct PipDefault {
    index: Url,
    files: Option<Url>,
}

/// Reads the settings of pip and uv. pip's default is used if no index is set, or a tool has only extra ones.
pub(super) fn find(environment: &ToolEnvironment) -> Result<IndexSettings, IndexError> {
    // The main indexes of both tools come first.
    let tools = [read_pip(environment)?, read_uv(environment)?];
    let default = query_pip_default(environment);
    let mut settings = IndexSettings::default();

    for setting in tools.iter().flat_map(|tool| &tool.main) {
        settings.add(&setting.url, setting.name, &setting.location)?;
    }

    // pip's default, where no main index is set.
    let has_only_extra = |tool: &ToolSettings| tool.main.is_none() && !tool.extra.is_empty();
    if let Some(default) = &default
        && (settings.urls.is_empty() || tools.iter().any(has_only_extra))
    {
        settings.urls.push(default.index.clone());
    }

    if settings.urls.is_empty() {
        return Ok(settings);
    }

    for setting in tools.iter().flat_map(|tool| &tool.extra) {
        settings.add(&setting.url, setting.name, &setting.location)?;
    }

    // The default index keeps its files on another host.
    if let Some(PipDefault {
        index,
        files: Some(files),
    }) = default
        && settings.urls.iter().any(|url| url.host() == index.host())
    {
        settings.file_hosts.push(files);
    }

    Ok(settings)
}

/// Asks pip for its default, which is not part of any configuration but of its code.
fn query_pip_default(environment: &ToolEnvironment) -> Option<PipDefault> {
    const PROGRAM: &str = "from pip._internal.models.index import PyPI as index\n\
        print(index.simple_url)\n\
        print(index.file_storage_domain)";

    let answer = (environment.run_tool)("python3", &["-I", "-c", PROGRAM])?;
    let mut lines = answer.lines();
    let index = lines.next()?.parse().ok()?;
    let files = lines
        .next()
        .and_then(|host| format!("https://{host}/").parse().ok());

    Some(PipDefault { index, files })
}

/// Reads the settings of pip. As in pip, later files override earlier ones.
fn read_pip(environment: &ToolEnvironment) -> Result<ToolSettings, IndexError> {
    let mut tool = ToolSettings::default();
    for file in pip_files(environment) {
        let Some(text) = read(&file)? else { continue };
        let location = file.display().to_string();
        let ini = parse_ini(text).map_err(|reason| IndexError::File {
            file: location.clone(),
            reason,
        })?;

        for section in ["global", "install"] {
            let parse = |name, value: String| parse_settings(&value, name, &location);
            if let Some(value) = ini.get(section, "index-url") {
                tool.main = parse("index-url", value).pop();
            }

            if let Some(value) = ini.get(section, "extra-index-url") {
                tool.extra = parse("extra-index-url", value);
            }
        }
    }

    apply_variables(
        environment,
        &mut tool,
        "PIP_INDEX_URL",
        &["PIP_EXTRA_INDEX_URL"],
    );

    Ok(tool)
}

fn pip_files(environment: &ToolEnvironment) -> Vec<PathBuf> {
    let named = environment.var("PIP_CONFIG_FILE").map(PathBuf::from);
    // pip takes this path for: no files.
    if named
        .as_ref()
        .is_some_and(|file| file.as_os_str() == "/dev/null")
    {
        return Vec::new();
    }

    let site = [
        environment.in_etc("xdg/pip/pip.conf"),
        environment.in_etc("pip.conf"),
    ];

    let user = [
        environment.in_home(".pip/pip.conf"),
        environment.in_config("pip/pip.conf"),
        named,
    ];

    site.into_iter().chain(user.into_iter().flatten()).collect()
}

/// Parses a file as Python does: values may continue on indented lines, and comments are on separate lines. Errors only
/// contain the line number.
fn parse_ini(text: String) -> Result<Ini, String> {
    let mut defaults = Ini::new().defaults();
    defaults.multiline = true;
    defaults.enable_inline_comments = false;
    let mut ini = Ini::new_from_defaults(defaults);
    ini.read(text)?;
    Ok(ini)
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct UvFile {
    index_url: Option<String>,
    extra_index_url: Vec<String>,
    index: Vec<UvIndex>,
    pip: UvPip,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct UvPip {
    index_url: Option<String>,
    extra_index_url: Vec<String>,
}

#[derive(Deserialize)]
struct UvIndex {
    url: String,
    #[serde(default)]
    default: bool,
}

fn read_uv(environment: &ToolEnvironment) -> Result<ToolSettings, IndexError> {
    let mut tool = ToolSettings::default();
    let user = match environment.var("UV_CONFIG_FILE") {
        Some(file) => Some(file.into()),
        None => environment.in_config("uv/uv.toml"),
    };

    for file in [Some(environment.in_etc("uv/uv.toml")), user]
        .into_iter()
        .flatten()
    {
        if let Some(text) = read(&file)? {
            apply_uv_file(&text, &file.display().to_string(), &mut tool)?;
        }
    }

    apply_variables(
        environment,
        &mut tool,
        "UV_INDEX_URL",
        &["UV_EXTRA_INDEX_URL", "UV_INDEX"],
    );
    apply_variables(environment, &mut tool, "UV_DEFAULT_INDEX", &[]);

    Ok(tool)
}

fn apply_uv_file(text: &str, location: &str, tool: &mut ToolSettings) -> Result<(), IndexError> {
    // The parser's message repeats a line of the file, which may contain a password.
    let file: UvFile = toml::from_str(text).map_err(|error| IndexError::File {
        file: location.into(),
        reason: match error.span() {
            Some(span) => format!("line {} is not valid for uv", line_of(text, span.start)),
            None => "it is not a valid uv.toml".into(),
        },
    })?;

    let setting = |name, url| Setting {
        url,
        name,
        location: location.to_owned(),
    };

    for url in [file.index_url, file.pip.index_url].into_iter().flatten() {
        tool.main = Some(setting("index-url", url));
    }

    for url in file
        .extra_index_url
        .into_iter()
        .chain(file.pip.extra_index_url)
    {
        tool.extra.push(setting("extra-index-url", url));
    }

    for index in file.index {
        // A local directory of packages needs no network.
        if !index.url.contains("://") || index.url.starts_with("file:") {
            continue;
        }

        let setting = setting("index", index.url);
        if index.default {
            tool.main = Some(setting);
        } else {
            tool.extra.push(setting);
        }
    }

    Ok(())
}

fn apply_variables(
    environment: &ToolEnvironment,
    tool: &mut ToolSettings,
    main: &'static str,
    extra: &[&'static str],
) {
    const LOCATION: &str = "the environment";
    if let Some(value) = environment.var(main) {
        tool.main = parse_settings(value, main, LOCATION).pop();
    }

    for name in extra {
        if let Some(value) = environment.var(name) {
            tool.extra.extend(parse_settings(value, name, LOCATION));
        }
    }
}

/// Splits URLs at whitespace. Those of uv may have a name before them: `corp=https://…`.
fn parse_settings(value: &str, name: &'static str, location: &str) -> Vec<Setting> {
    let url = |word: &str| match word.split_once('=') {
        Some((name, url)) if !name.contains(':') => url.to_owned(),
        _ => word.to_owned(),
    };

    value
        .split_whitespace()
        .map(|word| Setting {
            url: url(word),
            name,
            location: location.into(),
        })
        .collect()
}
