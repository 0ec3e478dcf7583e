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
use crate::owner::Owner;
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
    #[error("invalid key name `{0}`; use 1 to {MAX_NAME_CHARS} letters, digits, `.`, `_` and `-`")]
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
    /// When the key was created.
    pub created: Timestamp,
    /// When the key was revoked, if it was.
    pub revoked: Option<Timestamp>,
}

fn hash_token(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}

/// Creates a key, and returns its token. The token cannot be read again.
///
/// # Errors
/// [`KeyError`].
pub fn create(store: &Store, name: &str) -> Result<String, KeyError> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > MAX_NAME_CHARS || !name.chars().all(is_allowed) {
        return Err(KeyError::Name(shortened(name)));
    }

    let secret = random_bytes::<TOKEN_BYTES>().map_err(KeyError::Randomness)?;
    let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret));
    let id = new_id("key").map_err(KeyError::Randomness)?;
    let hash = hash_token(&token);
    let now = Timestamp::now().as_millisecond();

    let inserted = store.write(|c| {
        let insert = "INSERT INTO keys (id, name, hash, created_ms) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING";
        c.execute(insert, params![id, name, hash, now])
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

/// Revokes a key. Running servers reject it within a second.
///
/// # Errors
/// [`KeyError::Unknown`] if there is no such key, and others.
pub fn revoke(store: &Store, name: &str) -> Result<(), KeyError> {
    let now = Timestamp::now().as_millisecond();
    let updated = store.write(|c| {
        let update = "UPDATE keys SET revoked_ms = ? WHERE name = ? AND revoked_ms IS NULL";
        c.execute(update, params![now, name])
    })?;

    if updated == 0 {
        return Err(KeyError::Unknown(shortened(name)));
    }

    Ok(())
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
pub(crate) struct KeyCache(Mutex<HashMap<Vec<u8>, (Owner, Instant)>>);

impl KeyCache {
    /// Returns the owner with this token, or `None` if it is unknown or revoked.
    ///
    /// Only hashes are compared, so that the time of a comparison reveals nothing about a token.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn find_owner(
        &self,
        store: &Store,
        token: &str,
    ) -> Result<Option<Owner>, StoreError> {
        if !token.starts_with(PREFIX) || token.len() > MAX_TOKEN_BYTES {
            return Ok(None);
        }

        let hash = hash_token(token);
        let mut cached = lock(&self.0);
        if let Some((owner, at)) = cached.get(&hash)
            && at.elapsed() < CACHE_TTL
        {
            return Ok(Some(owner.clone()));
        }

        cached.remove(&hash);

        let id = store.read(|c| {
            let mut select =
                c.prepare_cached("SELECT id FROM keys WHERE hash = ? AND revoked_ms IS NULL")?;
            select
                .query_row([&hash], |row| row.get::<_, String>(0))
                .optional()
        })?;

        let owner = id.map(|id| Owner::key(&id));
        if let Some(owner) = &owner {
            cached.insert(hash, (owner.clone(), Instant::now()));
        }

        Ok(owner)
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

        let token = create(&store, "ci").unwrap();
        assert!(matches!(create(&store, "ci"), Err(KeyError::Exists(_))));

        for wrong in ["", "a b", &"x".repeat(65)] {
            assert!(matches!(create(&store, wrong), Err(KeyError::Name(_))));
        }

        assert!(create(&store, &"x".repeat(64)).is_ok());

        let find_owner = |token: &str| KeyCache::default().find_owner(&store, token).unwrap();
        let owner = find_owner(&token).unwrap();
        assert_eq!(owner.as_str(), list(&store).unwrap()[0].id);
        assert_eq!(find_owner("fh_no"), None);

        revoke(&store, "ci").unwrap();
        assert!(matches!(revoke(&store, "ci"), Err(KeyError::Unknown(_))));
        assert_eq!(find_owner(&token), None);
        assert!(create(&store, "ci").is_ok());

        // No file of the state contains the token.
        drop(store);
        let secret = token.trim_start_matches(PREFIX).as_bytes();

        for file in std::fs::read_dir(dir.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(secret.len()).any(|part| part == secret));
        }
    }
}
