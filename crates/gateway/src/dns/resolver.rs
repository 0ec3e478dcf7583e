//! Resolves names on the host.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::sync::OnceCell;

use super::message::Family;
use crate::policy::HostName;

/// Deadline for all attempts at one name together.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Number of cached answers.
const CACHE_ENTRIES: u64 = 64;

/// Maximum number of addresses of one name that are returned to a guest.
const MAX_ADDRESSES: usize = 32;

/// Resolves names as this host does, by its hosts file and its name servers, or by other name servers.
#[derive(Default)]
pub(crate) struct Resolver {
    /// Name servers to use instead of the host's.
    servers: Vec<SocketAddr>,
    resolver: OnceCell<TokioResolver>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver")
            .field("servers", &self.servers)
            .finish_non_exhaustive()
    }
}

/// The result of resolving a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Resolution {
    /// The name's addresses of the requested kind, possibly none, and how long they are valid.
    Addresses(Vec<IpAddr>, Duration),
    /// The name does not exist.
    NoName,
    /// No name server answered, for this reason.
    Failed(String),
}

impl Resolver {
    /// Creates a resolver that uses `servers`, or the host's configuration if there are none.
    pub(crate) fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            resolver: OnceCell::new(),
        }
    }

    /// Resolves a name within [`RESOLVE_TIMEOUT`].
    pub(super) async fn resolve(&self, name: &HostName, family: Family) -> Resolution {
        let resolution = tokio::time::timeout(RESOLVE_TIMEOUT, self.query(name, family)).await;
        resolution
            .unwrap_or_else(|_| Resolution::Failed(format!("no answer within {RESOLVE_TIMEOUT:?}")))
    }

    async fn query(&self, name: &HostName, family: Family) -> Resolution {
        let built = self.resolver.get_or_try_init(|| async { self.build() });
        let resolver = match built.await {
            Ok(resolver) => resolver,
            Err(reason) => return Resolution::Failed(reason),
        };
        let record_type = match family {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        };

        // The final dot prevents the use of search lists.
        match resolver.lookup(format!("{name}."), record_type).await {
            Ok(lookup) => {
                let records = lookup.answers().iter();
                // Addresses of the other family were not requested and are not trusted.
                let addresses = records
                    .filter_map(|record| record.data.ip_addr())
                    .filter(|address| address.is_ipv4() == (family == Family::V4))
                    .take(MAX_ADDRESSES)
                    .collect();
                let ttl = lookup
                    .valid_until()
                    .saturating_duration_since(Instant::now());
                Resolution::Addresses(addresses, ttl)
            }
            Err(error) if error.is_nx_domain() => Resolution::NoName,
            Err(error) if error.is_no_records_found() => {
                Resolution::Addresses(Vec::new(), Duration::ZERO)
            }
            Err(error) => Resolution::Failed(error.to_string()),
        }
    }

    fn build(&self) -> Result<TokioResolver, String> {
        let mut builder = match self.servers.as_slice() {
            [] => TokioResolver::builder_tokio()
                .map_err(|e| format!("cannot use this host's /etc/resolv.conf: {e}"))?,
            servers => {
                let servers = servers.iter().map(|server| name_server(*server)).collect();
                let config = ResolverConfig::from_parts(None, Vec::new(), servers);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };

        let options = builder.options_mut();
        // The cache is bounded by the number of answers and not by their size. The number is small, because the guest
        // chooses which servers answer.
        options.cache_size = CACHE_ENTRIES;
        if !self.servers.is_empty() {
            options.use_hosts_file = ResolveHosts::Never;
        }

        let built = builder.build();
        built.map_err(|e| format!("cannot start the name resolver: {e}"))
    }
}

fn name_server(at: SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = at.port();
    }
    NameServerConfig::new(at.ip(), true, connections)
}
