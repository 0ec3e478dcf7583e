/// The number of one client. It stays valid as long as the client is connected and is never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientId(pub(crate) u64);
