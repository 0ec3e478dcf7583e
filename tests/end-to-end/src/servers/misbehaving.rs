use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{FULL, OTHER, at};

/// A server that does no good. All but [`Full`](Self::Full) are at [`OTHER`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MisbehavingServer {
    /// Closes at once.
    Closes,
    /// Resets when it hears something.
    Resets,
    /// Says a head's letters one by one, without end.
    Slow,
    /// Says headers without end.
    Endless,
    /// Says less than it promised, and closes.
    Short,
    /// Says more than it promised.
    Long,
    /// Resets in the middle of an answer.
    Breaks,
    /// Says what is no HTTP.
    Gibberish,
    /// Speaks before it is spoken to.
    Greets,
    /// Does not answer, at [`FULL`].
    Full,
}

impl MisbehavingServer {
    /// All of them.
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

    /// Its port.
    #[must_use]
    pub const fn port(self) -> u16 {
        8001 + self as u16
    }

    /// Begins all of them.
    ///
    /// # Panics
    /// When a port is taken.
    pub async fn serve_all() {
        for misbehaving in Self::ALL {
            if misbehaving == Self::Full {
                misbehaving.fill().await;
                continue;
            }

            let listener = TcpListener::bind(at(OTHER, misbehaving.port()))
                .await
                .unwrap();

            tokio::spawn(async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(misbehaving.serve(client));
                }
            });
        }
    }

    /// Takes no connection, with as many as fit waiting to be taken.
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

        // Its client may go at any time.
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
                // Until its client has gone.
                client.read(&mut [0; 1]).await.map(|_| ())
            }
        }
    }
}
