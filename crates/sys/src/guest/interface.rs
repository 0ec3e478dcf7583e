use std::io;
use std::net::IpAddr;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice, recv, send,
    socket_with,
};

/// An address of an interface, and what is reached through it.
#[derive(Debug, Clone, Copy)]
pub struct Address {
    /// The interface's own.
    pub own: IpAddr,
    /// Bits of its network's prefix.
    pub prefix: u8,
    /// Who passes on what is for elsewhere: an address of the same family and network.
    pub gateway: IpAddr,
}

/// Turns an Ethernet interface on, gives it its addresses, and routes everything by their gateways, all of which
/// have this Ethernet address for ever. No address of its own invention, no duplicate looked for.
///
/// # Errors
/// What the kernel says to the first request that it refuses.
pub fn interface_up(name: &str, addresses: &[Address], gateway: [u8; 6]) -> io::Result<()> {
    let kernel = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE is number 0, which is the default.
        None,
    )?;
    let index = netdevice::name_to_index(&kernel, name)?;
    let mut requests = Requests::default();
    requests.link(index);
    for address in addresses {
        requests.address(index, address);
        requests.neighbour(index, address.gateway, gateway);
        requests.default_route(index, address.gateway);
    }
    send(&kernel, &requests.bytes, SendFlags::empty())?;
    let mut answer = [0; 4096];
    let mut left = requests.count;
    while left > 0 {
        let (length, _) = recv(&kernel, &mut answer[..], RecvFlags::empty())?;
        left = left.saturating_sub(acknowledged(&answer[..length])?);
    }
    Ok(())
}

/// Bytes of a message's header.
const HEADER: usize = 16;

/// How many requests the kernel says that it has done.
fn acknowledged(mut answers: &[u8]) -> io::Result<u32> {
    let strange = || io::Error::other("the kernel's answer cannot be read");
    let mut count = 0;
    while !answers.is_empty() {
        let field = |at: usize| answers.get(at..at + 4)?.try_into().ok();
        let length = field(0).map(u32::from_ne_bytes).ok_or_else(strange)? as usize;
        // An acknowledgement holds an error's number, 0 for none, negative else.
        let error = field(HEADER).map(i32::from_ne_bytes).ok_or_else(strange)?;
        if error != 0 {
            return Err(io::Error::from_raw_os_error(-error));
        }
        count += 1;
        let next = length.max(HEADER).next_multiple_of(4);
        answers = answers.get(next..).unwrap_or_default();
    }
    Ok(count)
}

/// Requests in the kernel's format, `rtnetlink(7)`.
#[derive(Default)]
struct Requests {
    bytes: Vec<u8>,
    count: u32,
}

impl Requests {
    /// Adds a request: its fixed part, then attributes by their numbers.
    fn add(&mut self, kind: u16, fixed: &[u8], attributes: &[(u16, &[u8])]) {
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE;
        let mut body = fixed.to_vec();
        for (number, value) in attributes {
            body.extend(attribute(*number, value));
        }
        self.count += 1;
        let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags_of(flags).to_ne_bytes());
        self.bytes.extend(self.count.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend(body);
    }

    /// Turns it on. First it is told not to make up a link-local address, which it would announce.
    fn link(&mut self, index: u32) {
        const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
        const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
        let link = |flags: libc::c_int| {
            let flags = flags.cast_unsigned().to_ne_bytes();
            [&[0; 4][..], &index.to_ne_bytes(), &flags, &flags].concat()
        };
        let mode = attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
        let of_ipv6 = attribute(flags_of(libc::AF_INET6), &mode);
        self.add(
            libc::RTM_NEWLINK,
            &link(0),
            &[(libc::IFLA_AF_SPEC, &of_ipv6)],
        );
        self.add(libc::RTM_NEWLINK, &link(libc::IFF_UP), &[]);
    }

    fn address(&mut self, index: u32, address: &Address) {
        const NO_DUPLICATE_IS_LOOKED_FOR: u8 = 0x02;
        let (family, own) = octets(address.own);
        let everywhere = libc::RT_SCOPE_UNIVERSE;
        let head = [
            family,
            address.prefix,
            NO_DUPLICATE_IS_LOOKED_FOR,
            everywhere,
        ];
        let fixed = [head, index.to_ne_bytes()].concat();
        let attributes = [(libc::IFA_LOCAL, &own[..]), (libc::IFA_ADDRESS, &own)];
        self.add(libc::RTM_NEWADDR, &fixed, &attributes);
    }

    /// Nobody asks who has this address, nor whether he still has it.
    fn neighbour(&mut self, index: u32, address: IpAddr, ethernet: [u8; 6]) {
        let (family, address) = octets(address);
        let state = [libc::NUD_PERMANENT.to_ne_bytes(), [0, 0]].concat();
        let fixed = [&[family, 0, 0, 0][..], &index.to_ne_bytes(), &state].concat();
        let attributes = [(libc::NDA_DST, &address[..]), (libc::NDA_LLADDR, &ethernet)];
        self.add(libc::RTM_NEWNEIGH, &fixed, &attributes);
    }

    fn default_route(&mut self, index: u32, gateway: IpAddr) {
        let (family, gateway) = octets(gateway);
        let (table, by) = (libc::RT_TABLE_MAIN, libc::RTPROT_BOOT);
        let (scope, kind) = (libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST);
        let fixed = [family, 0, 0, 0, table, by, scope, kind, 0, 0, 0, 0];
        let index = index.to_ne_bytes();
        let attributes = [(libc::RTA_GATEWAY, &gateway[..]), (libc::RTA_OIF, &index)];
        self.add(libc::RTM_NEWROUTE, &fixed, &attributes);
    }
}

/// An attribute, with what fills it up to a multiple of 4 bytes.
fn attribute(number: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), number.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The number of an address's family, and its bytes.
fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    let family = |number: libc::c_int| u8::try_from(number).unwrap_or_default();
    match address {
        IpAddr::V4(address) => (family(libc::AF_INET), address.octets().to_vec()),
        IpAddr::V6(address) => (family(libc::AF_INET6), address.octets().to_vec()),
    }
}

/// A small constant of the C library's in the width that the message has for it.
fn flags_of(constant: libc::c_int) -> u16 {
    u16::try_from(constant).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_filled_up() {
        let bytes = attribute(7, &[1, 2, 3, 4, 5]);
        assert_eq!(bytes, [9, 0, 7, 0, 1, 2, 3, 4, 5, 0, 0, 0]);
    }

    #[test]
    fn requests_follow_one_another() {
        let mut requests = Requests::default();
        requests.link(3);
        let length = u32::from_ne_bytes(requests.bytes[..4].try_into().unwrap()) as usize;
        let second = &requests.bytes[length..];
        assert_eq!((requests.count, second[0], second.len()), (2, 32, 32));
        assert_eq!(second[8..12], 2_u32.to_ne_bytes());
        assert_eq!(second[20..24], 3_u32.to_ne_bytes());
    }

    #[test]
    fn answers_are_counted_and_refusals_found() {
        let answer = |error: i32| {
            let mut bytes = 36_u32.to_ne_bytes().to_vec();
            bytes.resize(HEADER, 0);
            bytes.extend(error.to_ne_bytes());
            bytes.resize(36, 0);
            bytes
        };
        let both = [answer(0), answer(0)].concat();
        assert_eq!(acknowledged(&both).unwrap(), 2);
        let refused = [answer(0), answer(-libc::EPERM)].concat();
        let error = acknowledged(&refused).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        assert!(acknowledged(&[1, 2]).is_err());
    }
}
