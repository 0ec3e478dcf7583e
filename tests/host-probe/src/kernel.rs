use fumehood_sys::host::{ForbiddenSyscall, reaches_kernel};
use rustix::net::{AddressFamily, SocketType, socket};

use crate::{Breaches, succeeded};

/// Makes sockets: without one, nothing can be connected to, whatever its name.
pub(crate) fn sockets() -> Breaches {
    let families = [
        ("unix", AddressFamily::UNIX),
        ("inet", AddressFamily::INET),
        ("inet6", AddressFamily::INET6),
        ("netlink", AddressFamily::NETLINK),
        ("packet", AddressFamily::PACKET),
        ("vsock", AddressFamily::VSOCK),
    ];
    let kinds = [SocketType::STREAM, SocketType::DGRAM, SocketType::RAW];
    let mut breaches = Breaches::new();
    for (name, family) in families {
        let made = kinds.map(|kind| (format!("{name} {kind:?}"), socket(family, kind, None)));
        breaches.extend(succeeded(made));
    }
    let devices = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let devices = devices.lines().filter_map(|line| line.split_once(':'));
    let strange = devices.map(|(name, _)| name.trim().to_string());
    breaches.extend(strange.filter(|name| name != "lo"));
    breaches
}

/// Makes calls that QEMU has no business with, such that none could do anything.
pub(crate) fn calls() -> Breaches {
    let reached = ForbiddenSyscall::ALL.into_iter();
    let reached = reached.filter(|call| reaches_kernel(*call));
    reached.map(|call| format!("{call:?}")).collect()
}
