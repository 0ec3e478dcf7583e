use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, UPGRADE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, copy};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::sha256_hex;

/// A web server: `/` returns the request's host, `/bytes/N` N bytes, `/digest` the SHA-256 and length of the request's
/// body, `/head` the request's head; `/ws` echoes by WebSocket. It records the heads of all requests.
#[derive(Debug, Clone, Default)]
pub struct WebServer(Arc<Mutex<Vec<String>>>);

impl WebServer {
    /// Serves plain HTTP at one more address.
    ///
    /// # Panics
    /// Panics if it is in use.
    pub async fn serve(&self, at: SocketAddr) {
        let (listener, web) = (TcpListener::bind(at).await.unwrap(), self.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(web.clone().converse(client));
            }
        });
    }

    /// Serves HTTP in TLS at one more address.
    ///
    /// # Panics
    /// Panics if it is in use.
    pub async fn serve_tls(&self, at: SocketAddr, acceptor: TlsAcceptor) {
        let (listener, web) = (TcpListener::bind(at).await.unwrap(), self.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (acceptor, web) = (acceptor.clone(), web.clone());
                tokio::spawn(async move {
                    if let Ok(client) = acceptor.accept(client).await {
                        web.converse(client).await;
                    }
                });
            }
        });
    }

    /// Returns the heads of all requests so far: a line for the request, and one for each header.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn seen(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    async fn converse(self, client: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = service_fn(move |request| {
            let web = self.clone();
            async move { Ok::<_, Infallible>(web.answer(request).await) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(client), service);
        let _ = connection.with_upgrades().await;
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let head = head(&request);
        self.0.lock().unwrap().push(head.clone());
        let host = request.headers().get(HOST);
        let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
        let path = request.uri().path();

        if let Some(length) = path.strip_prefix("/bytes/") {
            return page(pattern(length.parse().unwrap()));
        }

        match path {
            "/" => page(format!("this is {host}\n")),
            "/head" => page(head),
            "/digest" => {
                let Ok(body) = request.into_body().collect().await else {
                    return status(StatusCode::BAD_REQUEST);
                };
                let body = body.to_bytes();
                page(format!("{} {}", sha256_hex(&body), body.len()))
            }
            "/ws" => websocket(request),
            _ => status(StatusCode::NOT_FOUND),
        }
    }
}

fn head(request: &Request<Incoming>) -> String {
    let mut text = format!("{} {}\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        text += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    text
}

/// Returns bytes of which no two ranges of a memory page's length are equal.
#[must_use]
fn pattern(length: usize) -> Vec<u8> {
    let words = (0..length.div_ceil(4)).map(|n| u32::try_from(n).unwrap().to_be_bytes());
    let mut bytes: Vec<u8> = words.flatten().collect();
    bytes.truncate(length);
    bytes
}

impl WebServer {
    /// Returns the SHA-256 of the response to `/bytes/N`.
    #[must_use]
    pub fn digest_of(length: usize) -> String {
        sha256_hex(&pattern(length))
    }
}

fn page(text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    Response::new(Full::new(text.into()))
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = page(Bytes::new());
    *response.status_mut() = status;
    response
}

fn websocket(mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let Some(key) = request.headers().get("sec-websocket-key") else {
        return status(StatusCode::BAD_REQUEST);
    };

    let accept = derive_accept_key(key.as_bytes());
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(stream) = upgraded.await else {
            return;
        };

        let stream = TokioIo::new(stream);
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            let is_data = message.is_text() || message.is_binary();
            if is_data && socket.send(message).await.is_err() {
                return;
            }
        }
    });

    let mut response = status(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(CONNECTION, "upgrade".parse().unwrap());
    headers.insert(UPGRADE, "websocket".parse().unwrap());
    headers.insert("sec-websocket-accept", accept.parse().unwrap());

    response
}

/// Echoes by TCP at this address.
///
/// # Panics
/// Panics if it is in use.
pub async fn echo(at: SocketAddr) {
    let listener = TcpListener::bind(at).await.unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = client.into_split();
                let _ = copy(&mut read, &mut write).await;
            });
        }
    });
}
