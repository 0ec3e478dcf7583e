//! Finds sandboxes by id, name or the start of an id.

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::outcome::Failure;
use crate::server_client::{Method, ServerClient, path_segment, with_query};

/// The number of sandboxes that are requested at once.
const PAGE: usize = 1000;
/// The number of sandboxes that are looked through, at most.
const MAX_LISTED: usize = 10_000;
/// The number of matching sandboxes that an error names.
const MAX_NAMED: usize = 5;

/// The state of a sandbox that has ended; all others can be used.
const ENDED: &str = "ended";

/// A sandbox, as far as the commands need it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct SandboxInfo {
    pub(super) id: String,
    pub(super) name: Option<String>,
    pub(super) language: Option<String>,
    pub(super) state: String,
    pub(super) created_at: String,
    pub(super) ended: Option<String>,
    pub(super) ended_why: Option<String>,
    pub(super) memory_mib: u32,
    #[serde(default)]
    pub(super) urls: Vec<String>,
}

impl SandboxInfo {
    /// Parses the server's description of a sandbox.
    ///
    /// # Errors
    /// The answer is unexpected.
    pub(super) fn parse(value: &Value) -> anyhow::Result<Self> {
        let info = Self::deserialize(value).context("unexpected answer about a sandbox")?;
        path_segment(&info.id)?;
        Ok(info)
    }

    /// Returns the path of the sandbox in the API.
    pub(super) fn path(&self) -> String {
        format!("/v1/sandboxes/{}", self.id)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state == ENDED
    }
}

/// Finds a sandbox that has not ended.
///
/// # Errors
/// There is none, or more than one.
pub(super) async fn find(server: &ServerClient, word: &str) -> anyhow::Result<SandboxInfo> {
    let value = find_any(server, word).await?;
    let sandbox = SandboxInfo::parse(&value)?;
    if sandbox.has_ended() {
        let why = sandbox.ended_why.unwrap_or_default();
        bail!("sandbox {word} has ended: {why}; create a new one with `fumehood sandbox create`");
    }
    Ok(sandbox)
}

/// Finds a sandbox, also one that has ended. Returns the server's description.
///
/// # Errors
/// There is none, or more than one.
pub(super) async fn find_any(server: &ServerClient, word: &str) -> anyhow::Result<Value> {
    // The server knows ids and names; the start of an id is found here.
    if let Ok(segment) = path_segment(word) {
        let path = format!("/v1/sandboxes/{segment}");
        match server.request(Method::GET, &path).await {
            Err(error) if has_kind(&error, "not_found") => {}
            found => return found,
        }
    }

    let sandboxes = list_all(server, true).await?;
    let infos: Vec<_> = sandboxes
        .iter()
        .map(SandboxInfo::parse)
        .collect::<anyhow::Result<_>>()?;

    let index = choose(&infos, word)?;
    Ok(sandboxes[index].clone())
}

/// Returns whether an error is a failure of this kind that the server reports.
pub(super) fn has_kind(error: &anyhow::Error, kind: &str) -> bool {
    let failure = error.downcast_ref::<Failure>();
    failure.is_some_and(|failure| failure.kind == kind)
}

/// Chooses the sandbox that a word means: the one with this id, the one with this name that has not ended, or the only one
/// whose id starts with the word. Returns its index.
fn choose(sandboxes: &[SandboxInfo], word: &str) -> anyhow::Result<usize> {
    let shown = word.escape_debug();
    let find = |matches: &dyn Fn(&SandboxInfo) -> bool| {
        let all = sandboxes.iter().enumerate();
        all.filter(|(_, sandbox)| matches(sandbox))
            .map(|(index, _)| index)
            .collect::<Vec<_>>()
    };
    let has_name = |sandbox: &SandboxInfo| sandbox.name.as_deref() == Some(word);

    // The id without its prefix can be shortened as well.
    let bare = |sandbox: &SandboxInfo| {
        let bare = sandbox.id.split_once('_').map(|(_, bare)| bare.to_owned());
        bare.unwrap_or_default()
    };
    let starts = |sandbox: &SandboxInfo| {
        !word.is_empty() && (sandbox.id.starts_with(word) || bare(sandbox).starts_with(word))
    };

    let attempts: [&dyn Fn(&SandboxInfo) -> bool; 5] = [
        &|sandbox| sandbox.id == word,
        &|sandbox| has_name(sandbox) && !sandbox.has_ended(),
        &|sandbox| starts(sandbox) && !sandbox.has_ended(),
        &has_name,
        &starts,
    ];
    for matches in attempts {
        match find(matches)[..] {
            [] => {}
            [index] => return Ok(index),
            ref several => {
                let ids = several.iter().take(MAX_NAMED);
                let ids: Vec<_> = ids.map(|index| sandboxes[*index].id.as_str()).collect();
                let more = if several.len() > MAX_NAMED {
                    ", …"
                } else {
                    ""
                };
                bail!(
                    "`{shown}` means {} sandboxes: {}{more}; give the ID of one",
                    several.len(),
                    ids.join(", ")
                );
            }
        }
    }

    bail!("no sandbox has the ID or the name `{shown}`; `fumehood sandbox ls -a` lists all")
}

/// Lists the sandboxes of this user, the newest first. `with_ended`: also those that have ended.
///
/// # Errors
/// The server does not answer as expected.
pub(super) async fn list_all(
    server: &ServerClient,
    with_ended: bool,
) -> anyhow::Result<Vec<Value>> {
    let mut all: Vec<Value> = Vec::new();
    let limit = PAGE.to_string();
    loop {
        let mut parameters = vec![("limit", limit.as_str())];
        let last = all.last().and_then(|last| last["id"].as_str());
        parameters.extend(last.map(|id| ("before", id)));
        let path = with_query("/v1/sandboxes", &parameters);

        let mut answer = server.request(Method::GET, &path).await?;
        let Value::Array(page) = answer["sandboxes"].take() else {
            bail!("unexpected answer: no list of sandboxes");
        };
        let is_last = page.len() < PAGE;
        all.extend(page);
        if is_last || all.len() >= MAX_LISTED {
            break;
        }
    }

    all.retain(|sandbox| with_ended || sandbox["state"] != ENDED);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(id: &str, name: Option<&str>, state: &str) -> SandboxInfo {
        SandboxInfo {
            id: id.into(),
            name: name.map(str::to_owned),
            language: None,
            state: state.into(),
            created_at: String::new(),
            ended: None,
            ended_why: None,
            memory_mib: 512,
            urls: Vec::new(),
        }
    }

    #[test]
    fn a_word_means_an_id_a_name_or_the_start_of_an_id() {
        let all = [
            sandbox("sb_abc1", Some("web"), "running"),
            sandbox("sb_abd2", None, "paused"),
            sandbox("sb_abd3", Some("web"), "ended"),
            sandbox("sb_e4", Some("sb_abc1"), "running"),
            sandbox("sb_f5", Some("old"), "ended"),
        ];
        let chosen = |word: &str| choose(&all, word).map(|index| all[index].id.as_str());

        // An id comes before a name, and a sandbox that can be used before one that has ended.
        assert_eq!(chosen("sb_abc1").unwrap(), "sb_abc1");
        assert_eq!(chosen("web").unwrap(), "sb_abc1");
        assert_eq!(chosen("sb_abd").unwrap(), "sb_abd2");
        assert_eq!(chosen("abc").unwrap(), "sb_abc1");
        assert_eq!(chosen("sb_abd3").unwrap(), "sb_abd3");
        assert_eq!(chosen("old").unwrap(), "sb_f5");

        let several = chosen("sb_ab").unwrap_err().to_string();
        assert!(
            several.contains("2 sandboxes: sb_abc1, sb_abd2"),
            "{several}"
        );
        for none in ["", "x", "eb"] {
            let error = chosen(none).unwrap_err().to_string();
            assert!(error.contains("sandbox ls -a"), "{error}");
        }
        let hostile = chosen("\x1b[2J").unwrap_err().to_string();
        assert!(!hostile.contains('\x1b'));
    }
}
