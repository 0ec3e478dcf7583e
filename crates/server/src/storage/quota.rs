//! How much of each kind one owner, and all owners together, may keep in the state. The oldest are deleted first.

use rusqlite::{Connection, OptionalExtension, params};

/// A kind of rows that callers create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Idempotency keys with their answers.
    Claims,
    /// Records of runs.
    Runs,
    /// Records of sandboxes.
    Sandboxes,
}

/// The bounds of a kind, in bytes of its rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quota {
    /// For one owner.
    pub(super) owner: i64,
    /// For all owners.
    pub(super) total: i64,
}

const MIB: i64 = 1024 * 1024;

impl Kind {
    pub(super) const fn quota(self) -> Quota {
        let (owner, total) = match self {
            Self::Claims => (16, 128),
            Self::Runs => (64, 512),
            Self::Sandboxes => (16, 128),
        };
        Quota {
            owner: owner * MIB,
            total: total * MIB,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Claims => "claims",
            Self::Runs => "runs",
            Self::Sandboxes => "sandboxes",
        }
    }

    /// Deletes the oldest row of owner ?1 other than ?2. Records of active runs and sandboxes are kept.
    const fn delete_oldest(self) -> &'static str {
        match self {
            Self::Claims => {
                "DELETE FROM claims WHERE owner = ?1 AND key =
                 (SELECT key FROM claims WHERE owner = ?1 AND key != ?2 ORDER BY created_ms LIMIT 1)"
            }
            Self::Runs => {
                "DELETE FROM runs WHERE id = (SELECT id FROM runs
                 WHERE owner = ?1 AND id != ?2 AND state IN ('ended', 'failed') ORDER BY id LIMIT 1)"
            }
            Self::Sandboxes => {
                "DELETE FROM sandboxes WHERE id = (SELECT id FROM sandboxes
                 WHERE owner = ?1 AND id != ?2 AND state = 'ended' ORDER BY id LIMIT 1)"
            }
        }
    }
}

/// Deletes the oldest rows until all bounds of the kind hold. `owner` has just written the row `newest`, which stays.
pub(super) fn trim(
    connection: &Connection,
    kind: Kind,
    quota: Quota,
    owner: &str,
    newest: &str,
) -> rusqlite::Result<()> {
    let mut delete = connection.prepare_cached(kind.delete_oldest())?;

    let mut usage =
        connection.prepare_cached("SELECT bytes FROM usage WHERE kind = ? AND owner = ?")?;
    let mut used_by = |owner: &str| -> rusqlite::Result<i64> {
        let bytes = usage.query_row(params![kind.name(), owner], |row| row.get(0));
        Ok(bytes.optional()?.unwrap_or(0))
    };
    while used_by(owner)? > quota.owner && delete.execute([owner, newest])? > 0 {}

    // The owner that keeps most loses its oldest rows.
    let mut total =
        connection.prepare_cached("SELECT coalesce(sum(bytes), 0) FROM usage WHERE kind = ?")?;
    let mut largest = connection
        .prepare_cached("SELECT owner FROM usage WHERE kind = ? ORDER BY bytes DESC LIMIT 1")?;
    while total.query_row([kind.name()], |row| row.get::<_, i64>(0))? > quota.total {
        let largest: String = largest.query_row([kind.name()], |row| row.get(0))?;
        if delete.execute([largest.as_str(), newest])? == 0 {
            break;
        }
    }

    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::database::Store;

    fn insert(c: &Connection, owner: &str, number: i64, quota: Quota) -> rusqlite::Result<()> {
        let key = number.to_string();
        let values = params![owner, key, b"", number, vec![0_u8; 1000]];
        c.execute(
            "INSERT INTO claims (owner, key, hash, created_ms, body) VALUES (?, ?, ?, ?, ?)",
            values,
        )?;
        trim(c, Kind::Claims, quota, owner, &key)
    }

    #[test]
    fn the_oldest_give_way_to_the_newest_of_one_owner_and_of_all() {
        let store = Store::in_memory().unwrap();
        let quota = Quota {
            owner: 5200,
            total: 8000,
        };

        let write = |owner: &str, number| store.write(|c| insert(c, owner, number, quota));
        let keys = |owner: &str| -> Vec<String> {
            let select = "SELECT key FROM claims WHERE owner = ? ORDER BY created_ms";
            let keys = store.read(|c| {
                let mut select = c.prepare(select)?;
                select.query_map([owner], |row| row.get(0))?.collect()
            });
            keys.unwrap()
        };

        for number in 0..20 {
            write("one", number).unwrap();
        }
        assert_eq!(keys("one"), ["16", "17", "18", "19"]);

        for number in 20..24 {
            write("other", number).unwrap();
        }
        assert_eq!(keys("other").len(), 3, "{:?}", keys("one"));
        assert_eq!(keys("one").len(), 3);
        assert_eq!(keys("other").last().unwrap(), "23");

        // What is deleted or changed otherwise is counted, too.
        let usage = || {
            let select = "SELECT coalesce(sum(bytes), 0) FROM usage";
            let usage = store.read(|c| c.query_row(select, [], |row| row.get::<_, i64>(0)));
            usage.unwrap()
        };
        let before = usage();
        store
            .write(|c| c.execute("UPDATE claims SET body = NULL WHERE key = '23'", []))
            .unwrap();
        assert_eq!(usage(), before - 1000);
        store
            .write(|c| c.execute("DELETE FROM claims", []))
            .unwrap();
        assert_eq!(usage(), 0);
    }
}
