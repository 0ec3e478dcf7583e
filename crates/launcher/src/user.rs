use std::fs;

use anyhow::Context;
use rustix::process::{Gid, Resource, Rlimit, Uid, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::launch_spec::{Limits, UID_BASE, User};

/// The user id and the group id of an ordinary user inside its user namespace.
const INNER_ID: u32 = 65534;

/// Maps only this user into the user namespace, under an id without meaning.
pub(crate) fn map_single_user((uid, gid): (Uid, Gid)) -> anyhow::Result<()> {
    const FAILED: &str = "cannot map the user into the user namespace";
    fs::write("/proc/self/setgroups", "deny").context(FAILED)?;
    fs::write("/proc/self/uid_map", format!("{INNER_ID} {uid} 1")).context(FAILED)?;
    fs::write("/proc/self/gid_map", format!("{INNER_ID} {gid} 1")).context(FAILED)
}

/// Sets the resource limits of the program. They never exceed those of the owner.
pub(crate) fn set_limits(limits: &Limits, user: User) -> anyhow::Result<()> {
    let mut values = vec![
        (Resource::Core, 0),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
        (Resource::Fsize, limits.file_bytes),
        (Resource::Nofile, limits.descriptors),
        (Resource::As, limits.address_bytes),
    ];

    // The kernel counts the threads of a user together, so the limit only makes sense for a separate user.
    if matches!(user, User::Own { .. }) {
        values.push((Resource::Nproc, limits.threads));
    }

    for (resource, value) in values {
        // The owner's own limit may be lower, and only a privileged process could raise it.
        let value = getrlimit(resource)
            .maximum
            .map_or(value, |max| max.min(value));
        let limit = Rlimit {
            current: Some(value),
            maximum: Some(value),
        };
        setrlimit(resource, limit).context("cannot set a resource limit")?;
    }
    Ok(())
}

/// Returns the user id and the group id of the program, if they are not those of this process. `pid` is the id of this
/// process on the host.
pub(crate) fn new_ids(user: User, pid: u32) -> Option<(u32, u32)> {
    match user {
        User::Own { gid } => {
            let uid = UID_BASE + pid;
            Some((uid, gid.unwrap_or(uid)))
        }
        User::Some { uid, gid } => Some((uid, gid)),
        User::Same => None,
    }
}

/// Changes to the user of the program and gives up all privileges, irreversibly. `pid` is the id of this process
/// on the host.
pub(crate) fn change_user(user: User, pid: u32) -> anyhow::Result<()> {
    // Only a process with CAP_SETPCAP can empty its bounding set.
    if has_setpcap() {
        empty_bounding_set();
        let bits = CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED
            | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
            | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
        set_capabilities_secure_bits(bits).context("cannot lock capabilities")?;
    }

    if let Some((uid, gid)) = new_ids(user, pid) {
        const FAILED: &str = "cannot change the user";
        // Groups first, since only a privileged process can drop them.
        set_thread_groups(&[]).context(FAILED)?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        set_thread_res_gid(gid, gid, gid).context(FAILED)?;
        set_thread_res_uid(uid, uid, uid).context(FAILED)?;
    }

    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    let _ = clear_ambient_capability_set();
    set_capabilities(None, sets).context("cannot drop capabilities")
}

fn has_setpcap() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SETPCAP))
}

/// Removes every capability of this kernel from the set that an exec can grant.
fn empty_bounding_set() {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        // The first unknown capability is past the last known one.
        if remove_capability_from_bounding_set(capability).is_err() {
            break;
        }
    }
}
