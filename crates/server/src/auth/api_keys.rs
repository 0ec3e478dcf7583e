//! Keys: made once, shown once, kept as hashes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::id::fresh_id;
use crate::owner::Owner;
use crate::storage::database::{Store, StoreError};

/// What each key begins with, so that people and scanners know one.
const PREFIX: &str = "fh_";

/// Random bytes of a key: nobody guesses 256 bits.
const KEY_BYTES: usize = 32;

/// Letters of a key's name.
const NAME_BYTES: usize = 64;

/// How long a revoked key may still be taken by a server that runs.
const FRESH: Duration = Duration::from_secs(1);

/// Why a key cannot be made or revoked.
#[derive(Debug, Error)]
pub enum KeyError {
    /// Its name.
    #[error(
        "`{0}` is no name of a key; 1 to {NAME_BYTES} letters, digits, `.`, `_` and `-` are allowed"
    )]
    Name(String),
    /// There is one.
    #[error("there is a key `{0}` already; revoke it first, or take another name")]
    Exists(String),
    /// There is none.
    #[error("there is no key `{0}`; `fumehood keys list` shows which there are")]
    Unknown(String),
    /// This host.
    #[error("this host gives no randomness: {0}")]
    Randomness(getrandom::Error),
    /// The state.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A key, without what it consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its id: what it owns is under that.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
}

fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}

/// Makes a key; returns it, once.
///
/// # Errors
/// [`KeyError`].
pub fn create(store: &Store, name: &str) -> Result<String, KeyError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > NAME_BYTES || !name.chars().all(allowed) {
        return Err(KeyError::Name(name.chars().take(NAME_BYTES).collect()));
    }
    let mut bytes = [0; KEY_BYTES];
    getrandom::fill(&mut bytes).map_err(KeyError::Randomness)?;
    let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
    let (id, hash) = (fresh_id("key").map_err(KeyError::Randomness)?, hash(&token));
    let now = Timestamp::now().as_millisecond();
    let made = store.write(|c| {
        let insert = "INSERT INTO keys (id, name, hash, created_ms) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING";
        c.execute(insert, params![id, name, hash, now])
    });
    match made? {
        0 => Err(KeyError::Exists(name.to_owned())),
        _ => Ok(token),
    }
}

/// All keys, the oldest first.
///
/// # Errors
/// [`StoreError`].
pub fn list(store: &Store) -> Result<Vec<Key>, StoreError> {
    store.read(|c| {
        let mut select = c.prepare_cached(
            "SELECT id, name, created_ms, revoked_ms FROM keys ORDER BY created_ms, rowid",
        )?;
        let time = |ms: i64| Timestamp::from_millisecond(ms).unwrap_or_default();
        let keys = select.query_map([], |row| {
            Ok(Key {
                id: row.get(0)?,
                name: row.get(1)?,
                created: time(row.get(2)?),
                revoked: row.get::<_, Option<i64>>(3)?.map(time),
            })
        })?;
        keys.collect()
    })
}

/// Revokes a key: it is good for nothing within a second.
///
/// # Errors
/// [`KeyError::Unknown`], and others.
pub fn revoke(store: &Store, name: &str) -> Result<(), KeyError> {
    let now = Timestamp::now().as_millisecond();
    let revoked = store.write(|c| {
        let update = "UPDATE keys SET revoked_ms = ? WHERE name = ? AND revoked_ms IS NULL";
        c.execute(update, params![now, name])
    });
    match revoked? {
        0 => Err(KeyError::Unknown(name.chars().take(NAME_BYTES).collect())),
        _ => Ok(()),
    }
}

/// Whether there is a key that is not revoked.
///
/// # Errors
/// [`StoreError`].
pub fn any(store: &Store) -> Result<bool, StoreError> {
    Ok(list(store)?.iter().any(|key| key.revoked.is_none()))
}

/// Keys that were seen lately, by their hashes.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<HashMap<Vec<u8>, (Owner, Instant)>>);

impl Seen {
    /// Whose key this is. Only hashes are compared, so that time tells nothing about a key.
    pub(crate) fn owner(&self, store: &Store, token: &str) -> Result<Option<Owner>, StoreError> {
        if !token.starts_with(PREFIX) || token.len() > 128 {
            return Ok(None);
        }
        let hash = hash(token);
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((owner, at)) = seen.get(&hash)
            && at.elapsed() < FRESH
        {
            return Ok(Some(owner.clone()));
        }
        seen.remove(&hash);
        let found = store.read(|c| {
            let mut select =
                c.prepare_cached("SELECT id FROM keys WHERE hash = ? AND revoked_ms IS NULL")?;
            select
                .query_row([&hash], |row| row.get::<_, String>(0))
                .optional()
        })?;
        let owner = found.map(|id| Owner::key(&id));
        if let Some(owner) = &owner {
            seen.insert(hash, (owner.clone(), Instant::now()));
        }
        Ok(owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_found_and_revoked_and_never_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.sqlite");
        let store = Store::open(&path).unwrap();
        assert!(!any(&store).unwrap());
        let token = create(&store, "ci").unwrap();
        assert!(matches!(create(&store, "ci"), Err(KeyError::Exists(_))));
        for wrong in ["", "a b", &"x".repeat(65)] {
            assert!(matches!(create(&store, wrong), Err(KeyError::Name(_))));
        }
        assert!(create(&store, &"x".repeat(64)).is_ok());
        let owner = Seen::default().owner(&store, &token).unwrap();
        assert_eq!(owner.unwrap().as_str(), list(&store).unwrap()[0].id);
        assert_eq!(Seen::default().owner(&store, "fh_no").unwrap(), None);
        revoke(&store, "ci").unwrap();
        assert!(matches!(revoke(&store, "ci"), Err(KeyError::Unknown(_))));
        assert_eq!(Seen::default().owner(&store, &token).unwrap(), None);
        assert!(create(&store, "ci").is_ok());
        drop(store);
        let secret = token.trim_start_matches(PREFIX).as_bytes();
        for file in std::fs::read_dir(dir.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(secret.len()).any(|part| part == secret));
        }
    }
}
