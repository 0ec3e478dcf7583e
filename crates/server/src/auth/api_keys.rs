//! API keys: each is shown once, when it is created, and stored as a hash.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::id::{new_id, random_bytes};
use crate::owner::{Identity, Owner};
use crate::storage::database::{Store, StoreError};
use crate::sync::lock;

/// The prefix of every key, by which people and secret scanners recognise one.
const PREFIX: &str = "fh_";

/// Random bytes of a key: 256 bits cannot be guessed.
const TOKEN_BYTES: usize = 32;

/// The maximum length of a token that is looked up, in bytes.
const MAX_TOKEN_BYTES: usize = 128;

/// The maximum length of a key name, in characters.
const MAX_NAME_CHARS: usize = 64;

/// How long a running server may still accept a key after it was revoked.
const CACHE_TTL: Duration = Duration::from_secs(1);

/// Why a key cannot be created or revoked.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The name is invalid.
    #[error(
        "invalid key name `{0}`; use 1 to {MAX_NAME_CHARS} letters, digits, `.`, `_` and `-`, other than `.` and `..`"
    )]
    Name(String),
    /// The name is in use.
    #[error("a key named `{0}` already exists; revoke it first, or use another name")]
    Exists(String),
    /// There is no such key.
    #[error("no such key: `{0}`; `fumehood keys list` lists the keys")]
    Unknown(String),
    /// The operating system provides no random numbers.
    #[error("cannot get random numbers from the operating system: {0}")]
    Randomness(getrandom::Error),
    /// The state cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An API key without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The id, which owns the key's runs and sandboxes.
    pub id: String,
    /// The name.
    pub name: String,
    /// Whether its caller operates the server: it sees and ends what belongs to other keys, too.
    pub is_operator: bool,
    /// When the key was created.
    pub created: Timestamp,
    /// When the key was revoked, if it was.
    pub revoked: Option<Timestamp>,
}

fn hash_token(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}

/// Creates a key, and returns its token. The token cannot be read again. `is_operator` lets its caller see and end what
/// belongs to other keys.
///
/// # Errors
/// [`KeyError`].
pub fn create(store: &Store, name: &str, is_operator: bool) -> Result<String, KeyError> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_name = !name.is_empty() && name.chars().all(is_allowed) && !matches!(name, "." | "..");
    if !is_name || name.len() > MAX_NAME_CHARS {
        return Err(KeyError::Name(shortened(name)));
    }

    let secret = random_bytes::<TOKEN_BYTES>().map_err(KeyError::Randomness)?;
    let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret));
    let id = new_id("key").map_err(KeyError::Randomness)?;
    let hash = hash_token(&token);
    let now = Timestamp::now().as_millisecond();

    let inserted = store.write(|c| {
        let insert = "INSERT INTO keys (id, name, hash, created_ms, operator) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING";
        c.execute(insert, params![id, name, hash, now, is_operator])
    })?;

    if inserted == 0 {
        return Err(KeyError::Exists(name.to_owned()));
    }

    Ok(token)
}

/// Returns all keys, the oldest first.
///
/// # Errors
/// [`StoreError`].
pub fn list(store: &Store) -> Result<Vec<Key>, StoreError> {
    store.read(|c| {
        let mut select = c.prepare_cached(
            "SELECT id, name, created_ms, revoked_ms, operator FROM keys ORDER BY created_ms, rowid",
        )?;

        let time = |ms: i64| Timestamp::from_millisecond(ms).unwrap_or_default();
        let keys = select.query_map([], |row| {
            Ok(Key {
                id: row.get(0)?,
                name: row.get(1)?,
                created: time(row.get(2)?),
                revoked: row.get::<_, Option<i64>>(3)?.map(time),
                is_operator: row.get(4)?,
            })
        })?;

        keys.collect()
    })
}

/// Revokes a key. Running servers reject it within a second, and end its requests, runs and sandboxes.
///
/// # Errors
/// [`KeyError::Unknown`] if there is no such key, and others.
pub fn revoke(store: &Store, name: &str) -> Result<(), KeyError> {
    let now = Timestamp::now().as_millisecond();
    let updated = store.write_essential(|c| {
        let update = "UPDATE keys SET revoked_ms = ? WHERE name = ? AND revoked_ms IS NULL";
        c.execute(update, params![now, name])
    })?;

    if updated == 0 {
        return Err(KeyError::Unknown(shortened(name)));
    }

    Ok(())
}

/// Returns the owners whose keys are revoked.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn revoked_owners(store: &Store) -> Result<Vec<Owner>, StoreError> {
    store.read(|c| {
        let mut select = c.prepare_cached("SELECT id FROM keys WHERE revoked_ms IS NOT NULL")?;
        let ids = select.query_map([], |row| row.get::<_, String>(0))?;
        ids.map(|id| Ok(Owner::key(&id?))).collect()
    })
}

/// Whether there is a key that is not revoked.
///
/// # Errors
/// [`StoreError`].
pub fn any_active(store: &Store) -> Result<bool, StoreError> {
    Ok(list(store)?.iter().any(|key| key.revoked.is_none()))
}

fn shortened(name: &str) -> String {
    name.chars().take(MAX_NAME_CHARS).collect()
}

/// A cache of the keys that were used last, by their hashes.
#[derive(Debug, Default)]
pub(crate) struct KeyCache(Mutex<HashMap<Vec<u8>, (Identity, Instant)>>);

impl KeyCache {
    /// Returns the caller with this token, or `None` if it is unknown or revoked.
    ///
    /// Only hashes are compared, so that the time of a comparison reveals nothing about a token.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn find(&self, store: &Store, token: &str) -> Result<Option<Identity>, StoreError> {
        if !token.starts_with(PREFIX) || token.len() > MAX_TOKEN_BYTES {
            return Ok(None);
        }

        let hash = hash_token(token);
        let mut cached = lock(&self.0);
        if let Some((identity, at)) = cached.get(&hash)
            && at.elapsed() < CACHE_TTL
        {
            return Ok(Some(identity.clone()));
        }

        cached.remove(&hash);

        let identity = store.read(|c| {
            let select = "SELECT id, operator FROM keys WHERE hash = ? AND revoked_ms IS NULL";
            let identity = c.prepare_cached(select)?.query_row([&hash], |row| {
                Ok(Identity {
                    owner: Owner::key(&row.get::<_, String>(0)?),
                    is_operator: row.get(1)?,
                })
            });
            identity.optional()
        })?;

        if let Some(identity) = &identity {
            cached.insert(hash, (identity.clone(), Instant::now()));
        }

        Ok(identity)
    }

    /// Removes the keys of this owner.
    pub(crate) fn forget(&self, owner: &Owner) {
        lock(&self.0).retain(|_, (identity, _)| identity.owner != *owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_created_found_and_revoked_and_never_stored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.sqlite");
        let store = Store::open(&path).unwrap();
        assert!(!any_active(&store).unwrap());

        let token = create(&store, "ci", false).unwrap();
        assert!(matches!(
            create(&store, "ci", false),
            Err(KeyError::Exists(_))
        ));

        for wrong in ["", "a b", ".", "..", &"x".repeat(65)] {
            assert!(matches!(
                create(&store, wrong, false),
                Err(KeyError::Name(_))
            ));
        }

        assert!(create(&store, &"x".repeat(64), true).is_ok());

        let find = |token: &str| KeyCache::default().find(&store, token).unwrap();
        let found = find(&token).unwrap();
        assert_eq!(found.owner.as_str(), list(&store).unwrap()[0].id);
        assert!(!found.is_operator && list(&store).unwrap()[1].is_operator);
        assert_eq!(find("fh_no"), None);
        assert_eq!(revoked_owners(&store).unwrap(), []);

        revoke(&store, "ci").unwrap();
        assert!(matches!(revoke(&store, "ci"), Err(KeyError::Unknown(_))));
        assert_eq!(find(&token), None);
        assert_eq!(revoked_owners(&store).unwrap(), [found.owner]);
        assert!(create(&store, "ci", false).is_ok());

        // No file of the state contains the token.
        drop(store);
        let secret = token.trim_start_matches(PREFIX).as_bytes();

        for file in std::fs::read_dir(dir.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(secret.len()).any(|part| part == secret));
        }
    }
}
