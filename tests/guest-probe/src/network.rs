//! Sockets other than TCP, UDP and Unix sockets.

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, socket};

use crate::verdict::{Verdict, Wall};

pub(crate) const WALLS: &[Wall] = &[
    Wall {
        name: "raw sockets",
        tried: "raw sockets of IPv4 and IPv6, ICMP's own, packet sockets",
        attempt: raw,
    },
    Wall {
        name: "other protocols",
        tried: "a socket of every family but IPv4, IPv6, Unix and netlink",
        attempt: families,
    },
    Wall {
        name: "network set-up",
        tried: "turn the loopback interface off, by netlink",
        attempt: || Verdict::denied(interface_down()),
    },
];

fn raw() -> Verdict {
    let open = |family, kind, protocol| socket(family, kind, Some(protocol));
    Verdict::all([
        (
            "IPv4",
            Verdict::denied(open(AddressFamily::INET, SocketType::RAW, ipproto::RAW)),
        ),
        (
            "IPv6",
            Verdict::denied(open(AddressFamily::INET6, SocketType::RAW, ipproto::RAW)),
        ),
        (
            "ICMP",
            Verdict::denied(open(AddressFamily::INET, SocketType::DGRAM, ipproto::ICMP)),
        ),
        (
            "packets",
            Verdict::expected(
                socket(AddressFamily::PACKET, SocketType::RAW, None),
                &[Errno::PERM, Errno::AFNOSUPPORT],
            ),
        ),
    ])
}

/// An upper bound of address families; the kernel's AF_MAX is smaller.
const MAX_FAMILY: u16 = 64;

fn families() -> Verdict {
    let known = [
        AddressFamily::UNIX,
        AddressFamily::INET,
        AddressFamily::INET6,
        AddressFamily::NETLINK,
    ];

    let kinds = [
        SocketType::STREAM,
        SocketType::DGRAM,
        SocketType::RAW,
        SocketType::SEQPACKET,
    ];

    let mut found = Vec::new();
    for family in (1..MAX_FAMILY).map(AddressFamily::from_raw) {
        let opens = kinds.iter().any(|kind| socket(family, *kind, None).is_ok());
        if opens && !known.contains(&family) {
            found.push(format!("family {}", family.as_raw()));
        }
    }

    Verdict::none(&found)
}

/// Requests by `RTM_NEWLINK` to disable interface 1, and returns the kernel's answer.
fn interface_down() -> Result<(), Errno> {
    const NEW_LINK: u16 = 16;
    const REQUEST_WITH_ANSWER: u16 = 0x5;
    const ERROR: u16 = 2;
    const UP: u32 = 1;
    // Protocol 0 of netlink is the one for links and routes.
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    let mut message = Vec::new();
    // Length, type, flags, sequence, port; then family, device type, index, flags, mask of the flags.
    message.extend(32_u32.to_ne_bytes());
    message.extend(
        [NEW_LINK, REQUEST_WITH_ANSWER]
            .map(u16::to_ne_bytes)
            .concat(),
    );
    message.extend([0_u8; 8 + 4]);
    message.extend([1, 0, UP].map(u32::to_ne_bytes).concat());
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0_u8; 64];
    let (len, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);

    match (len >= 20 && kind == ERROR, code) {
        (true, 0) => Ok(()),
        (true, code) => Err(Errno::from_raw_os_error(-code)),
        (false, _) => Err(Errno::IO),
    }
}
