//! Who calls, and how often: API keys and the rate limit.
//!
//! The permissions of a caller belong in `service::authorization`.

pub mod api_keys;
pub(crate) mod rate_limit;
