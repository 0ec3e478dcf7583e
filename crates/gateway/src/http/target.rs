//! Where a request wants to go: one host, however it is written.

use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use hyper::header::HOST;
use hyper::http::uri::Authority;
use hyper::{Method, Request, Uri};

use super::proxy::{Scheme, Seen};
use crate::refusal::Refusal;
use crate::tls::dns_name;

/// A request's target, of which `Host` and request line agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// A DNS name in small letters, or an address without brackets.
    pub(super) host: String,
    pub(super) port: Option<u16>,
    /// Path and query, or `*`.
    pub(super) path: String,
}

impl Target {
    /// The target of a request that came by `scheme`.
    pub(super) fn of<B>(request: &Request<B>, scheme: &Scheme) -> Result<Self, Refusal> {
        if request.method() == Method::CONNECT {
            return Err(Refusal::new(
                "connect_method",
                "CONNECT is denied: a tunnel cannot be judged. No proxy is needed here; connect to the host itself, \
                 and unset http_proxy and https_proxy.",
            ));
        }
        let (host, port) = named(request)?;
        let uri = request.uri();
        if let Some(authority) = uri.authority() {
            let (same, default) = agreed(uri, scheme, authority)?;
            if same.0 != host || same.1.unwrap_or(default) != port.unwrap_or(default) {
                return Err(Refusal::new(
                    "host_disagrees",
                    format!(
                        "The request line names {authority}, but its Host header {host}. They must be the same."
                    ),
                ));
            }
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            host,
            port,
            path: path.to_owned(),
        })
    }

    /// What of it is judged.
    pub(super) fn seen<'a>(&'a self, method: &'a str) -> Seen<'a> {
        Seen {
            host: &self.host,
            port: self.port,
            method,
            path: &self.path,
        }
    }

    /// The value of `Host`.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match self.port {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }
}

/// The one `Host` of a request.
fn named<B>(request: &Request<B>) -> Result<(String, Option<u16>), Refusal> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(Refusal::new(
            "host_count",
            "A request must have exactly one Host header; this one has none, or several.",
        ));
    };
    let text = host.to_str().unwrap_or_default();
    text.parse().ok().as_ref().and_then(split).ok_or_else(|| {
        Refusal::new(
            "host_invalid",
            "The Host header is neither a DNS name nor an address, each with or without a port.",
        )
    })
}

type Named = (String, Option<u16>);

/// What the request line names, and its scheme's port.
fn agreed(uri: &Uri, scheme: &Scheme, authority: &Authority) -> Result<(Named, u16), Refusal> {
    let (expected, default) = match scheme {
        Scheme::Plain => ("http", 80),
        Scheme::Sealed(_) => ("https", 443),
    };
    match split(authority) {
        Some(named) if uri.scheme_str() == Some(expected) => Ok((named, default)),
        _ => Err(Refusal::new(
            "target_invalid",
            format!(
                "The request line must hold a path, or an {expected} URL with a DNS name or an address."
            ),
        )),
    }
}

/// Host and port. None for anything that two readers could understand differently.
fn split(authority: &Authority) -> Option<Named> {
    let host = authority.host();
    let port = authority.port_u16();
    let rest = authority.as_str().strip_prefix(host)?;
    let expected = port.map(|port| format!(":{port}")).unwrap_or_default();
    if rest != expected || port == Some(0) {
        return None;
    }
    let host = match host.strip_prefix('[') {
        Some(address) => {
            let address: Ipv6Addr = address.strip_suffix(']')?.parse().ok()?;
            address.to_string()
        }
        None if host.parse::<Ipv4Addr>().is_ok() => host.to_owned(),
        None => dns_name(host.as_bytes())?,
    };
    Some((host, port))
}
