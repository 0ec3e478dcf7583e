//! The tables of the state, as a list of migrations.

/// Statements that count the bytes of a table for each owner, now and whenever a row changes.
macro_rules! count_usage {
    ($table:literal) => {
        concat!(
            "INSERT INTO usage SELECT '",
            $table,
            "', owner, sum(cost) FROM ",
            $table,
            " GROUP BY owner;",
            "CREATE TRIGGER ",
            $table,
            "_inserted AFTER INSERT ON ",
            $table,
            " BEGIN ",
            "INSERT INTO usage VALUES ('",
            $table,
            "', NEW.owner, NEW.cost) ",
            "ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes; END;",
            "CREATE TRIGGER ",
            $table,
            "_deleted AFTER DELETE ON ",
            $table,
            " BEGIN ",
            "UPDATE usage SET bytes = bytes - OLD.cost WHERE kind = '",
            $table,
            "' AND owner = OLD.owner; END;",
            "CREATE TRIGGER ",
            $table,
            "_updated AFTER UPDATE ON ",
            $table,
            " BEGIN ",
            "UPDATE usage SET bytes = bytes + NEW.cost - OLD.cost ",
            "WHERE kind = '",
            $table,
            "' AND owner = OLD.owner; END;",
        )
    };
}

/// The migrations. Each brings the state from its index in this list to the next; `user_version` counts those applied.
pub(super) const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE keys (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, hash BLOB NOT NULL UNIQUE,
        created_ms INTEGER NOT NULL, revoked_ms INTEGER
    ) STRICT;
    CREATE UNIQUE INDEX keys_name ON keys (name) WHERE revoked_ms IS NULL;
    CREATE TABLE runs (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, sandbox TEXT, state TEXT NOT NULL,
        created_ms INTEGER NOT NULL, view TEXT NOT NULL
    ) STRICT;
    CREATE INDEX runs_owner ON runs (owner, id);
    CREATE INDEX runs_live ON runs (id) WHERE state NOT IN ('ended', 'failed');
    CREATE TABLE sandboxes (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, state TEXT NOT NULL,
        created_ms INTEGER NOT NULL, view TEXT NOT NULL
    ) STRICT;
    CREATE INDEX sandboxes_owner ON sandboxes (owner, id);
    CREATE INDEX sandboxes_live ON sandboxes (id) WHERE state != 'ended';
    CREATE TABLE claims (
        owner TEXT NOT NULL, key TEXT NOT NULL, hash BLOB NOT NULL, created_ms INTEGER NOT NULL,
        run TEXT, status INTEGER, type TEXT, body BLOB, PRIMARY KEY (owner, key)
    ) STRICT, WITHOUT ROWID;
",
    concat!(
        "
    CREATE TABLE usage (
        kind TEXT NOT NULL, owner TEXT NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY (kind, owner)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX claims_age ON claims (owner, created_ms);
    ALTER TABLE claims ADD COLUMN cost INTEGER AS (
        256 + octet_length(key) + coalesce(octet_length(body), 0) + coalesce(octet_length(type), 0)
    ) VIRTUAL;
    ALTER TABLE runs ADD COLUMN cost INTEGER AS (256 + octet_length(view)) VIRTUAL;
    ALTER TABLE sandboxes ADD COLUMN cost INTEGER AS (256 + octet_length(view)) VIRTUAL;
    ",
        count_usage!("claims"),
        count_usage!("runs"),
        count_usage!("sandboxes"),
    ),
    "ALTER TABLE keys ADD COLUMN operator INTEGER NOT NULL DEFAULT 0;",
    "
    ALTER TABLE sandboxes ADD COLUMN name TEXT AS (
        CASE WHEN json_valid(view) THEN json_extract(view, '$.name') END
    ) VIRTUAL;
    CREATE INDEX sandboxes_name ON sandboxes (owner, name, id) WHERE name IS NOT NULL;
    ",
    "
    ALTER TABLE sandboxes ADD COLUMN resume TEXT;
    CREATE TABLE server (id TEXT NOT NULL) STRICT;
    CREATE TABLE checkpoints (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT, created_ms INTEGER NOT NULL,
        state TEXT NOT NULL, bytes INTEGER NOT NULL, view TEXT NOT NULL, network TEXT
    ) STRICT;
    CREATE UNIQUE INDEX checkpoints_name ON checkpoints (owner, name) WHERE name IS NOT NULL;
    ",
];

/// The schema version that this fumehood reads and writes.
pub(super) const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;
