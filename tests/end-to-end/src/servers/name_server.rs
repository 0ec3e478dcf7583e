use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::{NAMES, at};

/// A name server with answers that the test defines, which records its queries. It listens at [`NAMES`], port 53.
#[derive(Debug, Clone, Default)]
pub struct NameServer(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// The answers to a query, one after the other; the last one is repeated.
    known: HashMap<(String, RecordType), VecDeque<DnsAnswer>>,
    queries: Vec<String>,
    by_tcp: usize,
}

/// An answer to a query.
#[derive(Debug, Clone)]
pub enum DnsAnswer {
    /// These addresses, with a time to live in seconds.
    Addresses(Vec<IpAddr>, u32),
    /// An alias of this name.
    Alias(String),
    /// No answer at all.
    Silence,
    /// `SERVFAIL`.
    Failure,
}

impl NameServer {
    /// Starts a name server that knows no names yet.
    ///
    /// # Panics
    /// Panics if its port is in use.
    pub async fn serve() -> Self {
        let names = Self::default();
        let socket = UdpSocket::bind(Self::address()).await.unwrap();
        let listener = TcpListener::bind(Self::address()).await.unwrap();
        tokio::spawn(names.clone().by_udp(socket));
        tokio::spawn(names.clone().by_tcp(listener));
        names
    }

    /// Returns its address.
    #[must_use]
    pub fn address() -> SocketAddr {
        at(NAMES, 53)
    }

    /// Defines the addresses of a name, of both families, separated by spaces. They are valid for a minute.
    #[must_use]
    pub fn know(self, name: &str, addresses: &str) -> Self {
        let all = || addresses.split(' ').map(|a| a.parse().unwrap());
        let of = |v4| all().filter(|a: &IpAddr| a.is_ipv4() == v4).collect();
        self.say(name, RecordType::A, DnsAnswer::Addresses(of(true), 60))
            .say(name, RecordType::AAAA, DnsAnswer::Addresses(of(false), 60))
    }

    /// Adds an answer for a name, after those that were defined before.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn say(self, name: &str, kind: RecordType, spoken: DnsAnswer) -> Self {
        let mut inner = self.0.lock().unwrap();
        let answers = inner.known.entry((name.into(), kind)).or_default();
        answers.push_back(spoken);
        drop(inner);
        self
    }

    /// Returns the names of all queries, in lower case.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn queries(&self) -> Vec<String> {
        self.0.lock().unwrap().queries.clone()
    }

    /// Returns the number of queries by TCP.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn tcp_queries(&self) -> usize {
        self.0.lock().unwrap().by_tcp
    }

    async fn by_udp(self, socket: UdpSocket) {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let Some((message, max)) = self.answer(&buffer[..length]) else {
                continue;
            };

            let mut bytes = message.to_vec().unwrap();
            if bytes.len() > max {
                bytes = message.truncate().to_vec().unwrap();
            }

            let _ = socket.send_to(&bytes, from).await;
        }
    }

    async fn by_tcp(self, listener: TcpListener) {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(self.clone().converse(client));
        }
    }

    async fn converse(self, mut client: TcpStream) {
        while let Ok(length) = client.read_u16().await {
            let mut question = vec![0; usize::from(length)];
            if client.read_exact(&mut question).await.is_err() {
                return;
            }

            self.0.lock().unwrap().by_tcp += 1;
            let Some((message, _)) = self.answer(&question) else {
                return;
            };

            let bytes = message.to_vec().unwrap();
            let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            if client
                .write_all(&[&length[..], &bytes].concat())
                .await
                .is_err()
            {
                return;
            }
        }
    }

    /// Returns the answer to a query, and its maximum length by UDP, in bytes.
    fn answer(&self, question: &[u8]) -> Option<(Message, usize)> {
        let question = Message::from_vec(question).ok()?;
        let query = question.queries.first()?.clone();
        let head = &question.metadata;
        let mut answer = Message::response(head.id, head.op_code);
        answer.metadata.recursion_available = true;
        answer.add_query(query.clone());
        let (mut owner, kind) = (query.name().clone(), query.query_type());
        let mut inner = self.0.lock().unwrap();
        inner.queries.push(plain(&owner));

        loop {
            match inner.next(&owner, kind) {
                Some(DnsAnswer::Addresses(addresses, seconds)) => {
                    for address in addresses {
                        let record = Record::from_rdata(owner.clone(), seconds, address.into());
                        answer.add_answer(record);
                    }
                    break;
                }
                Some(DnsAnswer::Alias(other)) => {
                    let other = Name::from_ascii(format!("{other}.")).unwrap();
                    let data = RData::CNAME(CNAME(other.clone()));
                    answer.add_answer(Record::from_rdata(owner, 60, data));
                    owner = other;
                }
                Some(DnsAnswer::Silence) => return None,
                Some(DnsAnswer::Failure) => {
                    answer.metadata.response_code = ResponseCode::ServFail;
                    break;
                }
                None => {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                    break;
                }
            }
        }

        const LEAST_BYTES: u16 = 512;
        let max = question
            .edns
            .as_ref()
            .map_or(LEAST_BYTES, |e| e.max_payload());

        Some((answer, usize::from(max)))
    }
}

impl Inner {
    fn next(&mut self, name: &Name, kind: RecordType) -> Option<DnsAnswer> {
        let answers = self.known.get_mut(&(plain(name), kind))?;
        match answers.len() {
            0 | 1 => answers.front().cloned(),
            _ => answers.pop_front(),
        }
    }
}

fn plain(name: &Name) -> String {
    let text = name.to_ascii().to_ascii_lowercase();
    text.trim_end_matches('.').to_owned()
}
