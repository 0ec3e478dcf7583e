use std::fs;

use rustix::process::{Gid, Resource, Rlimit, Uid, setrlimit};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::because::Because;
use crate::order::{Limits, UID_BASE, User};

/// The user and the group that an ordinary user is inside its user namespace.
const INSIDE: u32 = 65534;

/// Makes the user namespace one that knows this user alone, under a number that means nothing.
pub(crate) fn alone((uid, gid): (Uid, Gid)) -> Result<(), String> {
    let what = "the user namespace cannot be given its user";
    fs::write("/proc/self/setgroups", "deny").because(what)?;
    fs::write("/proc/self/uid_map", format!("{INSIDE} {uid} 1")).because(what)?;
    fs::write("/proc/self/gid_map", format!("{INSIDE} {gid} 1")).because(what)
}

/// Sets what the program may take.
pub(crate) fn bound(limits: &Limits, user: User) -> Result<(), String> {
    let mut bounds = vec![
        (Resource::Core, 0),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
        (Resource::Fsize, limits.file_bytes),
        (Resource::Nofile, limits.descriptors),
        (Resource::As, limits.address_bytes),
    ];
    // The threads of one user are counted together: others' would be in the way.
    if matches!(user, User::Own { .. }) {
        bounds.push((Resource::Nproc, limits.threads));
    }
    for (resource, most) in bounds {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit).because("a limit cannot be set")?;
    }
    Ok(())
}

/// Gives up all privileges, for good, and becomes the program's user. `process` is the number of this
/// process for the host.
pub(crate) fn become_user(user: User, process: u32) -> Result<(), String> {
    // Who has no capabilities, or may not give up those of others, has no bounding set to empty.
    if holds_capabilities() {
        close_bounding_set();
        let bits = CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED
            | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
            | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
        set_capabilities_secure_bits(bits).because("capabilities cannot be locked")?;
    }
    let ids = match user {
        User::Own { gid } => {
            let own = UID_BASE + process;
            Some((own, gid.unwrap_or(own)))
        }
        User::Some { uid, gid } => Some((uid, gid)),
        User::Same => None,
    };
    if let Some((uid, gid)) = ids {
        let what = "the user cannot be changed";
        // Groups first: they can be dropped only while privileged.
        set_thread_groups(&[]).because(what)?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        set_thread_res_gid(gid, gid, gid).because(what)?;
        set_thread_res_uid(uid, uid, uid).because(what)?;
    }
    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    let _ = clear_ambient_capability_set();
    set_capabilities(None, sets).because("capabilities cannot be given up")
}

fn holds_capabilities() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SETPCAP))
}

/// Takes every capability that this kernel has out of what an exec could give.
fn close_bounding_set() {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        // The first that the kernel does not know is past the last.
        if remove_capability_from_bounding_set(capability).is_err() {
            break;
        }
    }
}
