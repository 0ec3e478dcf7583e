use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{FULL, OTHER, at};

/// A server that violates HTTP or does not respond properly. All but [`Full`](Self::Full) are at [`OTHER`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MisbehavingServer {
    /// Closes each connection at once.
    Closes,
    /// Resets the connection once it receives something.
    Resets,
    /// Sends a head byte by byte, without end.
    Slow,
    /// Sends headers without end.
    Endless,
    /// Sends less than its `Content-Length`, and closes.
    Short,
    /// Sends more than its `Content-Length`.
    Long,
    /// Resets the connection in the middle of a response.
    Breaks,
    /// Responds with something other than HTTP.
    Gibberish,
    /// Sends before it receives anything.
    Greets,
    /// Accepts no connections, at [`FULL`].
    Full,
}

impl MisbehavingServer {
    /// All of these servers.
    pub const ALL: [Self; 10] = [
        Self::Closes,
        Self::Resets,
        Self::Slow,
        Self::Endless,
        Self::Short,
        Self::Long,
        Self::Breaks,
        Self::Gibberish,
        Self::Greets,
        Self::Full,
    ];

    /// Returns its port.
    #[must_use]
    pub const fn port(self) -> u16 {
        8001 + self as u16
    }

    /// Starts all of them.
    ///
    /// # Panics
    /// Panics if a port is in use.
    pub async fn serve_all() {
        for server in Self::ALL {
            if server == Self::Full {
                server.fill().await;
                continue;
            }

            let listener = TcpListener::bind(at(OTHER, server.port())).await.unwrap();

            tokio::spawn(async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(server.serve(client));
                }
            });
        }
    }

    /// Listens with a full queue, of which it accepts no connection.
    async fn fill(self) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(at(FULL, self.port())).unwrap();
        let listener = socket.listen(1).unwrap();
        let mut waiting = Vec::new();

        while let Ok(Ok(client)) = tokio::time::timeout(
            Duration::from_millis(300),
            TcpStream::connect(at(FULL, self.port())),
        )
        .await
        {
            waiting.push(client);
        }

        tokio::spawn(async move {
            let _kept = (listener, waiting);
            std::future::pending::<()>().await;
        });
    }

    async fn serve(self, mut client: TcpStream) {
        if self == Self::Closes {
            return;
        }

        if self != Self::Greets {
            let _ = client.read(&mut [0; 4096]).await;
        }

        // Its client may disconnect at any time.
        let _ = self.answer(&mut client).await;
    }

    async fn answer(self, client: &mut TcpStream) -> std::io::Result<()> {
        const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\n";
        match self {
            Self::Resets => Ok(set_socket_linger(&*client, Some(Duration::ZERO))?),
            Self::Slow => loop {
                client.write_all(b"H").await?;
                tokio::time::sleep(Duration::from_millis(200)).await;
            },
            Self::Endless => {
                client.write_all(HEAD).await?;
                loop {
                    client.write_all(b"x-more: and more and more\r\n").await?;
                }
            }
            Self::Short => {
                client.write_all(HEAD).await?;
                client.write_all(b"content-length: 100\r\n\r\nfew").await
            }
            Self::Long => {
                client.write_all(HEAD).await?;
                let body =
                    b"content-length: 3\r\n\r\nfewHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nmore";
                client.write_all(body).await
            }
            Self::Breaks => {
                client.write_all(HEAD).await?;
                client.write_all(b"content-length: 100\r\n\r\nfew").await?;
                set_socket_linger(&*client, Some(Duration::ZERO))?;
                Ok(())
            }
            _ => {
                client.write_all(b"220 this is something else\r\n").await?;
                // Until its client disconnects.
                client.read(&mut [0; 1]).await.map(|_| ())
            }
        }
    }
}
