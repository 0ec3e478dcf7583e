use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::policy::{Decision, HostName};

/// Addresses that are remembered; the one whose time is over first is forgotten for another.
const ADDRESSES: usize = 4096;

/// Names that are remembered of one address, such as those behind one front.
const NAMES: usize = 64;

/// How much longer a connection may come than the guest was told: a program that looks up a name opens
/// its connection a little later.
const GRACE: Duration = Duration::from_secs(10);

/// What this guest was told about names, for as long as it was told to believe it.
#[derive(Debug, Default)]
pub(crate) struct Known {
    addresses: Mutex<HashMap<IpAddr, Vec<(HostName, Instant)>>>,
    refused: Mutex<HashMap<HostName, Decision>>,
}

/// Names of which it is remembered why none of their addresses was told.
const REFUSED: usize = 256;

impl Known {
    /// The guest was told that the name has this address.
    pub(crate) fn learn(&self, name: &HostName, address: IpAddr, lifetime: Duration) {
        let now = Instant::now();
        let until = now + lifetime + GRACE;
        self.refused().remove(name);
        let mut known = self.lock();
        if known.len() >= ADDRESSES && !known.contains_key(&address) {
            forget(&mut known, now);
        }
        let names = known.entry(address).or_default();
        match names.iter_mut().find(|(known, _)| known == name) {
            Some(entry) => entry.1 = until.max(entry.1),
            None => {
                names.retain(|(_, until)| *until > now);
                if names.len() >= NAMES {
                    names.remove(0);
                }
                names.push((name.clone(), until));
            }
        }
    }

    /// The names that it was told to have this address, and is still to believe.
    pub(crate) fn names(&self, address: IpAddr) -> Vec<HostName> {
        let now = Instant::now();
        let known = self.lock();
        let names = known.get(&address).into_iter().flatten();
        names
            .filter(|(_, until)| *until > now)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// The guest was told none of this name's addresses, for this reason.
    pub(crate) fn refuse(&self, name: &HostName, decision: Decision) {
        let mut refused = self.refused();
        if refused.len() < REFUSED || refused.contains_key(name) {
            refused.insert(name.clone(), decision);
        }
    }

    /// Why it was told none of this name's addresses.
    pub(crate) fn refusal(&self, name: &HostName) -> Option<Decision> {
        self.refused().get(name).cloned()
    }

    fn refused(&self) -> MutexGuard<'_, HashMap<HostName, Decision>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Vec<(HostName, Instant)>>> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes room: what is over, or else what is over first.
fn forget(known: &mut HashMap<IpAddr, Vec<(HostName, Instant)>>, now: Instant) {
    let last = |names: &[(HostName, Instant)]| names.iter().map(|(_, until)| *until).max();
    known.retain(|_, names| last(names) > Some(now));
    if known.len() < ADDRESSES {
        return;
    }
    let first = known.iter().min_by_key(|(_, names)| last(names));
    if let Some(address) = first.map(|(address, _)| *address) {
        known.remove(&address);
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
    async fn a_name_is_known_for_its_time() {
        let known = Known::default();
        let address = IpAddr::from([203, 0, 113, 1]);
        assert_eq!(known.names(address), []);
        known.learn(&name("a.test"), address, Duration::from_secs(60));
        known.learn(&name("b.test"), address, Duration::from_secs(60));
        known.learn(&name("a.test"), address, Duration::ZERO);
        assert_eq!(known.names(address), [name("a.test"), name("b.test")]);
        let mut inner = known.lock();
        for (_, until) in inner.get_mut(&address).unwrap() {
            *until = Instant::now();
        }
        drop(inner);
        assert_eq!(known.names(address), []);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let known = Known::default();
        for n in 0..=u32::try_from(ADDRESSES).unwrap() {
            let address = Ipv4Addr::from_bits(n).into();
            known.learn(
                &name("a.test"),
                address,
                Duration::from_secs(60 + u64::from(n)),
            );
        }
        assert_eq!(known.lock().len(), ADDRESSES);
        assert_eq!(known.names(Ipv4Addr::from_bits(0).into()), []);
        let address = IpAddr::from([203, 0, 113, 1]);
        for n in 0..=NAMES {
            known.learn(
                &name(&format!("n{n}.test")),
                address,
                Duration::from_secs(60),
            );
        }
        let names = known.names(address);
        assert_eq!((names.len(), &names[0]), (NAMES, &name("n1.test")));
    }
}
