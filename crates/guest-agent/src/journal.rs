use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use fumehood_protocol::{
    Complete, ErrorType, IdempotencyKey, Limits, Request, Stream, WireError, encode_line,
};

/// What makes an operation one that is never begun twice.
#[derive(Debug, Clone)]
pub(crate) struct Keyed {
    pub(crate) key: IdempotencyKey,
    print: u64,
}

impl Keyed {
    /// The key, with the print of the request that came with it first.
    pub(crate) fn new(key: IdempotencyKey, request: &Request) -> Self {
        let mut hasher = DefaultHasher::new();
        encode_line(request).hash(&mut hasher);
        let print = hasher.finish();
        Self { key, print }
    }

    /// Refuses another request with the same key.
    ///
    /// # Errors
    /// `request_error`.
    pub(crate) fn same(&self, other: &Self) -> Result<(), WireError> {
        if self.print == other.print {
            return Ok(());
        }
        let key = self.key.as_str();
        let message = format!(
            "field `idempotency_key`: `{key}` was used for another request; a key names one operation for ever"
        );
        Err(WireError::new(ErrorType::RequestError, message))
    }
}

/// Pieces of one operation that are kept: tiny ones must not cost a hundred times their size.
const PIECES: usize = 4096;

/// The latest output of an operation, piece by piece.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    list: VecDeque<(Stream, Vec<u8>)>,
    /// The number of the first that is kept.
    first: u64,
    bytes: u64,
    most: u64,
}

impl Pieces {
    /// Keeps `most` bytes at most.
    pub(crate) fn new(most: u64) -> Self {
        Self {
            most,
            ..Self::default()
        }
    }

    /// Adds a piece; the oldest make room for it.
    pub(crate) fn add(&mut self, stream: Stream, bytes: &[u8]) {
        self.list.push_back((stream, bytes.to_vec()));
        self.bytes += bytes.len() as u64;
        while self.bytes > self.most || self.list.len() > PIECES {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some((_, bytes)) = self.list.pop_front() {
            self.bytes -= bytes.len() as u64;
            self.first += 1;
        }
    }

    /// The piece of this number, if it is kept.
    pub(crate) fn get(&self, seq: u64) -> Option<&(Stream, Vec<u8>)> {
        let at = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.list.get(at)
    }

    /// The number of the first that is kept.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// The number after the last.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.list.len() as u64
    }
}

/// An operation with a key that has ended.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) keyed: Keyed,
    pub(crate) pieces: Pieces,
    /// Without `op_id`.
    pub(crate) complete: Complete,
}

/// Every operation with a key that has ended. None is forgotten: what is not known is begun.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    records: HashMap<IdempotencyKey, Rc<Record>>,
    /// Those whose output is kept, the oldest first.
    with_output: VecDeque<IdempotencyKey>,
    bytes: u64,
}

impl Journal {
    pub(crate) fn get(&self, key: &IdempotencyKey) -> Option<Rc<Record>> {
        self.records.get(key).cloned()
    }

    /// Refuses a new key where there is no room to remember it. `running` others will want some.
    ///
    /// # Errors
    /// `busy_error`.
    pub(crate) fn admit(&self, running: usize, limits: &Limits) -> Result<(), WireError> {
        let (known, running) = (self.records.len() as u64, running as u64);
        let refuse = |message: String| Err(WireError::new(ErrorType::BusyError, message));
        if running >= limits.detached {
            let most = limits.detached;
            return refuse(format!(
                "{running} operations with a key are running; at most {most} may; try again when one has ended"
            ));
        }
        if known + running >= limits.journal_keys {
            let most = limits.journal_keys;
            return refuse(format!(
                "{known} idempotency keys are known here, of at most {most}, and none may be forgotten: \
                 use a new guest, or no key"
            ));
        }
        Ok(())
    }

    /// Remembers how an operation has ended.
    pub(crate) fn add(&mut self, record: Record, limits: &Limits) {
        let key = record.keyed.key.clone();
        self.bytes += record.pieces.bytes;
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
        self.bytes -= record.pieces.bytes;
        *record = Rc::new(Record {
            keyed: record.keyed.clone(),
            pieces: Pieces {
                first: record.pieces.end(),
                ..Pieces::default()
            },
            complete: record.complete.clone(),
        });
    }

    /// Forgets all: this is another guest now.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_pieces_are_kept() {
        let mut pieces = Pieces::new(10);
        for n in 0..5_u8 {
            pieces.add(Stream::Stdout, &[n; 4]);
        }
        assert_eq!((pieces.first(), pieces.end(), pieces.bytes), (3, 5, 8));
        assert_eq!(pieces.get(2), None);
        assert_eq!(pieces.get(4).unwrap().1, [4; 4]);
        assert_eq!(pieces.get(5), None);
        pieces.add(Stream::Stdout, &[9; 11]);
        assert_eq!((pieces.first(), pieces.end(), pieces.bytes), (6, 6, 0));
    }
}
