//! Runs and sandboxes as the state has them.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::responses::{RunState, RunView, SandboxState, SandboxView};
use crate::api::timestamp::written;
use crate::error::ApiError;
use crate::owner::Owner;
use crate::storage::database::{Store, StoreError};

/// A table of things that have an owner and a state.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Table {
    Runs,
    Sandboxes,
}

impl Table {
    const fn name(self) -> &'static str {
        match self {
            Self::Runs => "runs",
            Self::Sandboxes => "sandboxes",
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::internal(&error)
    }
}

fn now() -> i64 {
    Timestamp::now().as_millisecond()
}

fn text(view: &impl Serialize) -> String {
    serde_json::to_string(view).unwrap_or_default()
}

/// Writes a run's beginning.
pub(crate) fn run_begins(store: &Store, owner: &Owner, view: &RunView) -> Result<(), StoreError> {
    let (id, sandbox, written) = (&view.id, &view.sandbox, text(view));
    store.write(|c| {
        let insert = "INSERT INTO runs (id, owner, sandbox, state, created_ms, view) VALUES (?, ?, ?, 'running', ?, ?)";
        c.prepare_cached(insert)?.execute(params![id, owner.as_str(), sandbox, now(), written])?;
        Ok(())
    })
}

/// Writes a sandbox's beginning.
pub(crate) fn sandbox_begins(
    store: &Store,
    owner: &Owner,
    view: &SandboxView,
) -> Result<(), StoreError> {
    let (id, written) = (&view.id, text(view));
    store.write(|c| {
        let insert = "INSERT INTO sandboxes (id, owner, state, created_ms, view) VALUES (?, ?, 'running', ?, ?)";
        c.prepare_cached(insert)?.execute(params![id, owner.as_str(), now(), written])?;
        Ok(())
    })
}

/// Writes what became of something.
pub(crate) fn ends(
    store: &Store,
    table: Table,
    id: &str,
    state: &str,
    view: &impl Serialize,
) -> Result<(), StoreError> {
    let view = text(view);
    store.write(|c| {
        let update = format!(
            "UPDATE {} SET state = ?, view = ? WHERE id = ?",
            table.name()
        );
        c.prepare_cached(&update)?
            .execute(params![state, view, id])?;
        Ok(())
    })
}

/// What the state knows of something that belongs to this owner.
pub(crate) fn find<V: DeserializeOwned>(
    store: &Store,
    table: Table,
    owner: &Owner,
    id: &str,
) -> Result<Option<V>, StoreError> {
    let found: Option<String> = store.read(|c| {
        let select = format!(
            "SELECT view FROM {} WHERE id = ? AND owner = ?",
            table.name()
        );
        let mut select = c.prepare_cached(&select)?;
        select
            .query_row(params![id, owner.as_str()], |row| row.get(0))
            .optional()
    })?;
    Ok(found.and_then(|view| serde_json::from_str(&view).ok()))
}

/// Which ones a list is to have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// Only over ones, or only others.
    pub(crate) is_over: Option<bool>,
    pub(crate) sandbox: Option<String>,
    pub(crate) before: Option<String>,
    pub(crate) limit: u32,
}

/// Those of this owner, the newest first.
pub(crate) fn list<V: DeserializeOwned>(
    store: &Store,
    table: Table,
    owner: &Owner,
    filter: &Filter,
) -> Result<Vec<V>, StoreError> {
    let sandbox = match table {
        Table::Runs => "sandbox",
        Table::Sandboxes => "NULL",
    };
    let select = format!(
        "SELECT view FROM {} WHERE owner = ?1 AND (?2 IS NULL OR (state IN ('ended', 'failed')) = ?2)
         AND (?3 IS NULL OR {sandbox} = ?3) AND (?4 IS NULL OR id < ?4) ORDER BY id DESC LIMIT ?5",
        table.name()
    );
    let views: Vec<String> = store.read(|c| {
        let mut select = c.prepare_cached(&select)?;
        let found = params![
            owner.as_str(),
            filter.is_over,
            filter.sandbox,
            filter.before,
            filter.limit
        ];
        select.query_map(found, |row| row.get(0))?.collect()
    })?;
    Ok(views
        .iter()
        .filter_map(|view| serde_json::from_str(view).ok())
        .collect())
}

/// Says of all that a server before this one has left what became of it: its VMs died with it.
pub(crate) fn recover(store: &Store) -> Result<(), StoreError> {
    let at = written(Timestamp::now());
    let (runs, sandboxes) = store.read(|c| {
        let runs: Vec<RunView> = left(
            c,
            "SELECT view FROM runs WHERE state NOT IN ('ended', 'failed')",
        )?;
        let sandboxes: Vec<SandboxView> =
            left(c, "SELECT view FROM sandboxes WHERE state != 'ended'")?;
        Ok((runs, sandboxes))
    })?;
    if !runs.is_empty() || !sandboxes.is_empty() {
        tracing::warn!(
            runs = runs.len(),
            sandboxes = sandboxes.len(),
            "lost by a server before this one"
        );
    }
    for mut run in runs {
        run.state = RunState::Ended;
        run.ended_at = Some(at.clone());
        run.outcome.ended_by = Some("server_lost".into());
        let detail = "the server went away in the middle of it; whether the code ended is unknown";
        run.outcome.evidence = Some(serde_json::json!({ "detail": detail }));
        ends(store, Table::Runs, &run.id, "ended", &run)?;
    }
    for mut sandbox in sandboxes {
        sandbox.state = SandboxState::Ended;
        sandbox.ended_at = Some(at.clone());
        sandbox.ended = Some("server_lost".into());
        sandbox.ended_why = Some("the server went away, and its VM with it".into());
        sandbox.urls.clear();
        ends(store, Table::Sandboxes, &sandbox.id, "ended", &sandbox)?;
    }
    Ok(())
}

fn left<V: DeserializeOwned>(c: &Connection, select: &str) -> rusqlite::Result<Vec<V>> {
    let mut select = c.prepare(select)?;
    let views = select.query_map([], |row| row.get::<_, String>(0))?;
    let views: Vec<String> = views.collect::<Result<_, _>>()?;
    Ok(views
        .iter()
        .filter_map(|view| serde_json::from_str(view).ok())
        .collect())
}

/// Deletes records of runs and sandboxes that are over and keys that were revoked, and what idempotency keys gave, each
/// before a time in milliseconds.
pub(crate) fn delete_before(store: &Store, known: i64, claimed: i64) -> Result<(), StoreError> {
    store.write(|c| {
        c.execute(
            "DELETE FROM runs WHERE created_ms < ? AND state IN ('ended', 'failed')",
            [known],
        )?;
        c.execute(
            "DELETE FROM sandboxes WHERE created_ms < ? AND state = 'ended'",
            [known],
        )?;
        c.execute("DELETE FROM claims WHERE created_ms < ?", [claimed])?;
        c.execute("DELETE FROM keys WHERE revoked_ms < ?", [known])?;
        Ok(())
    })
}
