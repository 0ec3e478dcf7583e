use serde::{Deserialize, Serialize};

/// Identifies one operation on one connection. The client chooses it, and every response repeats it.
///
/// 0 to 2^53 − 1, so that a JavaScript client can represent it. A client may reuse an id after its
/// operation has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "u64", into = "u64")]
pub struct OpId(
    #[cfg_attr(feature = "schema", schemars(range(max = 9_007_199_254_740_991_u64)))] u64,
);

impl OpId {
    /// The largest id: 2^53 − 1, the largest integer that JSON carries safely everywhere.
    pub const MAX: u64 = (1 << 53) - 1;

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for OpId {
    type Error = String;

    fn try_from(id: u64) -> Result<Self, String> {
        if id <= Self::MAX {
            Ok(Self(id))
        } else {
            Err(format!(
                "op_id {id} is larger than {}, the largest integer JSON carries safely",
                Self::MAX
            ))
        }
    }
}

impl From<OpId> for u64 {
    fn from(id: OpId) -> Self {
        id.0
    }
}

impl std::fmt::Display for OpId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_and_one_past_it() {
        assert!(OpId::try_from(OpId::MAX).is_ok());
        assert!(OpId::try_from(OpId::MAX + 1).is_err());
    }
}
