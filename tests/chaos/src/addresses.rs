//! Addresses of the run's own network, which leads nowhere else.

/// The address of the neighbour's servers.
pub(crate) const ADDRESS: &str = "10.66.0.1";

/// The index of packages that commands use.
pub(crate) const INDEX: &str = "http://10.66.0.1:8000/";

/// Where the index listens.
pub(crate) const INDEX_AT: &str = "10.66.0.1:8000";

/// Where a web server listens.
pub(crate) const WEB_AT: &str = "10.66.0.1:8080";
