use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use fumehood_protocol::{
    Complete, ErrorType, IdempotencyKey, Limits, Request, Stream, WireError, encode_line,
};

/// An idempotency key with a fingerprint of its request: an operation with a key never starts twice.
#[derive(Debug, Clone)]
pub(crate) struct KeyedRequest {
    pub(crate) key: IdempotencyKey,
    fingerprint: u64,
}

impl KeyedRequest {
    /// Computes the fingerprint of the request that came with the key.
    pub(crate) fn new(key: IdempotencyKey, request: &Request) -> Self {
        let mut hasher = DefaultHasher::new();
        encode_line(request).hash(&mut hasher);
        let fingerprint = hasher.finish();
        Self { key, fingerprint }
    }

    /// Rejects a different request with the same key.
    ///
    /// # Errors
    /// `request_error`.
    pub(crate) fn check_same(&self, other: &Self) -> Result<(), WireError> {
        if self.fingerprint == other.fingerprint {
            return Ok(());
        }

        let key = self.key.as_str();
        let message = format!(
            "field `idempotency_key`: `{key}` was used for another request; a key always names the same operation"
        );

        Err(WireError::new(ErrorType::RequestError, message))
    }
}

/// Maximum number of pieces in a history: tiny pieces must not cost a hundred times their size.
const MAX_PIECES: usize = 4096;

/// The latest output of an operation, in pieces.
#[derive(Debug, Default)]
pub(crate) struct OutputHistory {
    pieces: VecDeque<(Stream, Vec<u8>)>,
    /// The number of the first piece that is still there.
    first: u64,
    bytes: u64,
    max_bytes: u64,
}

impl OutputHistory {
    /// Creates a history of at most `max_bytes` bytes.
    pub(crate) fn new(max_bytes: u64) -> Self {
        Self {
            max_bytes,
            ..Self::default()
        }
    }

    /// Adds a piece and drops the oldest ones if necessary.
    pub(crate) fn add(&mut self, stream: Stream, bytes: &[u8]) {
        self.pieces.push_back((stream, bytes.to_vec()));
        self.bytes += bytes.len() as u64;
        while self.bytes > self.max_bytes || self.pieces.len() > MAX_PIECES {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some((_, bytes)) = self.pieces.pop_front() {
            self.bytes -= bytes.len() as u64;
            self.first += 1;
        }
    }

    /// Returns the piece with this number, if it is still there.
    pub(crate) fn get(&self, seq: u64) -> Option<&(Stream, Vec<u8>)> {
        let at = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.pieces.get(at)
    }

    /// The number of the first piece that is still there.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// The number after the last piece.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.pieces.len() as u64
    }
}

/// An operation with a key that has ended.
#[derive(Debug)]
pub(crate) struct CompletedOperation {
    pub(crate) keyed: KeyedRequest,
    pub(crate) history: OutputHistory,
    /// Its `op_id` is `None`; a replay fills in that of the attached client.
    pub(crate) complete: Complete,
}

/// Every operation with a key that has ended. None is forgotten, because an unknown key starts an operation.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    records: HashMap<IdempotencyKey, Rc<CompletedOperation>>,
    /// The operations whose output is still there, the oldest first.
    with_output: VecDeque<IdempotencyKey>,
    bytes: u64,
}

impl Journal {
    pub(crate) fn get(&self, key: &IdempotencyKey) -> Option<Rc<CompletedOperation>> {
        self.records.get(key).cloned()
    }

    /// Rejects a new key if it cannot be recorded later. `running` operations with a key have not ended yet.
    ///
    /// # Errors
    /// `busy_error`.
    pub(crate) fn check_capacity(&self, running: usize, limits: &Limits) -> Result<(), WireError> {
        let (known, running) = (self.records.len() as u64, running as u64);
        let reject = |message: String| Err(WireError::new(ErrorType::BusyError, message));

        if running >= limits.detached {
            let max = limits.detached;
            return reject(format!(
                "{running} operations with a key are running, of at most {max}; try again when one has ended"
            ));
        }

        if known + running >= limits.journal_keys {
            let max = limits.journal_keys;
            return reject(format!(
                "this guest has recorded {known} idempotency keys, of at most {max}, and cannot forget any; \
                 use a new guest, or no key"
            ));
        }

        Ok(())
    }

    /// Records the end of an operation. The oldest records lose their output if there is too much.
    pub(crate) fn add(&mut self, record: CompletedOperation, limits: &Limits) {
        let key = record.keyed.key.clone();
        self.bytes += record.history.bytes;
        self.with_output.push_back(key.clone());
        self.records.insert(key, Rc::new(record));

        while self.bytes > limits.journal_bytes {
            let Some(oldest) = self.with_output.pop_front() else {
                break;
            };
            self.drop_output(&oldest);
        }
    }

    fn drop_output(&mut self, key: &IdempotencyKey) {
        let Some(record) = self.records.get_mut(key) else {
            return;
        };
        self.bytes -= record.history.bytes;
        *record = Rc::new(CompletedOperation {
            keyed: record.keyed.clone(),
            history: OutputHistory {
                first: record.history.end(),
                ..OutputHistory::default()
            },
            complete: record.complete.clone(),
        });
    }

    /// Forgets everything, because this is another guest now.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_keeps_the_latest_pieces() {
        let mut history = OutputHistory::new(10);
        for n in 0..5_u8 {
            history.add(Stream::Stdout, &[n; 4]);
        }

        assert_eq!((history.first(), history.end(), history.bytes), (3, 5, 8));
        assert_eq!(history.get(2), None);
        assert_eq!(history.get(4).unwrap().1, [4; 4]);
        assert_eq!(history.get(5), None);
        history.add(Stream::Stdout, &[9; 11]);
        assert_eq!((history.first(), history.end(), history.bytes), (6, 6, 0));
    }
}
