//! Idempotency keys: which request each was used for, and the response to it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use fumehood_engine::Retry;
use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};

use super::database::Store;
use super::quota::{Kind, trim};
use crate::error::{ApiError, ApiErrorKind};
use crate::owner::Owner;
use crate::sync::lock;

/// The maximum length of a key, in bytes.
const MAX_KEY_BYTES: usize = 128;

/// The largest response body that is stored, in bytes.
const MAX_STORED_BODY_BYTES: usize = 1024 * 1024;

/// The idempotency key of a request, with a hash of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    key: String,
    request_hash: Vec<u8>,
}

impl IdempotencyKey {
    /// Validates a key. `request_hash` must cover everything that the request says.
    ///
    /// # Errors
    /// [`ApiErrorKind::Invalid`] if the key is empty, too long, or has other than printable ASCII characters.
    pub fn new(key: &str, request_hash: Vec<u8>) -> Result<Self, ApiError> {
        let is_allowed = key.bytes().all(|byte| byte.is_ascii_graphic());
        if key.is_empty() || key.len() > MAX_KEY_BYTES || !is_allowed {
            let message = format!(
                "`Idempotency-Key` must be 1 to {MAX_KEY_BYTES} printable ASCII characters without spaces; it has {} bytes",
                key.len()
            );
            return Err(ApiError::invalid(message));
        }

        Ok(Self {
            key: key.to_owned(),
            request_hash,
        })
    }
}

/// The response to a request with an idempotency key, to be replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredResponse {
    pub(crate) status: u16,
    pub(crate) content_type: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// The earlier use of a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PriorUse {
    Unused,
    /// The key started the run with this id.
    Run(String),
    Response(StoredResponse),
}

/// The locks of the keys that are in use.
#[derive(Debug, Default)]
pub(crate) struct KeyLocks(Mutex<HashMap<(Owner, String), KeyLock>>);

type KeyLock = Arc<tokio::sync::Mutex<()>>;

/// Exclusive use of a key: other requests with it wait.
#[derive(Debug)]
pub(crate) struct KeyGuard {
    store: Store,
    owner: Owner,
    key: IdempotencyKey,
    _lock: tokio::sync::OwnedMutexGuard<()>,
}

impl KeyLocks {
    /// Waits until no other request uses the key.
    pub(crate) async fn acquire(
        &self,
        store: &Store,
        owner: &Owner,
        key: IdempotencyKey,
    ) -> KeyGuard {
        let mutex = {
            let mut locks = lock(&self.0);
            locks.retain(|_, mutex| Arc::strong_count(mutex) > 1);
            let entry = locks.entry((owner.clone(), key.key.clone()));
            entry.or_default().clone()
        };

        KeyGuard {
            store: store.clone(),
            owner: owner.clone(),
            key,
            _lock: mutex.lock_owned().await,
        }
    }
}

impl KeyGuard {
    /// Returns the earlier use of the key.
    ///
    /// # Errors
    /// [`ApiErrorKind::Conflict`] if it was used for another request, or for one whose result is unknown.
    pub(crate) fn prior_use(&self) -> Result<PriorUse, ApiError> {
        type Row = (
            Vec<u8>,
            Option<String>,
            Option<u16>,
            Option<String>,
            Option<Vec<u8>>,
        );

        let row: Option<Row> = self.store.read(|c| {
            let select =
                "SELECT hash, run, status, type, body FROM claims WHERE owner = ? AND key = ?";
            let mut select = c.prepare_cached(select)?;
            let row = select.query_row(params![self.owner.as_str(), self.key.key], |row| {
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                ))
            });

            row.optional()
        })?;

        let conflict = |message: &str| ApiError::new(ApiErrorKind::Conflict, message);
        match row {
            None => Ok(PriorUse::Unused),
            Some((hash, ..)) if hash != self.key.request_hash => Err(conflict(
                "this `Idempotency-Key` was used for another request; use a new key",
            )),
            Some((_, Some(run), ..)) => Ok(PriorUse::Run(run)),
            Some((_, None, Some(status), content_type, body)) => {
                Ok(PriorUse::Response(StoredResponse {
                    status,
                    content_type,
                    body: body.unwrap_or_default(),
                }))
            }
            Some(_) => {
                let error = conflict(
                    "a request with this `Idempotency-Key` was started, and its result is unknown; \
                     check its effect, and use a new key",
                );
                Err(error.with_retry(Retry::Unknown))
            }
        }
    }

    /// Records that the key is in use; for this run, if it starts one.
    ///
    /// # Errors
    /// [`ApiErrorKind::StorageFull`] and [`ApiErrorKind::Internal`].
    pub(crate) fn record_start(&self, run: Option<&str>) -> Result<(), ApiError> {
        let now = Timestamp::now().as_millisecond();
        let (owner, key) = (self.owner.as_str(), &self.key);
        self.store.write(|c| {
            // A key whose run failed before its code ran starts another one.
            let insert =
                "INSERT INTO claims (owner, key, hash, created_ms, run) VALUES (?, ?, ?, ?, ?)
                ON CONFLICT DO UPDATE SET hash = excluded.hash, created_ms = excluded.created_ms,
                run = excluded.run, status = NULL, type = NULL, body = NULL";
            let mut insert = c.prepare_cached(insert)?;
            insert.execute(params![owner, key.key, key.request_hash, now, run])?;
            trim(c, Kind::Claims, Kind::Claims.quota(), owner, &key.key)
        })?;

        Ok(())
    }

    /// Records the response. One that is too large or cannot be written is not stored: the request then counts as
    /// started, and is neither replayed nor repeated.
    pub(crate) fn record_response(&self, response: &StoredResponse) {
        if response.body.len() > MAX_STORED_BODY_BYTES {
            return;
        }

        let (owner, key) = (self.owner.as_str(), &self.key.key);
        // A failure has been logged. The request was carried out, and its caller receives the response in any case.
        let _ = self.store.write(|c| {
            c.execute(
                "UPDATE claims SET status = ?, type = ?, body = ? WHERE owner = ? AND key = ?",
                params![
                    response.status,
                    response.content_type,
                    response.body,
                    owner,
                    key
                ],
            )?;
            trim(c, Kind::Claims, Kind::Claims.quota(), owner, key)
        });
    }

    /// Frees the key, because nothing was done. If that fails, the key counts as used.
    pub(crate) fn release(&self) {
        let (owner, key) = (self.owner.as_str(), &self.key.key);
        // A failure has been logged, and the caller receives the cause of the release.
        let _ = self.store.write(|c| {
            c.execute(
                "DELETE FROM claims WHERE owner = ? AND key = ?",
                params![owner, key],
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_replays_its_response_and_serves_one_request_of_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        let locks = KeyLocks::default();
        let key = |hash: u8| IdempotencyKey::new("k", vec![hash]).unwrap();

        let guard = locks.acquire(&store, &Owner::local(), key(1)).await;
        assert_eq!(guard.prior_use().unwrap(), PriorUse::Unused);
        guard.record_start(None).unwrap();
        let other = locks.acquire(&store, &Owner::key("x"), key(2)).await;
        assert_eq!(other.prior_use().unwrap(), PriorUse::Unused);
        drop(guard);

        // The first holder is gone and recorded no response.
        let guard = locks.acquire(&store, &Owner::local(), key(1)).await;
        assert_eq!(guard.prior_use().unwrap_err().kind, ApiErrorKind::Conflict);
        let response = StoredResponse {
            status: 201,
            content_type: None,
            body: b"x".to_vec(),
        };
        guard.record_response(&response);
        assert_eq!(guard.prior_use().unwrap(), PriorUse::Response(response));
        drop(guard);

        let guard = locks.acquire(&store, &Owner::local(), key(2)).await;
        assert_eq!(guard.prior_use().unwrap_err().kind, ApiErrorKind::Conflict);
        guard.release();
        assert_eq!(guard.prior_use().unwrap(), PriorUse::Unused);
    }

    #[tokio::test]
    async fn the_answers_of_one_owner_are_bounded_and_those_of_others_stay() {
        let store = Store::in_memory().unwrap();
        let locks = KeyLocks::default();
        let respond = async |owner: &Owner, number: u32| {
            let key = IdempotencyKey::new(&format!("k{number}"), Vec::new()).unwrap();
            let guard = locks.acquire(&store, owner, key).await;
            let prior = guard.prior_use().unwrap();
            if prior == PriorUse::Unused {
                guard.record_start(None).unwrap();
                guard.record_response(&StoredResponse {
                    status: 200,
                    content_type: None,
                    body: vec![1; MAX_STORED_BODY_BYTES],
                });
            }
            prior
        };

        let (one, other) = (Owner::key("one"), Owner::key("other"));
        respond(&other, 0).await;
        for number in 0..40 {
            respond(&one, number).await;
        }

        let kept = |owner: &str| -> i64 {
            let sum = "SELECT sum(length(body)) FROM claims WHERE owner = ?";
            let sum = store.read(|c| c.query_row(sum, [owner], |row| row.get(0)));
            sum.unwrap()
        };
        assert_eq!(kept("one"), 15 * 1024 * 1024);
        assert_eq!(kept("other"), 1024 * 1024);
        assert!(matches!(respond(&one, 39).await, PriorUse::Response(_)));
    }

    #[test]
    fn keys_at_their_limits() {
        let new = |key: &str| IdempotencyKey::new(key, Vec::new());
        assert!(new(&"x".repeat(128)).is_ok());
        for wrong in ["", "a b", "é", &"x".repeat(129)] {
            assert!(new(wrong).is_err(), "{wrong}");
        }
    }
}
