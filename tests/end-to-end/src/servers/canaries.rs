use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::{NAMES, OTHER, WEB4, WEB6};
use crate::within_deadline;

/// Addresses at which nothing may arrive at all.
const NOWHERE: [&str; 19] = [
    "127.0.0.1",
    "::1",
    "127.0.0.2",
    "198.51.100.7",
    "198.51.100.8",
    "2001:db8:bad::7",
    "10.66.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "192.88.99.1",
    "198.18.0.1",
    "fd66:756d:6568::1",
    "fd00:ec2::254",
    "64:ff9b::c633:6407",
    "2002:c633:6407::1",
    "fec0::1",
    "::ffff:127.0.0.3",
];

/// The ports that are watched at these addresses.
const PORTS: [u16; 11] = [9, 22, 53, 80, 443, 853, 3128, 4433, 8080, 8443, 65_000];

/// The ports that are watched at servers which may be reached at other ports.
const BESIDE: [u16; 5] = [9, 22, 3128, 8080, 65_000];

/// Listeners at which nothing may arrive, by TCP or by UDP. They record each connection and each datagram.
#[derive(Debug, Clone, Default)]
pub struct Canaries(Arc<Mutex<Vec<String>>>);

impl Canaries {
    /// Listens at all of the addresses and ports.
    ///
    /// # Panics
    /// Panics if one is in use.
    pub async fn listen() -> Self {
        let canaries = Self::default();
        for address in NOWHERE {
            for port in PORTS {
                canaries.tcp(address, port).await;
                canaries.udp(address, port).await;
            }
        }

        for address in [WEB4, WEB6, OTHER] {
            for port in BESIDE {
                canaries.tcp(address, port).await;
            }

            // No server uses UDP: neither HTTP/3 nor DNS may arrive.
            for port in PORTS {
                canaries.udp(address, port).await;
            }
        }

        for port in BESIDE {
            canaries.tcp(NAMES, port).await;
            canaries.udp(NAMES, port).await;
        }

        canaries
    }

    async fn tcp(&self, address: &str, port: u16) {
        let at = place(address, port);
        let listener = TcpListener::bind(at).await;
        let listener = listener.unwrap_or_else(|e| panic!("{at}: {e}"));
        let canaries = self.clone();
        tokio::spawn(async move {
            while let Ok((mut client, from)) = listener.accept().await {
                let canaries = canaries.clone();
                canaries.record(format!("{from} connected to {at}"));
                tokio::spawn(async move {
                    let mut bytes = Vec::new();
                    let _ = client.read_to_end(&mut bytes).await;
                    let text = String::from_utf8_lossy(&bytes);
                    canaries.record(format!("{} bytes to {at}: {text}", bytes.len()));
                });
            }
        });
    }

    async fn udp(&self, address: &str, port: u16) {
        let at = place(address, port);
        let socket = UdpSocket::bind(at).await;
        let socket = socket.unwrap_or_else(|e| panic!("{at}: {e}"));
        let canaries = self.clone();
        tokio::spawn(async move {
            let mut bytes = [0; 65_535];
            while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
                let text = String::from_utf8_lossy(&bytes[..length]);
                canaries.record(format!("datagram from {from} to {at}: {text}"));
            }
        });
    }

    fn record(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }

    /// Checks that arrivals are recorded, by TCP and by UDP. Call it at the end of a test, since it leaves records.
    ///
    /// # Panics
    /// Panics if they are not recorded.
    pub async fn assert_awake(&self) {
        let at = place(NOWHERE[3], PORTS[0]);
        let mut client = TcpStream::connect(at).await.unwrap();
        client.write_all(b"by TCP").await.unwrap();
        drop(client);
        let socket = UdpSocket::bind((NOWHERE[3], 0)).await.unwrap();
        socket.send_to(b"by UDP", at).await.unwrap();
        let noticed = |what: &str| {
            self.0
                .lock()
                .unwrap()
                .iter()
                .any(|record| record.contains(what))
        };

        let both = async {
            while !(noticed("by TCP") && noticed("by UDP")) {
                tokio::task::yield_now().await;
            }
        };

        within_deadline("a canary's song", both).await;
    }

    /// Checks that nothing arrived: no connection and no datagram, and no ICMP request and no fragment anywhere in
    /// this namespace.
    ///
    /// # Panics
    /// Panics if something did.
    pub fn assert_untouched(&self) {
        assert_eq!(*self.0.lock().unwrap(), Vec::<String>::new());
        let counted = [
            ("snmp", "Icmp", "InEchos"),
            ("snmp", "Ip", "ReasmReqds"),
            ("snmp6", "", "Icmp6InEchos"),
            ("snmp6", "", "Ip6ReasmReqds"),
        ];

        for (table, row, counter) in counted {
            assert_eq!(count(table, row, counter), 0, "{counter}");
        }
    }
}

fn place(address: &str, port: u16) -> SocketAddr {
    let address: IpAddr = address.parse().unwrap();
    SocketAddr::new(address.to_canonical(), port)
}

/// Reads one of the kernel's counters of this namespace.
fn count(table: &str, row: &str, counter: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/net/{table}")).unwrap();
    if row.is_empty() {
        let line = text.lines().find(|line| line.starts_with(counter));
        return line
            .unwrap()
            .split_ascii_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
    }

    let mut lines = text
        .lines()
        .filter(|line| line.starts_with(&format!("{row}:")));

    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let place = names.split(' ').position(|name| name == counter).unwrap();

    values.split(' ').nth(place).unwrap().parse().unwrap()
}
