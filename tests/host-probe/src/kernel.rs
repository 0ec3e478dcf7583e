use fumehood_sys::host::{ForbiddenSyscall, forbidden_arguments_that_reach_kernel, reaches_kernel};
use rustix::net::{AddressFamily, SocketType, socket};

use crate::breaches::{Breaches, succeeded};

/// Tries to create sockets. Without one, a program cannot connect to anything.
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
        let created = kinds.map(|kind| (format!("{name} {kind:?}"), socket(family, kind, None)));
        breaches.extend(succeeded(created));
    }

    let devices = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let devices = devices.lines().filter_map(|line| line.split_once(':'));
    let names = devices.map(|(name, _)| name.trim().to_string());
    breaches.extend(names.filter(|name| name != "lo"));

    breaches
}

/// Makes system calls that QEMU must not make, with arguments that have no effect.
pub(crate) fn calls() -> Breaches {
    let reached = ForbiddenSyscall::ALL.into_iter();
    let reached = reached.filter(|call| reaches_kernel(*call));
    reached.map(|call| format!("{call:?}")).collect()
}

/// Makes system calls that QEMU may make, with arguments that it must not use, and calls that look harmless.
pub(crate) fn arguments() -> Breaches {
    let reached = forbidden_arguments_that_reach_kernel().into_iter();
    reached.map(str::to_owned).collect()
}
