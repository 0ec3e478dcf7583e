//! The records of runs and sandboxes: their JSON, as callers receive it, in the database.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::database::{Store, StoreError};
use super::deferred::Change;
use super::quota::{Kind, trim};
use super::resume::ResumeRecord;
pub(crate) use super::table::Table;
use crate::api::responses::{RunOutcome, RunResponse, RunState};
use crate::api::sandbox_responses::SandboxResponse;
use crate::api::timestamp::format_timestamp;
use crate::error::ApiError;
use crate::owner::Owner;

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full(_) => Self::storage_full(),
            error => Self::internal(&error),
        }
    }
}

fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

fn to_json(object: &impl Serialize) -> String {
    serde_json::to_string(object).unwrap_or_default()
}

/// Records the start of a run.
pub(crate) fn insert_run(
    store: &Store,
    owner: &Owner,
    run: &RunResponse,
) -> Result<(), StoreError> {
    let json = to_json(run);
    store.write(|c| {
        let insert = "INSERT INTO runs (id, owner, sandbox, state, created_ms, view) VALUES (?, ?, ?, 'running', ?, ?)";
        let values = params![run.id, owner.as_str(), run.sandbox, now_ms(), json];
        c.prepare_cached(insert)?.execute(values)?;
        let quota = Kind::Runs.quota();
        trim(c, Kind::Runs, quota, owner.as_str(), &run.id)
    })
}

/// Records the start of a sandbox.
pub(crate) fn insert_sandbox(
    store: &Store,
    owner: &Owner,
    sandbox: &SandboxResponse,
    resume: &ResumeRecord,
) -> Result<(), StoreError> {
    let (json, resume) = (to_json(sandbox), to_json(resume));
    store.write(|c| {
        let insert = "INSERT INTO sandboxes (id, owner, state, created_ms, view, resume) VALUES (?, ?, ?, ?, ?, ?)";
        let state = sandbox.state.as_str();
        let values = params![sandbox.id, owner.as_str(), state, now_ms(), json, resume];
        c.prepare_cached(insert)?.execute(values)?;
        let quota = Kind::Sandboxes.quota();
        trim(c, Kind::Sandboxes, quota, owner.as_str(), &sandbox.id)
    })
}

/// Updates the record of a run or a sandbox. If that is not possible now, it is done later; callers see the new record in
/// any case.
pub(crate) fn update(store: &Store, table: Table, id: &str, state: &str, object: &impl Serialize) {
    store.change(Change {
        table,
        id: id.to_owned(),
        state: state.to_owned(),
        json: to_json(object),
        resume: None,
    });
}

/// Updates the record of a sandbox that has not ended, as [`update`] does, with the data with which a later server resumes it.
pub(crate) fn update_sandbox(store: &Store, sandbox: &SandboxResponse, resume: &ResumeRecord) {
    store.change(Change {
        table: Table::Sandboxes,
        id: sandbox.id.clone(),
        state: sandbox.state.as_str().to_owned(),
        json: to_json(sandbox),
        resume: Some(to_json(resume)),
    });
}

/// Returns the record with this id if it belongs to this owner.
pub(crate) fn find<R: DeserializeOwned>(
    store: &Store,
    table: Table,
    owner: &Owner,
    id: &str,
) -> Result<Option<R>, StoreError> {
    let json: Option<String> = store.read(|c| {
        let table = table.name();
        let select = format!("SELECT view FROM {table} WHERE id = ? AND owner = ?");
        c.prepare_cached(&select)?
            .query_row(params![id, owner.as_str()], |row| row.get(0))
            .optional()
    })?;

    let current = json.map(|json| store.deferred_json(id).unwrap_or(json));
    Ok(current.and_then(|json| parse(&json)))
}

/// Returns the record of the newest sandbox of this owner with this name.
pub(crate) fn find_sandbox_by_name(
    store: &Store,
    owner: &Owner,
    name: &str,
) -> Result<Option<SandboxResponse>, StoreError> {
    let found: Option<(String, String)> = store.read(|c| {
        let select =
            "SELECT id, view FROM sandboxes WHERE owner = ? AND name = ? ORDER BY id DESC LIMIT 1";
        c.prepare_cached(select)?
            .query_row(params![owner.as_str(), name], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()
    })?;

    let current = found.map(|(id, json)| store.deferred_json(&id).unwrap_or(json));
    Ok(current.and_then(|json| parse(&json)))
}

/// Which records a list contains.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// Only those that are over, or only those that are not.
    pub(crate) is_over: Option<bool>,
    /// Only the runs in this sandbox.
    pub(crate) sandbox: Option<String>,
    /// Only the sandboxes with this name.
    pub(crate) name: Option<String>,
    /// Only those that were started before the one with this id.
    pub(crate) before: Option<String>,
    pub(crate) limit: u32,
}

/// Returns the records of this owner, the newest first.
pub(crate) fn list<R: DeserializeOwned>(
    store: &Store,
    table: Table,
    owner: &Owner,
    filter: &Filter,
) -> Result<Vec<R>, StoreError> {
    let (sandbox, name) = match table {
        Table::Runs => ("sandbox", "NULL"),
        Table::Sandboxes => ("NULL", "name"),
    };

    let select = format!(
        "SELECT id, view FROM {} WHERE owner = ?1 AND (?2 IS NULL OR (state IN ('ended', 'failed')) = ?2)
         AND (?3 IS NULL OR {sandbox} = ?3) AND (?4 IS NULL OR id < ?4) AND (?6 IS NULL OR {name} = ?6)
         ORDER BY id DESC LIMIT ?5",
        table.name()
    );

    let records: Vec<(String, String)> = store.read(|c| {
        let mut select = c.prepare_cached(&select)?;
        let values = params![
            owner.as_str(),
            filter.is_over,
            filter.sandbox,
            filter.before,
            filter.limit,
            filter.name
        ];

        let records = select.query_map(values, |row| Ok((row.get(0)?, row.get(1)?)))?;
        records.collect()
    })?;

    let records = records
        .into_iter()
        .filter_map(|(id, json)| parse(&store.deferred_json(&id).unwrap_or(json)));
    Ok(records.collect())
}

/// Records that the runs of an earlier server are lost: their programs are no longer followed.
pub(crate) fn mark_runs_lost(store: &Store) -> Result<(), StoreError> {
    let runs = store.read(|c| {
        let runs = "SELECT view FROM runs WHERE state NOT IN ('ended', 'failed')";
        select_all::<RunResponse>(c, runs)
    })?;

    if !runs.is_empty() {
        tracing::warn!(runs = runs.len(), "lost by a server that was killed");
    }

    let at = format_timestamp(Timestamp::now());
    for mut run in runs {
        let detail = "the server stopped during the run; whether the code ended is unknown";
        run.state = RunState::Ended;
        run.ended_at = Some(at.clone());
        run.outcome = Some(RunOutcome::server_lost(detail));
        update(store, Table::Runs, &run.id, "ended", &run);
    }

    Ok(())
}

/// The record of a sandbox that may be resumed.
#[derive(Debug)]
pub(crate) struct SandboxRecord {
    pub(crate) owner: Owner,
    pub(crate) view: SandboxResponse,
    pub(crate) resume: Option<ResumeRecord>,
}

/// Returns the records of the sandboxes that have not ended, or that an earlier start has reported as lost.
pub(crate) fn resumable_sandboxes(store: &Store) -> Result<Vec<SandboxRecord>, StoreError> {
    let rows: Vec<(String, String, Option<String>)> = store.read(|c| {
        let select = "SELECT owner, view, resume FROM sandboxes WHERE state != 'ended'
            OR (resume IS NOT NULL AND json_extract(view, '$.ended') = 'server_lost')";
        let mut select = c.prepare(select)?;
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        rows.collect()
    })?;

    let records = rows.into_iter().filter_map(|(owner, view, resume)| {
        Some(SandboxRecord {
            owner: Owner::from_record(&owner),
            view: parse(&view)?,
            resume: resume.and_then(|json| serde_json::from_str(&json).ok()),
        })
    });
    Ok(records.collect())
}

fn select_all<R: DeserializeOwned>(c: &Connection, select: &str) -> rusqlite::Result<Vec<R>> {
    let mut select = c.prepare(select)?;
    let records = select.query_map([], |row| row.get::<_, String>(0))?;
    let records: Vec<String> = records.collect::<Result<_, _>>()?;
    Ok(parse_all(&records))
}

fn parse_all<R: DeserializeOwned>(records: &[String]) -> Vec<R> {
    records.iter().filter_map(|json| parse(json)).collect()
}

/// Parses a record. One that another version wrote in a form that this one does not know is left out, and logged.
fn parse<R: DeserializeOwned>(json: &str) -> Option<R> {
    serde_json::from_str(json)
        .inspect_err(|error| {
            /// Only what is needed to find the record.
            #[derive(Deserialize)]
            struct Identity {
                id: String,
            }

            let id = serde_json::from_str(json).map(|record: Identity| record.id);
            let id = id.unwrap_or_default();
            tracing::error!(id, %error, "cannot read a record; it is left out");
        })
        .ok()
}

/// Deletes old records: runs and sandboxes that are over and keys that are revoked if older than `records_before_ms`,
/// idempotency keys if older than `keys_before_ms`. Both are Unix times in milliseconds.
pub(crate) fn delete_before(
    store: &Store,
    records_before_ms: i64,
    keys_before_ms: i64,
) -> Result<(), StoreError> {
    store.write(|c| {
        c.execute(
            "DELETE FROM runs WHERE created_ms < ? AND state IN ('ended', 'failed')",
            [records_before_ms],
        )?;

        c.execute(
            "DELETE FROM sandboxes WHERE created_ms < ? AND state = 'ended'",
            [records_before_ms],
        )?;
        c.execute("DELETE FROM keys WHERE revoked_ms < ?", [records_before_ms])?;
        c.execute("DELETE FROM claims WHERE created_ms < ?", [keys_before_ms])?;
        c.execute("DELETE FROM usage WHERE bytes <= 0", [])?;

        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn records_of_earlier_versions_are_read_and_damaged_ones_are_left_out() {
        let run = |id: &str, fields: serde_json::Value| {
            let mut run = json!({
                "id": id, "sandbox": null, "kind": "code", "state": "failed", "ended_at": null,
                "created_at": "2026-01-01T00:00:00.000Z", "error": null,
            });

            let fields = fields.as_object().cloned().unwrap_or_default();
            run.as_object_mut().unwrap().extend(fields);
            run.to_string()
        };

        let error = json!({ "kind": "invalid", "retry": "useless", "message": "no" });
        let records = [
            run("run_1", json!({ "error": error })),
            run("run_2", json!({ "state": "unheard-of" })),
            run(
                "run_3",
                json!({ "ended_by": "exited", "exit_code": 0, "source": "blank" }),
            ),
            "{".to_owned(),
        ];

        let runs: Vec<RunResponse> = parse_all(&records);
        let ids: Vec<_> = runs.iter().map(|run| run.id.as_str()).collect();
        assert_eq!(ids, ["run_1", "run_3"]);

        let error = runs[0].error.as_ref().unwrap();
        assert_eq!(error.retry, fumehood_engine::Retry::Never);
        let ended_by = runs[1].outcome.as_ref().map(RunOutcome::ended_by);
        assert_eq!(ended_by, Some("exited"));
    }

    #[test]
    fn a_name_finds_the_newest_sandbox_of_its_owner() {
        let store = Store::in_memory().unwrap();
        let insert = |id: &str, owner: &str, name: serde_json::Value| {
            let view = json!({
                "id": id, "name": name, "language": null, "state": "ended", "ended_at": null,
                "created_at": "2026-01-01T00:00:00.000Z", "ended": "idle", "ended_why": "x",
                "memory_mib": 512, "idle_timeout_s": 1, "max_lifetime_s": 1, "source": "boot",
                "isolation": "full", "urls": [],
            });
            let insert = "INSERT INTO sandboxes (id, owner, state, created_ms, view) VALUES (?, ?, 'ended', 1, ?)";
            let values = params![id, owner, view.to_string()];
            store.write(|c| c.execute(insert, values)).unwrap();
        };

        insert("sb_1", "one", json!("box"));
        insert("sb_2", "one", json!("box"));
        insert("sb_3", "other", json!("box"));
        insert("sb_4", "one", json!(null));

        let one = Owner::key("one");
        let found = |name: &str| {
            let found = find_sandbox_by_name(&store, &one, name).unwrap();
            found.map(|sandbox| sandbox.id)
        };
        assert_eq!(found("box"), Some("sb_2".into()));
        assert_eq!(found("bo"), None);

        let filter = Filter {
            name: Some("box".into()),
            limit: 9,
            ..Filter::default()
        };
        let listed: Vec<SandboxResponse> = list(&store, Table::Sandboxes, &one, &filter).unwrap();
        let ids: Vec<_> = listed.iter().map(|sandbox| &*sandbox.id).collect();
        assert_eq!(ids, ["sb_2", "sb_1"]);
    }
}
