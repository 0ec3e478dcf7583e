//! Who calls, and how often: API keys and the rate limit.
//!
//! What a caller may do belongs in `service::authorization`.

pub mod api_keys;
pub(crate) mod rate_limit;
