//! Who may call, and how often: API keys and the rate limit.
//!
//! What a caller may ask for is decided in `service::authorization`.

pub mod api_keys;
pub(crate) mod rate_limit;
