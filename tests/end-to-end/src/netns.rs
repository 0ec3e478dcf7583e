//! Runs a test in a private network namespace, from which no packet leaves the machine: not even a defect under
//! test can send one to somebody else's address.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Write};
use std::net::{IpAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{read_in_background, servers};

/// The environment variable that is set within the namespace.
const INSIDE: &str = "FUMEHOOD_TEST_NETNS";

/// The longest that a test may take, on a busy machine under software emulation.
const PATIENCE: Duration = Duration::from_secs(280);

/// The namespace's addresses in addition to those of loopback: for web servers, a name server, and canaries.
const ADDRESSES: [&str; 20] = [
    servers::WEB4,
    servers::WEB6,
    servers::OTHER,
    servers::NAMES,
    servers::FULL,
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
    // IPv6 addresses that stand for 198.51.100.7: by NAT64, by 6to4, and its relay.
    "64:ff9b::c633:6407",
    "2002:c633:6407::1",
    "fec0::1",
];

/// Runs the test of this name in a private network namespace, by executing this test program again for that test. The
/// test function must do nothing but call this.
///
/// # Panics
/// Panics if the test fails there, or takes too long.
pub fn in_private_netns<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_none() {
        return outside(name);
    }

    own_addresses();
    assert_no_way_out();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();

    runtime.block_on(test());
}

fn outside(name: &str) {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command.arg("--net");

    if !rustix::process::geteuid().is_root() {
        // The user stays the same, and may configure the namespace's network.
        command.args(["--map-current-user", "--keep-caps"]);
    }

    command
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .env(servers::AUTHORITY, directory.path().join("authority.pem"))
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());

    let mut child = command.spawn().unwrap();
    let (stdout, stderr) = (
        read_in_background(child.stdout.take()),
        read_in_background(child.stderr.take()),
    );

    let start = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if start.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(10)),
            None => {
                // Its VMs end with its process.
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
        }
    };

    let text = |thread: std::thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&thread.join().unwrap_or_default()).into_owned()
    };

    let (stdout, stderr) = (text(stdout), text(stderr));
    let passed = status.is_some_and(|status| status.success()) && stdout.contains("ok. 1 passed");
    let end = status.map_or_else(
        || format!("no end within {PATIENCE:?}"),
        |status| status.to_string(),
    );
    assert!(passed, "{name} in its namespace: {end}\n{stdout}\n{stderr}");
}

/// Brings the loopback interface up, and adds the addresses.
fn own_addresses() {
    let mut commands = String::from("link set lo up\n");
    for address in ADDRESSES {
        // Duplicate address detection would delay its use.
        let rest = if address.contains(':') {
            "128 dev lo nodad"
        } else {
            "32 dev lo"
        };

        commands += &format!("addr add {address}/{rest}\n");
    }

    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("ip, of Debian's package iproute2: {e}"));

    ip.stdin
        .take()
        .unwrap()
        .write_all(commands.as_bytes())
        .unwrap();

    assert!(ip.wait().unwrap().success(), "no addresses could be taken");
}

/// Checks that loopback is the only interface, that there is no default route, and that other addresses are unreachable.
fn assert_no_way_out() {
    let table = |name: &str| std::fs::read_to_string(format!("/proc/self/net/{name}")).unwrap();
    // Two header lines precede the interfaces, one precedes the routes.
    let interfaces = table("dev");
    let interfaces: Vec<_> = interfaces.lines().skip(2).collect();
    assert!(
        interfaces.len() == 1 && interfaces[0].trim_start().starts_with("lo:"),
        "{interfaces:?}"
    );
    assert_eq!(table("route").lines().count(), 1, "{}", table("route"));
    for route in table("ipv6_route").lines() {
        let fields: Vec<_> = route.split_ascii_whitespace().collect();
        // The kernel's own entry that rejects everything is a route as well.
        const REJECT: u32 = 0x0200;
        let flags = u32::from_str_radix(fields[8], 16).unwrap();
        let is_default = fields[1] == "00";
        assert!(
            fields[9] == "lo" && (!is_default || flags & REJECT != 0),
            "{route}"
        );
    }

    for (from, to) in [("0.0.0.0:0", "192.0.2.1"), ("[::]:0", "2001:db8:f::1")] {
        let to: IpAddr = to.parse().unwrap();
        let socket = UdpSocket::bind(from).unwrap();
        let error = socket.connect((to, 9)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{to}");
    }
}
