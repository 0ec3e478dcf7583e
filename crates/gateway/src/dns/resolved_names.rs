//! Which names each address was returned for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::policy::{Decision, HostName};

/// Maximum number of addresses. A new address replaces the one that expires first.
const MAX_ADDRESSES: usize = 4096;

/// Maximum number of names of one address, such as those behind one content delivery network.
const MAX_NAMES_PER_ADDRESS: usize = 64;

/// Maximum number of names whose denial is recorded.
const MAX_DENIED_NAMES: usize = 256;

/// How much longer than its time to live an answer is valid here: a program connects a little after its lookup.
const EXPIRY_GRACE: Duration = Duration::from_secs(10);

/// Names with the time at which they expire.
type ExpiringNames = Vec<(HostName, Instant)>;

/// The names that were returned to this guest, by address, for as long as the answers are valid.
#[derive(Debug, Default)]
pub(crate) struct ResolvedNames {
    addresses: Mutex<HashMap<IpAddr, ExpiringNames>>,
    denied: Mutex<HashMap<HostName, Decision>>,
}

impl ResolvedNames {
    /// Records that the guest received this address for the name.
    pub(crate) fn record(&self, name: &HostName, address: IpAddr, ttl: Duration) {
        let now = Instant::now();
        let expires = now + ttl + EXPIRY_GRACE;
        self.lock_denied().remove(name);

        let mut addresses = self.lock_addresses();
        if addresses.len() >= MAX_ADDRESSES && !addresses.contains_key(&address) {
            evict(&mut addresses, now);
        }

        let names = addresses.entry(address).or_default();
        match names.iter_mut().find(|(known, _)| known == name) {
            Some(entry) => entry.1 = expires.max(entry.1),
            None => {
                names.retain(|(_, expires)| *expires > now);
                if names.len() >= MAX_NAMES_PER_ADDRESS {
                    names.remove(0);
                }
                names.push((name.clone(), expires));
            }
        }
    }

    /// Returns the names that the guest received this address for and that have not expired.
    pub(crate) fn names_of(&self, address: IpAddr) -> Vec<HostName> {
        let now = Instant::now();
        let addresses = self.lock_addresses();
        let names = addresses.get(&address).into_iter().flatten();
        names
            .filter(|(_, expires)| *expires > now)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Records why the guest received none of this name's addresses.
    pub(crate) fn record_denial(&self, name: &HostName, decision: Decision) {
        let mut denied = self.lock_denied();
        if denied.len() < MAX_DENIED_NAMES || denied.contains_key(name) {
            denied.insert(name.clone(), decision);
        }
    }

    /// Returns why the guest received none of this name's addresses.
    pub(crate) fn denial(&self, name: &HostName) -> Option<Decision> {
        self.lock_denied().get(name).cloned()
    }

    fn lock_denied(&self) -> MutexGuard<'_, HashMap<HostName, Decision>> {
        self.denied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, ExpiringNames>> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes expired addresses, or else the one that expires first.
fn evict(addresses: &mut HashMap<IpAddr, ExpiringNames>, now: Instant) {
    let last_expiry = |names: &ExpiringNames| names.iter().map(|(_, expires)| *expires).max();
    addresses.retain(|_, names| last_expiry(names) > Some(now));
    if addresses.len() < MAX_ADDRESSES {
        return;
    }

    let first = addresses
        .iter()
        .min_by_key(|(_, names)| last_expiry(names))
        .map(|(address, _)| *address);
    if let Some(address) = first {
        addresses.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn name(text: &str) -> HostName {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn a_name_is_valid_until_it_expires() {
        let resolved = ResolvedNames::default();
        let address = IpAddr::from([203, 0, 113, 1]);
        assert_eq!(resolved.names_of(address), []);
        resolved.record(&name("a.test"), address, Duration::from_secs(60));
        resolved.record(&name("b.test"), address, Duration::from_secs(60));
        resolved.record(&name("a.test"), address, Duration::ZERO);
        assert_eq!(resolved.names_of(address), [name("a.test"), name("b.test")]);
        let mut addresses = resolved.lock_addresses();
        for (_, until) in addresses.get_mut(&address).unwrap() {
            *until = Instant::now();
        }
        drop(addresses);
        assert_eq!(resolved.names_of(address), []);
    }

    #[test]
    fn the_number_of_addresses_and_names_is_bounded() {
        let resolved = ResolvedNames::default();
        for n in 0..=u32::try_from(MAX_ADDRESSES).unwrap() {
            let address = Ipv4Addr::from_bits(n).into();
            resolved.record(
                &name("a.test"),
                address,
                Duration::from_secs(60 + u64::from(n)),
            );
        }
        assert_eq!(resolved.lock_addresses().len(), MAX_ADDRESSES);
        assert_eq!(resolved.names_of(Ipv4Addr::from_bits(0).into()), []);
        let address = IpAddr::from([203, 0, 113, 1]);
        for n in 0..=MAX_NAMES_PER_ADDRESS {
            resolved.record(
                &name(&format!("n{n}.test")),
                address,
                Duration::from_secs(60),
            );
        }
        let names = resolved.names_of(address);
        assert_eq!(
            (names.len(), &names[0]),
            (MAX_NAMES_PER_ADDRESS, &name("n1.test"))
        );
    }
}
