//! The host's package sources: its mirrors and the settings of its apt.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::program::{Program, find_program};
use crate::Error;

const SOURCES: &str = "/etc/apt/sources.list";
const SOURCES_DIRECTORY: &str = "/etc/apt/sources.list.d";
/// Debian's signing keys, on Debian and on systems with its keyring package.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Suite names that stand for the host's release in place of its code name.
const SUITE_ALIASES: [&str; 4] = ["stable", "oldstable", "testing", "sid"];
/// Settings of the host's apt that concern how it reaches a mirror and how strictly it checks dates.
const SETTING_PREFIXES: [&str; 5] = [
    "Acquire::Check-",
    "Acquire::Retries",
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::ForceIP",
];
/// The deadline of local queries to apt and dpkg, which take some hundred milliseconds.
pub(crate) const QUERY_TIMEOUT: Duration = Duration::from_secs(60);

/// The Debian mirrors that the host uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mirrors {
    /// The main archive.
    archive: Option<String>,
    /// The mirror of point-release updates, if the host uses them.
    updates: Option<String>,
    /// The mirror of security updates, if the host uses them.
    security: Option<String>,
}

/// One entry of a source list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    uri: String,
    suite: String,
    components: Vec<String>,
}

impl Mirrors {
    /// Returns the host's mirrors. They are empty if the host is not Debian, so that Debian's defaults apply.
    pub(crate) fn from_host() -> Self {
        let release = parse_fields(&fs::read_to_string("/etc/os-release").unwrap_or_default());
        if release.get("ID").map(String::as_str) != Some("debian") {
            return Self::default();
        }

        let codename = release.get("VERSION_CODENAME").map_or("", String::as_str);
        Self::choose(&read_host_entries(), codename)
    }

    /// Returns the source lines for a guest of `suite`, or none if no mirror is known.
    pub(crate) fn source_lines(&self, suite: &str) -> Vec<String> {
        let Some(archive) = &self.archive else {
            return Vec::new();
        };

        let signed = if Path::new(KEYRING).exists() {
            format!("[signed-by={KEYRING}] ")
        } else {
            String::new()
        };
        let line = |uri: &str, suffix| format!("deb {signed}{uri} {suite}{suffix} main");

        let mut lines = vec![line(archive, "")];
        lines.extend(self.updates.as_ref().map(|uri| line(uri, "-updates")));
        lines.extend(self.security.as_ref().map(|uri| line(uri, "-security")));

        lines
    }

    /// Selects the mirrors of the host's release among these entries.
    fn choose(entries: &[Entry], codename: &str) -> Self {
        let find = |is_suite: &dyn Fn(&str) -> bool| {
            let mut matching: Vec<&Entry> = entries
                .iter()
                .filter(|e| is_suite(&e.suite) && e.components.iter().any(|c| c == "main"))
                .collect();

            // Archives of other vendors may use the same suite name.
            matching.sort_by_key(|e| !e.uri.trim_end_matches('/').contains("debian"));
            matching.first().map(|e| e.uri.clone())
        };

        let is_release = |s: &str| (!s.is_empty() && s == codename) || SUITE_ALIASES.contains(&s);
        let is_release_with =
            |suffix: &'static str| move |s: &str| s.strip_suffix(suffix).is_some_and(is_release);

        Self {
            archive: find(&is_release),
            updates: find(&is_release_with("-updates")),
            security: find(&is_release_with("-security")),
        }
    }
}

/// Returns the settings of the host's apt that a build must honour, each as a line of `apt.conf`.
pub(crate) fn read_settings() -> Result<Vec<String>, Error> {
    if find_program("apt-config").is_none() {
        return Ok(Vec::new());
    }

    let dump = Program::new("reading apt's settings", "apt-config", QUERY_TIMEOUT)
        .arg("dump")
        .output()?;

    let is_relevant = |line: &&str| {
        SETTING_PREFIXES.iter().any(|s| line.starts_with(s))
            && !line.ends_with("\"\";")
            && line.ends_with(';')
    };

    Ok(dump
        .lines()
        .filter(is_relevant)
        .map(str::to_owned)
        .collect())
}

/// Reads the entries of all source lists of the host.
fn read_host_entries() -> Vec<Entry> {
    // The order of apt: the main list, then the others by name.
    let mut files = vec![Path::new(SOURCES).to_path_buf()];
    let mut more: Vec<PathBuf> = fs::read_dir(SOURCES_DIRECTORY)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .collect();
    more.sort();
    files.append(&mut more);

    let mut entries = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };

        match file.extension().and_then(|e| e.to_str()) {
            Some("list") => entries.extend(parse_one_line(&text)),
            Some("sources") => entries.extend(parse_deb822(&text)),
            _ => {}
        }
    }

    entries
}

/// Parses entries such as `deb [arch=amd64] URI suite component…`.
fn parse_one_line(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line
            .strip_prefix("deb")
            .filter(|r| r.starts_with([' ', '\t']))
        else {
            continue;
        };

        // Skip the options in brackets.
        let rest = match rest.trim_start().strip_prefix('[') {
            Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
            None => rest,
        };

        let mut words = rest.split_whitespace().map(str::to_owned);
        if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
            entries.push(Entry {
                uri,
                suite,
                components: words.collect(),
            });
        }
    }

    entries
}

/// Parses paragraphs with `Types:`, `URIs:`, `Suites:` and `Components:`.
fn parse_deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for paragraph in parse_paragraphs(text) {
        let words = |key: &str| -> Vec<String> {
            let value = paragraph.get(key).map_or("", String::as_str);
            value.split_whitespace().map(str::to_owned).collect()
        };

        let disabled = paragraph
            .get("enabled")
            .is_some_and(|v| matches!(v.as_str(), "no" | "false" | "0"));

        if disabled || !words("types").iter().any(|t| t == "deb") {
            continue;
        }

        // A paragraph stands for every combination of its URIs and suites.
        for uri in words("uris") {
            for suite in words("suites") {
                let components = words("components");
                entries.push(Entry {
                    uri: uri.clone(),
                    suite,
                    components,
                });
            }
        }
    }

    entries
}

/// Parses paragraphs of `Key: value` lines. Keys are returned in lower case, continuation lines are joined by
/// a space.
pub(crate) fn parse_paragraphs(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut all = vec![BTreeMap::new()];
    let mut key = String::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if line.trim().is_empty() {
            all.push(BTreeMap::new());
            continue;
        }

        let Some(paragraph) = all.last_mut() else {
            break;
        };

        // An indented line continues the value before it.
        if line.starts_with([' ', '\t']) {
            let value: &mut String = paragraph.entry(key.clone()).or_default();
            value.push(' ');
            value.push_str(line.trim());
        } else if let Some((name, value)) = line.split_once(':') {
            key = name.trim().to_ascii_lowercase();
            paragraph.insert(key.clone(), value.trim().to_owned());
        }
    }

    all.retain(|paragraph| !paragraph.is_empty());
    all
}

/// Parses `KEY=value` lines, as in os-release.
fn parse_fields(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb deb-src
# a remark
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
 contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm-backports
Components: main
";

    #[test]
    fn reads_deb822() {
        let entries = parse_deb822(DEB822);
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[0].components, ["main", "contrib"]);
        let mirrors = Mirrors::choose(&entries, "bookworm");
        assert_eq!(
            mirrors.archive.as_deref(),
            Some("http://mirror.example/debian")
        );
        assert_eq!(mirrors.updates, mirrors.archive);
        assert_eq!(
            mirrors.security.as_deref(),
            Some("http://mirror.example/debian-security")
        );
    }

    #[test]
    fn reads_one_line_entries() {
        let text = "# deb http://off.example/debian bookworm main\n\
            deb-src http://a.example/debian bookworm main\n\
            deb [arch=amd64 signed-by=/k.gpg] http://vendor.example/apt bookworm main\n\
            deb\thttp://a.example/debian/ bookworm main contrib # here\n\
            deb http://vendor.example/apt bookworm-security stable\n";

        let entries = parse_one_line(text);
        assert_eq!(entries.len(), 3);
        let mirrors = Mirrors::choose(&entries, "bookworm");
        assert_eq!(mirrors.archive.as_deref(), Some("http://a.example/debian/"));
        assert_eq!(mirrors.security, None);
    }

    #[test]
    fn source_lines_use_the_suite_of_the_guest() {
        let lines = Mirrors::choose(&parse_deb822(DEB822), "bookworm").source_lines("trixie");
        assert_eq!(lines.len(), 3);
        assert!(
            lines[0].ends_with("http://mirror.example/debian trixie main"),
            "{lines:?}"
        );

        assert!(
            lines[2].ends_with("debian-security trixie-security main"),
            "{lines:?}"
        );

        assert!(Mirrors::default().source_lines("trixie").is_empty());
    }
}
