//! The filter of system calls around QEMU.
//!
//! It allows the calls of a glibc program that computes, maps memory, runs threads, and reads and writes its own
//! descriptors. All others return `ENOSYS`, as if they did not exist: mounts, namespaces, memory and descriptors of
//! other processes, tracing, keys, BPF, performance counters, `io_uring`, `userfaultfd`, modules, clocks, new sockets,
//! users and groups, new processes, and everything that later kernels add. So do allowed calls with arguments that
//! QEMU does not need.
//!
//! The list is wider than the calls observed of one QEMU, since other versions and KVM must run as well. A list of
//! forbidden calls would be shorter, but would allow every call that it overlooks, starting with the second numbering
//! of x32.

mod calls;
mod condition;

use std::collections::BTreeMap;

use anyhow::Context;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch, apply_filter,
    sock_filter,
};

use calls::{CONDITIONAL, KVM_IOCTL, STARTUP, UNCONDITIONAL};
use condition::Condition;

/// The rules of each call; an empty list allows all arguments.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The rules for the process with this id.
fn rules(pid: u32, kvm: bool) -> Result<Rules, BackendError> {
    let mut rules: Rules = UNCONDITIONAL
        .iter()
        .map(|&(_, number)| (number, Vec::new()))
        .collect();

    for ((_, number), alternatives) in CONDITIONAL {
        let compiled = alternatives.iter().map(|conditions| rule(conditions, pid));
        rules.insert(*number, compiled.collect::<Result<_, _>>()?);
    }

    if kvm {
        let ioctl = rules.entry(libc::SYS_ioctl).or_default();
        ioctl.push(rule(KVM_IOCTL, pid)?);
    }
    Ok(rules)
}

fn rule(conditions: &[Condition], pid: u32) -> Result<SeccompRule, BackendError> {
    let compiled = conditions.iter().map(|condition| condition.compile(pid));
    SeccompRule::new(compiled.collect::<Result<_, _>>()?)
}

fn compile(rules: Rules) -> Result<BpfProgram, BackendError> {
    let otherwise = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let filter = SeccompFilter::new(rules, otherwise, SeccompAction::Allow, TargetArch::x86_64)?;
    filter.try_into()
}

/// Why a process gets no filter.
const FAILED: &str = "cannot filter system calls";

/// Applies the filter to this process, irreversibly. `kvm` allows the calls of `/dev/kvm`.
pub(crate) fn apply(kvm: bool) -> anyhow::Result<()> {
    // The id that this process has in its own namespace, as its calls name it.
    let pid = std::process::id();
    let rules = rules(pid, kvm).context(FAILED)?;
    apply_filter(&compile(rules).context(FAILED)?).context(FAILED)
}

/// Returns the filter for a process that continues and has started already, as the instructions of a BPF program.
pub(crate) fn without_startup() -> anyhow::Result<Vec<u8>> {
    let mut rules = rules(std::process::id(), false).context(FAILED)?;
    for (_, number) in STARTUP {
        rules.remove(number);
    }

    let program = compile(rules).context(FAILED)?;
    let encode = |instruction: &sock_filter| {
        let mut bytes = [0; 8];
        bytes[..2].copy_from_slice(&instruction.code.to_ne_bytes());
        bytes[2] = instruction.jt;
        bytes[3] = instruction.jf;
        bytes[4..].copy_from_slice(&instruction.k.to_ne_bytes());
        bytes
    };
    Ok(program.iter().flat_map(encode).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names() -> impl Iterator<Item = &'static str> {
        let conditional = CONDITIONAL.iter().map(|(call, _)| call);
        UNCONDITIONAL
            .iter()
            .chain(conditional)
            .map(|(name, _)| *name)
    }

    #[test]
    fn the_filter_compiles_and_is_small_enough() {
        let [without, with] = [false, true].map(|kvm| compile(rules(1, kvm).unwrap()).unwrap());
        assert!(without.len() > UNCONDITIONAL.len());
        assert!((without.len()..4096).contains(&with.len()));
    }

    #[test]
    fn no_call_is_listed_twice() {
        let distinct: BTreeSet<_> = names().collect();
        assert_eq!(distinct.len(), names().count());
    }

    #[test]
    fn the_documentation_reviews_exactly_the_allowed_calls() {
        let page = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/design/system-calls.md"
        );
        let page = std::fs::read_to_string(page).unwrap();
        let first_cells = page.lines().filter_map(|line| line.split('|').nth(1));
        let reviewed: BTreeSet<_> = first_cells
            .flat_map(|cell| cell.split('`').skip(1).step_by(2))
            .map(|name| format!("SYS_{name}"))
            .collect();
        let allowed: BTreeSet<_> = names().map(str::to_owned).collect();
        assert_eq!(reviewed, allowed);
    }

    #[test]
    fn calls_that_affect_other_processes_or_the_host_are_not_allowed() {
        let rules = rules(1, true).unwrap();
        for call in [
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_open,
            libc::SYS_pidfd_getfd,
            libc::SYS_kill,
            libc::SYS_mount,
            libc::SYS_fsopen,
            libc::SYS_open_tree,
            libc::SYS_move_mount,
            libc::SYS_mount_setattr,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_clone3,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_execveat,
            libc::SYS_bpf,
            libc::SYS_userfaultfd,
            libc::SYS_perf_event_open,
            libc::SYS_io_uring_setup,
            libc::SYS_add_key,
            libc::SYS_keyctl,
            libc::SYS_request_key,
            libc::SYS_open_by_handle_at,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_kexec_load,
            libc::SYS_personality,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_setuid,
            libc::SYS_setresuid,
            libc::SYS_setgroups,
            libc::SYS_capset,
            libc::SYS_socketpair,
            libc::SYS_setpriority,
            libc::SYS_sched_setaffinity,
            libc::SYS_sched_setscheduler,
            libc::SYS_sched_setattr,
            libc::SYS_setrlimit,
            libc::SYS_flock,
        ] {
            assert!(!rules.contains_key(&call), "{call}");
        }
    }
}
