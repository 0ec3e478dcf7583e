use std::fs;
use std::path::Path;

use fumehood_protocol::network::{
    GATEWAY_IPV4, GATEWAY_IPV6, GATEWAY_MAC, GUEST_IPV4, GUEST_IPV6, IPV4_PREFIX, IPV6_PREFIX,
};
use fumehood_sys::guest::{Address, interface_up};

use super::{BootError, refused};

/// What the kernel calls the card, where there is one.
const CARD: &str = "eth0";

/// Turns the loopback interface on, where programs may listen at any port: no port is anybody's here. A kernel
/// without network is no reason not to boot: what needs it will say so.
pub(super) fn loopback() {
    let on = fumehood_sys::guest::loopback_up();
    let ports = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    if let Err(error) = on.and(ports) {
        eprintln!("fumehood-agent: the loopback interface is not as it should be: {error}");
    }
}

/// Makes the network card ready, if there is one. Says whether there is.
pub(super) fn card() -> Result<bool, BootError> {
    if !Path::new("/sys/class/net").join(CARD).exists() {
        return Ok(false);
    }
    // Nobody advertises routes here. What IPv6 says of its groups it says at once, and so in no copy of this guest.
    for name in ["accept_ra", "mldv2_unsolicited_report_interval"] {
        let setting = format!("/proc/sys/net/ipv6/conf/{CARD}/{name}");
        fs::write(&setting, "0").map_err(refused(format!("write {setting}")))?;
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
    interface_up(CARD, &addresses, GATEWAY_MAC).map_err(refused(format!("set up {CARD}")))?;
    // The gateway answers at once, or never will.
    let names = format!("nameserver {GATEWAY_IPV4}\noptions timeout:2 attempts:2\n");
    fs::write("/etc/resolv.conf", names).map_err(refused("write /etc/resolv.conf"))?;
    Ok(true)
}
