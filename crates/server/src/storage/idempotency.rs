//! Idempotency keys: what was asked under one, and what it gave.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};

use crate::error::{ApiError, Kind};
use crate::owner::Owner;
use crate::storage::database::Store;
use crate::sync::lock;

/// The longest key.
const KEY_BYTES: usize = 128;

/// The largest answer that is kept.
const BODY_BYTES: usize = 1024 * 1024;

/// A request that names itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    key: String,
    hash: Vec<u8>,
}

impl Once {
    /// Checks a key. `hash`: of all that the request says.
    ///
    /// # Errors
    /// [`Kind::Invalid`].
    pub fn new(key: &str, hash: Vec<u8>) -> Result<Self, ApiError> {
        let is_allowed = key.bytes().all(|byte| byte.is_ascii_graphic());
        if key.is_empty() || key.len() > KEY_BYTES || !is_allowed {
            let message = format!(
                "`Idempotency-Key` of {} bytes; 1 to {KEY_BYTES} printable ASCII characters without spaces are allowed",
                key.len()
            );
            return Err(ApiError::invalid(message));
        }
        Ok(Self {
            key: key.to_owned(),
            hash,
        })
    }
}

/// An answer that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) status: u16,
    pub(crate) content_type: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// What a key was used for before.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Before {
    Nothing,
    Run(String),
    Given(Given),
}

/// Keys that somebody uses just now.
#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<HashMap<(Owner, String), Turn>>);

type Turn = Arc<tokio::sync::Mutex<()>>;

/// The right to use a key: nobody else does meanwhile.
#[derive(Debug)]
pub(crate) struct Claim {
    store: Store,
    owner: Owner,
    once: Once,
    _turn: tokio::sync::OwnedMutexGuard<()>,
}

impl Claims {
    /// Waits for the key's turn.
    pub(crate) async fn claim(&self, store: &Store, owner: &Owner, once: Once) -> Claim {
        let mutex = {
            let mut all = lock(&self.0);
            all.retain(|_, mutex| Arc::strong_count(mutex) > 1);
            all.entry((owner.clone(), once.key.clone()))
                .or_default()
                .clone()
        };
        Claim {
            store: store.clone(),
            owner: owner.clone(),
            once,
            _turn: mutex.lock_owned().await,
        }
    }
}

impl Claim {
    /// What it was used for.
    ///
    /// # Errors
    /// [`Kind::Conflict`]: for another request, or for one of which nobody knows what became of it.
    pub(crate) fn before(&self) -> Result<Before, ApiError> {
        type Row = (
            Vec<u8>,
            Option<String>,
            Option<u16>,
            Option<String>,
            Option<Vec<u8>>,
        );
        let found: Option<Row> = self.store.read(|c| {
            let select =
                "SELECT hash, run, status, type, body FROM claims WHERE owner = ? AND key = ?";
            let mut select = c.prepare_cached(select)?;
            let row = select.query_row(params![self.owner.as_str(), self.once.key], |row| {
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
        let conflict = |message: &str| Err(ApiError::new(Kind::Conflict, message));
        match found {
            None => Ok(Before::Nothing),
            Some((hash, ..)) if hash != self.once.hash => {
                conflict("this `Idempotency-Key` was used for another request; take a new one")
            }
            Some((_, Some(run), ..)) => Ok(Before::Run(run)),
            Some((_, None, Some(status), content_type, body)) => Ok(Before::Given(Given {
                status,
                content_type,
                body: body.unwrap_or_default(),
            })),
            Some(_) => {
                let message = "a request with this `Idempotency-Key` was begun, and nobody knows whether it was done; \
                               look, and take a new key";
                let error = ApiError::new(Kind::Conflict, message);
                Err(ApiError {
                    retry: "unknown",
                    ..error
                })
            }
        }
    }

    /// Writes that it is used now; for this run, where it is one.
    pub(crate) fn begin(&self, run: Option<&str>) -> Result<(), ApiError> {
        let now = Timestamp::now().as_millisecond();
        self.store.write(|c| {
            let insert = "INSERT OR REPLACE INTO claims (owner, key, hash, created_ms, run) VALUES (?, ?, ?, ?, ?)";
            let mut insert = c.prepare_cached(insert)?;
            insert.execute(params![self.owner.as_str(), self.once.key, self.once.hash, now, run])
        })?;
        Ok(())
    }

    /// Writes what it gave; none: nothing was done, and the key is free.
    pub(crate) fn end(&self, given: Option<Given>) -> Result<(), ApiError> {
        let (owner, key) = (self.owner.as_str(), &self.once.key);
        if given
            .as_ref()
            .is_some_and(|given| given.body.len() > BODY_BYTES)
        {
            // It stays as begun: nobody is told what it gave, and nothing is done again.
            return Ok(());
        }
        self.store.write(|c| match given {
            None => c.execute(
                "DELETE FROM claims WHERE owner = ? AND key = ?",
                params![owner, key],
            ),
            Some(given) => c.execute(
                "UPDATE claims SET status = ?, type = ?, body = ? WHERE owner = ? AND key = ?",
                params![given.status, given.content_type, given.body, owner, key],
            ),
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_gives_what_it_gave_and_is_for_one_request_of_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        let claims = Claims::default();
        let once = |hash: u8| Once::new("k", vec![hash]).unwrap();
        let claim = claims.claim(&store, &Owner::local(), once(1)).await;
        assert_eq!(claim.before().unwrap(), Before::Nothing);
        claim.begin(None).unwrap();
        let other = claims.claim(&store, &Owner::key("x"), once(2)).await;
        assert_eq!(other.before().unwrap(), Before::Nothing);
        drop(claim);
        // The one who had it is gone, and has not said what became of it.
        let claim = claims.claim(&store, &Owner::local(), once(1)).await;
        assert_eq!(claim.before().unwrap_err().kind, Kind::Conflict);
        let given = Given {
            status: 201,
            content_type: None,
            body: b"x".to_vec(),
        };
        claim.end(Some(given.clone())).unwrap();
        assert_eq!(claim.before().unwrap(), Before::Given(given));
        drop(claim);
        let claim = claims.claim(&store, &Owner::local(), once(2)).await;
        assert_eq!(claim.before().unwrap_err().kind, Kind::Conflict);
        claim.end(None).unwrap();
        assert_eq!(claim.before().unwrap(), Before::Nothing);
    }

    #[test]
    fn keys_at_their_limits() {
        let new = |key: &str| Once::new(key, Vec::new());
        assert!(new(&"x".repeat(128)).is_ok());
        for wrong in ["", "a b", "é", &"x".repeat(129)] {
            assert!(new(wrong).is_err(), "{wrong}");
        }
    }
}
