use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::sync::OnceCell;

use super::message::Family;
use crate::policy::HostName;

/// How long all attempts together may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Answers that are kept for as long as they hold.
const CACHED: u64 = 64;

/// Addresses of one name that a guest is told at most.
const ADDRESSES: usize = 32;

/// Looks up names as this host does: by its hosts file and its name servers.
#[derive(Default)]
pub(crate) struct Resolver {
    /// Others than the host's own.
    servers: Vec<SocketAddr>,
    inner: OnceCell<TokioResolver>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver")
            .field("servers", &self.servers)
            .finish_non_exhaustive()
    }
}

/// What is known about a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Its addresses of this kind, maybe none, and how long that holds.
    Addresses(Vec<IpAddr>, Duration),
    /// There is no such name.
    NoName,
    /// Nobody could be asked; why.
    Failed(String),
}

impl Resolver {
    /// One that asks these servers; none: the host's own.
    pub(crate) fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            inner: OnceCell::new(),
        }
    }

    pub(super) async fn find(&self, name: &HostName, family: Family) -> Found {
        let looked = tokio::time::timeout(DEADLINE, self.look(name, family)).await;
        looked.unwrap_or_else(|_| Found::Failed(format!("no answer within {DEADLINE:?}")))
    }

    async fn look(&self, name: &HostName, family: Family) -> Found {
        let inner = match self.inner.get_or_try_init(|| async { self.open() }).await {
            Ok(inner) => inner,
            Err(why) => return Found::Failed(why),
        };
        let kind = match family {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        };
        // With a dot at its end no search list is tried.
        match inner.lookup(format!("{name}."), kind).await {
            Ok(lookup) => {
                let records = lookup.answers().iter();
                let addresses = records.filter_map(|record| record.data.ip_addr());
                // What was not asked for is not believed.
                let addresses = addresses.filter(|a| a.is_ipv4() == (family == Family::V4));
                let addresses = addresses.take(ADDRESSES).collect();
                let left = lookup
                    .valid_until()
                    .saturating_duration_since(Instant::now());
                Found::Addresses(addresses, left)
            }
            Err(error) if error.is_nx_domain() => Found::NoName,
            Err(error) if error.is_no_records_found() => {
                Found::Addresses(Vec::new(), Duration::ZERO)
            }
            Err(error) => Found::Failed(error.to_string()),
        }
    }

    fn open(&self) -> Result<TokioResolver, String> {
        let mut builder = match self.servers.as_slice() {
            [] => TokioResolver::builder_tokio()
                .map_err(|e| format!("this host's /etc/resolv.conf cannot be used: {e}"))?,
            servers => {
                let servers = servers.iter().map(|server| name_server(*server)).collect();
                let config = ResolverConfig::from_parts(None, Vec::new(), servers);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let options = builder.options_mut();
        // Answers are kept by their number and not by their size: few, since a guest chooses who gives them.
        options.cache_size = CACHED;
        if !self.servers.is_empty() {
            options.use_hosts_file = ResolveHosts::Never;
        }
        let built = builder.build();
        built.map_err(|e| format!("names cannot be looked up: {e}"))
    }
}

fn name_server(at: SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = at.port();
    }
    NameServerConfig::new(at.ip(), true, connections)
}
