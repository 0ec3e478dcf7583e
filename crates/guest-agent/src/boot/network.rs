use std::fs;
use std::path::Path;

use fumehood_protocol::network::{
    GATEWAY_IPV4, GATEWAY_IPV6, GATEWAY_MAC, GUEST_IPV4, GUEST_IPV6, IPV4_PREFIX, IPV6_PREFIX,
};
use fumehood_sys::guest::{Address, interface_up};

use super::error::{BootError, failed_to};
use crate::messages::eprint_message;

/// The kernel's name for the network card, if there is one.
const CARD: &str = "eth0";

/// Turns on the loopback interface and lets programs listen on every port. A kernel without network support is no
/// reason to fail: programs that need the network will report it.
pub(super) fn enable_loopback() {
    let up = fumehood_sys::guest::loopback_up();
    let ports = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    if let Err(error) = up.and(ports) {
        eprint_message(&format!("cannot set up the loopback interface: {error}"));
    }
}

/// Configures the network card, if there is one. Returns whether there is.
pub(super) fn configure_card() -> Result<bool, BootError> {
    if !Path::new("/sys/class/net").join(CARD).exists() {
        return Ok(false);
    }

    // There are no routers. IPv6 reports its groups at once instead of later, so that no copy of this guest does.
    for name in ["accept_ra", "mldv2_unsolicited_report_interval"] {
        let setting = format!("/proc/sys/net/ipv6/conf/{CARD}/{name}");
        fs::write(&setting, "0").map_err(failed_to(format!("write {setting}")))?;
    }

    let addresses = [
        Address {
            own: GUEST_IPV4.into(),
            prefix: IPV4_PREFIX,
            gateway: GATEWAY_IPV4.into(),
        },
        Address {
            own: GUEST_IPV6.into(),
            prefix: IPV6_PREFIX,
            gateway: GATEWAY_IPV6.into(),
        },
    ];
    interface_up(CARD, &addresses, GATEWAY_MAC).map_err(failed_to(format!("set up {CARD}")))?;

    // The gateway answers at once or not at all.
    let resolv_conf = format!("nameserver {GATEWAY_IPV4}\noptions timeout:2 attempts:2\n");
    fs::write("/etc/resolv.conf", resolv_conf).map_err(failed_to("write /etc/resolv.conf"))?;

    Ok(true)
}
