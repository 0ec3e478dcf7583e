use std::fs;

use rustix::process::{Gid, Resource, Uid, getrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, no_new_privs, set_capabilities, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

use crate::breaches::{Breaches, succeeded};

/// Returns whether a launcher has dropped the privileges of this process. (Its capabilities are checked from outside,
/// since the filter does not let a process read them.)
pub(crate) fn has_dropped_privileges() -> bool {
    no_new_privs().unwrap_or(false) && !rustix::process::geteuid().is_root()
}

/// Tries to gain privileges.
pub(crate) fn privileges() -> Breaches {
    let (root, group) = (Uid::ROOT, Gid::ROOT);
    let all = CapabilitySet::all();
    let sets = CapabilitySets {
        effective: all,
        permitted: all,
        inheritable: all,
    };

    let mut breaches = succeeded(
        [
            ("setresuid 0", set_thread_res_uid(root, root, root)),
            ("setresgid 0", set_thread_res_gid(group, group, group)),
            ("setgroups", set_thread_groups(&[group])),
            ("capset", set_capabilities(None, sets)),
        ]
        .map(|(name, result)| (name.to_string(), result)),
    );

    if !no_new_privs().unwrap_or(false) {
        breaches.push("new privileges are not forbidden".into());
    }

    breaches
}

/// Looks for information about the host, and for an identity with more rights than intended.
pub(crate) fn identity() -> Breaches {
    let mut breaches = Breaches::new();
    let mut expect = |holds: bool, breach: String| {
        if !holds {
            breaches.push(breach);
        }
    };

    let uid = rustix::process::getuid();
    expect(!uid.is_root(), "it is root".into());
    let pid = std::process::id();
    expect(
        pid == 1,
        format!("it is process {pid}, not the first of its own namespace"),
    );

    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy().into_owned();
    expect(name == "fumehood", format!("the host's name is {name}"));
    let variables: Vec<_> = std::env::vars().map(|(name, _)| name).collect();
    expect(variables.is_empty(), format!("variables: {variables:?}"));

    for (name, resource, max) in [
        ("core", Resource::Core, 0),
        ("memlock", Resource::Memlock, 0),
        ("fsize", Resource::Fsize, 16 << 20),
        ("nofile", Resource::Nofile, 1024),
    ] {
        let limit = getrlimit(resource).maximum;
        expect(
            limit.is_some_and(|limit| limit <= max),
            format!("the limit {name} is {limit:?}"),
        );
    }

    let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let named = cgroup.lines().filter(|line| line.contains("fumehood-"));
    expect(
        named.count() == 0,
        "the name of its cgroup is visible".into(),
    );

    breaches
}
