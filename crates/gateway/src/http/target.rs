//! The target of a request: one host, in any notation.

use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use hyper::header::HOST;
use hyper::http::uri::Authority;
use hyper::{Method, Request, Uri};

use super::proxy::{RequestHead, Scheme};
use crate::refusal::Refusal;
use crate::tls::dns_name;

/// The target of a request, on which the `Host` header and the request line agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// A DNS name in lowercase, or an address without brackets.
    pub(super) host: String,
    pub(super) port: Option<u16>,
    /// The path and query, or `*`.
    pub(super) path: String,
}

type HostAndPort = (String, Option<u16>);

impl Target {
    /// Reads the target of a request that came by `scheme`.
    ///
    /// # Errors
    /// Returns a refusal if the request names no host, several hosts, or one in an ambiguous way.
    pub(super) fn of<B>(request: &Request<B>, scheme: &Scheme) -> Result<Self, Refusal> {
        if request.method() == Method::CONNECT {
            return Err(Refusal::new(
                "connect_method",
                "CONNECT is denied, because requests inside a tunnel cannot be checked. No proxy is needed here: \
                 connect to the host directly, and unset http_proxy and https_proxy.",
            ));
        }

        // The Host header counts; an absolute URL in the request line must agree with it.
        let (host, port) = host_header(request)?;
        let uri = request.uri();
        if let Some(authority) = uri.authority() {
            let ((line_host, line_port), default_port) = request_line(uri, scheme, authority)?;
            let same_port = line_port.unwrap_or(default_port) == port.unwrap_or(default_port);
            if line_host != host || !same_port {
                return Err(Refusal::new(
                    "host_disagrees",
                    format!(
                        "The request line names {authority}, but the Host header names {host}. They must be equal."
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

    /// Returns the part of the request that is decided on.
    pub(super) fn request_head<'a>(&'a self, method: &'a str, upgrades: bool) -> RequestHead<'a> {
        RequestHead {
            host: &self.host,
            port: self.port,
            method,
            upgrades,
            path: &self.path,
        }
    }

    /// Returns the value of the `Host` header.
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

/// Reads the one `Host` header of a request.
fn host_header<B>(request: &Request<B>) -> Result<HostAndPort, Refusal> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(Refusal::new(
            "host_count",
            "A request must have exactly one Host header; this one has none or several.",
        ));
    };

    let text = host.to_str().unwrap_or_default();
    text.parse().ok().as_ref().and_then(split).ok_or_else(|| {
        Refusal::new(
            "host_invalid",
            "The Host header must contain a DNS name or an address, with or without a port.",
        )
    })
}

/// Reads the host in the request line; also returns the default port of its scheme.
fn request_line(
    uri: &Uri,
    scheme: &Scheme,
    authority: &Authority,
) -> Result<(HostAndPort, u16), Refusal> {
    let (expected, default_port) = match scheme {
        Scheme::Plain => ("http", 80),
        Scheme::Tls(_) => ("https", 443),
    };
    match split(authority) {
        Some(host_and_port) if uri.scheme_str() == Some(expected) => {
            Ok((host_and_port, default_port))
        }
        _ => Err(Refusal::new(
            "target_invalid",
            format!(
                "The request line must contain a path, or an {expected} URL with a DNS name or an address."
            ),
        )),
    }
}

/// Splits an authority into host and port; `None` for anything that two readers could understand differently.
fn split(authority: &Authority) -> Option<HostAndPort> {
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
