//! A guest's network card, seen from its peer on the link.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use fumehood_end_to_end::{finish_ok, run_ok, within_deadline};
use fumehood_engine::{Config, Engine, Language, RunRequest, Sandbox, TemplateUse, VmOrigin};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const GUEST: [u8; 6] = [0x02, 0x66, 0x75, 0x6d, 0x65, 0x02];
const GATEWAY: [u8; 6] = [0x02, 0x66, 0x75, 0x6d, 0x65, 0x01];
const GUEST_IPV4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const GUEST_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd66, 0x756d, 0x6568, 0, 0, 0, 0, 2);

const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 0x02;
const RST_ACK: u8 = 0x14;

/// The other end of a guest's cable.
struct Peer(UnixStream);

/// A guest's wish for a connection.
#[derive(Debug)]
struct Knock {
    from: IpAddr,
    to: IpAddr,
    ports: [u8; 4],
    sequence: u32,
}

impl Peer {
    fn of(sandbox: &Sandbox) -> Self {
        Self(sandbox.cable().unwrap())
    }

    async fn frame(&mut self) -> Vec<u8> {
        let length = self.0.read_u32().await.unwrap() as usize;
        let mut frame = vec![0; length];
        self.0.read_exact(&mut frame).await.unwrap();
        frame
    }

    /// The next wish for a connection. The guest knows its gateway, and never asks for it before. What else it says
    /// is about its groups, which IPv6 has for each address; only one that was booted just now does.
    async fn knock(&mut self, source: VmOrigin) -> Knock {
        loop {
            let frame = self.frame().await;
            assert_eq!(frame[6..12], GUEST, "{frame:x?}");
            let is_multicast = frame[0] & 1 == 1;
            assert!(is_multicast || frame[..6] == GATEWAY, "{frame:x?}");
            let kind = [frame[12], frame[13]];
            assert!([IPV4, IPV6].contains(&kind), "no ARP: {frame:x?}");

            if let Some(knock) = knock(kind, &frame[14..]) {
                return knock;
            }

            assert!(source == VmOrigin::Boot && is_multicast, "{frame:x?}");
            const LISTENER_REPORT: u8 = 143;
            assert!(frame.contains(&LISTENER_REPORT), "{frame:x?}");
        }
    }

    /// Answers that the port is closed.
    async fn refuse(&mut self, knock: &Knock) {
        let [a, b, c, d] = knock.ports;
        let mut segment = vec![c, d, a, b, 0, 0, 0, 0];
        segment.extend((knock.sequence + 1).to_be_bytes());
        segment.extend([0x50, RST_ACK, 0, 0, 0, 0, 0, 0]);
        let (from, to) = (octets(knock.to), octets(knock.from));
        let length = u16::try_from(segment.len()).unwrap();
        let pseudo = [&from[..], &to, &[0, TCP], &length.to_be_bytes()].concat();
        let sum = checksum(&[pseudo, segment.clone()].concat());
        segment[16..18].copy_from_slice(&sum);
        let (kind, head) = head(&from, &to, length);
        let frame = [&GUEST[..], &GATEWAY, &kind, &head, &segment].concat();
        self.send(&frame).await;
    }

    async fn send(&mut self, frame: &[u8]) {
        let length = u32::try_from(frame.len()).unwrap();
        self.0.write_u32(length).await.unwrap();
        self.0.write_all(frame).await.unwrap();
    }

    /// Sends the guest's next datagram back to it; its length, with all headers.
    async fn echo(&mut self) -> usize {
        let mut frame = self.frame().await;
        while frame[12..14] != IPV4 || frame[23] != UDP {
            frame = self.frame().await;
        }

        // Addresses of Ethernet and IP, and ports: sums stay right when two of a kind change places.
        for (at, length) in [(0, 6), (26, 4), (34, 2)] {
            let (first, second) = frame[at..at + 2 * length].split_at_mut(length);
            first.swap_with_slice(second);
        }

        self.send(&frame).await;

        frame.len()
    }
}

fn knock(kind: [u8; 2], packet: &[u8]) -> Option<Knock> {
    let ipv4 = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
    let ipv6 = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());

    let (protocol, from, to, segment): (u8, IpAddr, IpAddr, _) = match kind {
        IPV4 => (packet[9], ipv4(12).into(), ipv4(16).into(), &packet[20..]),
        _ => (packet[6], ipv6(8).into(), ipv6(24).into(), &packet[40..]),
    };

    (protocol == TCP && segment[13] == SYN).then(|| Knock {
        from,
        to,
        ports: segment[..4].try_into().unwrap(),
        sequence: u32::from_be_bytes(segment[4..8].try_into().unwrap()),
    })
}

/// An Ethernet type, and a header of IP.
fn head(from: &[u8], to: &[u8], length: u16) -> ([u8; 2], Vec<u8>) {
    if from.len() == 16 {
        let length = length.to_be_bytes();
        let start = [0x60, 0, 0, 0, length[0], length[1], TCP, 64];
        return (IPV6, [&start[..], from, to].concat());
    }

    let total = (length + 20).to_be_bytes();
    let start = [0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, TCP, 0, 0];
    let mut head = [&start[..], from, to].concat();
    let sum = checksum(&head);
    head[10..12].copy_from_slice(&sum);

    (IPV4, head)
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks_exact(2);
    let mut sum: u32 = words
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A separate store with the images of the real one, and no templates.
fn store() -> tempfile::TempDir {
    let data = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let real = data("FUMEHOOD_HOME")
        .or_else(|| Some(data("XDG_DATA_HOME")?.join("fumehood")))
        .unwrap_or_else(|| data("HOME").unwrap().join(".local/share/fumehood"));

    let store = tempfile::tempdir().unwrap();
    for name in ["images", "bin"] {
        symlink(real.join(name), store.path().join(name)).unwrap();
    }

    store
}

fn engine(templates: TemplateUse, store: Option<&tempfile::TempDir>) -> Engine {
    Engine::start(Config {
        templates,
        store: store.map(|store| store.path().to_owned()),
        ..Config::default()
    })
    .unwrap()
}

/// A program in the guest knocks at an address of each family, and is refused by its peer.
async fn assert_reaches_peer(sandbox: &Sandbox, peer: &mut Peer) {
    for (to, from) in [
        ("203.0.113.7", IpAddr::from(GUEST_IPV4)),
        ("2001:db8::7", IpAddr::from(GUEST_IPV6)),
    ] {
        let code = format!(
            "import socket\ntry: socket.create_connection(('{to}', 443), 60)\nexcept Exception as e: print(type(e).__name__)"
        );

        let answered = async {
            let knock = peer.knock(sandbox.source()).await;
            assert_eq!((knock.from, knock.to), (from, to.parse().unwrap()));
            assert_eq!(knock.ports[2..], 443_u16.to_be_bytes());
            peer.refuse(&knock).await;
        };

        let both = async { tokio::join!(run_ok(sandbox, Language::Python, &code), answered).0 };
        assert_eq!(
            within_deadline("an answer", both).await,
            "ConnectionRefusedError\n"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_card_works_after_a_boot_and_in_every_fork() {
    let engine = engine(TemplateUse::Never, None);
    let parent = engine.sandbox().network_card().await.unwrap();
    assert_eq!(parent.source(), VmOrigin::Boot);
    let state = "cat /sys/class/net/eth0/mtu /etc/resolv.conf; ls /sys/class/net; env | grep -c /ca-certificates.crt";
    let names = "nameserver 198.18.0.1\noptions timeout:2 attempts:2\n";
    assert_eq!(
        run_ok(&parent, Language::Shell, state).await,
        format!("65521\n{names}eth0\nlo\n5\n")
    );

    // Frames are not read yet, and nothing waits for that.
    let mut peer = Peer::of(&parent);
    assert_reaches_peer(&parent, &mut peer).await;
    assert!(parent.cable().is_none(), "a cable has one other end");

    // The longest frame passes in both directions.
    let code = "import socket\ns = socket.socket(type=socket.SOCK_DGRAM)\ns.settimeout(60)\ns.sendto(b'x' * 65493, ('203.0.113.7', 9))\nprint(len(s.recv(65535)))";
    let both = async { tokio::join!(run_ok(&parent, Language::Python, code), peer.echo()) };
    assert_eq!(
        within_deadline("an echo", both).await,
        ("65493\n".into(), 65_535)
    );

    let children = parent.fork(2).await.unwrap();
    for child in &children {
        assert_reaches_peer(child, &mut Peer::of(child)).await;
    }

    assert_reaches_peer(&parent, &mut peer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_card_works_after_a_restore() {
    let store = store();
    let engine = engine(TemplateUse::Use, Some(&store));
    let with_card = || engine.sandbox().language(Language::Python).network_card();
    assert!(with_card().build_template().await.unwrap());

    for _ in 0..2 {
        let sandbox = with_card().await.unwrap();
        assert_eq!(sandbox.source(), VmOrigin::HotImage);
        let mut peer = Peer::of(&sandbox);
        assert_reaches_peer(&sandbox, &mut peer).await;

        // So do forks, and their forks; the cable of each is its own.
        let child = sandbox.fork(1).await.unwrap().remove(0);
        let grandchild = child.fork(1).await.unwrap().remove(0);
        for fork in [&grandchild, &child] {
            assert_reaches_peer(fork, &mut Peer::of(fork)).await;
        }
        assert_reaches_peer(&sandbox, &mut peer).await;
    }
    assert_eq!(engine.vm_stats().failed_restores, 0);

    // It is not the template of those without a card.
    let without = engine.sandbox().language(Language::Python).await.unwrap();
    assert_eq!(without.source(), VmOrigin::Boot);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_policy_there_is_no_network_card() {
    let engine = engine(TemplateUse::Never, None);
    let sandbox = engine.sandbox().await.unwrap();
    assert!(sandbox.cable().is_none());
    let state = "ls /sys/class/net; wc -c < /etc/resolv.conf; ls /dev/vd*; wc -l < /proc/net/route; env | grep -c /ca-certificates.crt || true";
    assert_eq!(
        run_ok(&sandbox, Language::Shell, state).await,
        "lo\n0\n/dev/vda\n/dev/vdb\n1\n0\n"
    );

    let port_80 = "import socket; socket.create_server(('127.0.0.1', 80)); print('mine')";
    assert_eq!(run_ok(&sandbox, Language::Python, port_80).await, "mine\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_settings_reach_every_program() {
    const AUTHORITY: &str =
        "-----BEGIN CERTIFICATE-----\nZnVtZWhvb2Q=\n-----END CERTIFICATE-----\n";
    let bundle = "tail -n 3 /etc/ssl/certs/ca-certificates.crt; grep -c BEGIN /etc/ssl/certs/ca-certificates.crt";
    let programs = [
        (Language::Shell, "echo $TOKEN"),
        (
            Language::Python,
            "import os; print(os.environ.get('TOKEN', ''))",
        ),
        (Language::Javascript, "console.log(process.env.TOKEN ?? '')"),
    ];

    let store = store();
    let engine = engine(TemplateUse::Use, Some(&store));

    // The interpreter of a template waits since before its guest was given anything.
    let builder = || engine.sandbox().language(Language::Python);
    builder().build_template().await.unwrap();
    let plain = builder().await.unwrap();
    let count = run_ok(&plain, Language::Shell, bundle).await;
    let count: u32 = count.trim_end().lines().last().unwrap().parse().unwrap();

    let sandbox = builder()
        .brings(AUTHORITY, &[("TOKEN", "placeholder")])
        .await;

    let sandbox = sandbox.unwrap();
    assert_eq!(sandbox.source(), VmOrigin::HotImage);
    let said = run_ok(&sandbox, Language::Shell, bundle).await;
    assert_eq!(said, format!("{AUTHORITY}{}\n", count + 1));
    let child = sandbox.fork(1).await.unwrap().remove(0);

    for (language, code) in programs {
        for given in [&sandbox, &child] {
            assert_eq!(run_ok(given, language, code).await, "placeholder\n");
        }
        assert_eq!(run_ok(&plain, language, code).await, "\n");
    }

    // In a context, and where the request says otherwise.
    for (variables, expected) in [(None, "placeholder\n"), (Some("mine"), "mine\n")] {
        let mut request = RunRequest::new(Language::Python, programs[1].1);
        request = match variables {
            Some(value) => request.env("TOKEN", value),
            None => request.context("main"),
        };

        let run = sandbox.run(&request.timeout_s(120)).unwrap();
        assert_eq!(finish_ok(run).await.0, expected);
    }
}
