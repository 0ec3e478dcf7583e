use std::time::Duration;

use kvm_bindings::{kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use rustix::time::{ClockId, clock_gettime};

/// The result of running a guest of a hundred thousand instructions a few times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvmProbe {
    /// The processor time of the fastest run.
    pub fastest: Duration,
}

impl KvmProbe {
    /// The number of instructions that the guest executes.
    pub const INSTRUCTIONS: u32 = 100_000;

    /// Above this time, the guest did not run on the CPU itself.
    ///
    /// If the hypervisor below emulates guest kernel mode, an instruction takes 0.63 µs (measured) and a run 63 ms. On
    /// hardware a run takes well under 1 ms.
    const HARDWARE_LIMIT: Duration = Duration::from_millis(10);

    /// A run that is disturbed takes longer, and none takes less than the CPU needs: the fastest of this many counts.
    const MAX_RUNS: usize = 5;

    /// Returns whether the guest ran on the CPU itself.
    #[must_use]
    pub fn is_hardware(&self) -> bool {
        self.fastest < Self::HARDWARE_LIMIT
    }
}

/// The size of guest memory: one page, in bytes.
const PAGE: usize = 4096;

/// 16-bit code of the guest: `mov ecx, 50000; loop: dec ecx; jnz loop; hlt`.
const CODE: [u8; 11] = [
    0x66, 0xb9, 0x50, 0xc3, 0x00, 0x00, 0x66, 0x49, 0x75, 0xfc, 0xf4,
];

/// Opens `/dev/kvm` as the probe and QEMU do.
///
/// # Errors
/// A message: the device is missing, or this user may not open it.
pub fn open_kvm() -> Result<(), String> {
    Kvm::new()
        .map(drop)
        .map_err(|e| format!("cannot open /dev/kvm: {e}"))
}

/// Runs a tiny guest on `/dev/kvm` until one run is as fast as hardware, or a few times, and measures the processor time
/// of the runs.
///
/// # Errors
/// A message with the failed step: the device is missing, may not be opened, or cannot run a guest.
pub fn probe_kvm() -> Result<KvmProbe, String> {
    let memory =
        Memory::new().map_err(|e| format!("cannot allocate memory for a probe guest: {e}"))?;
    let kvm = Kvm::new().map_err(|e| format!("cannot open /dev/kvm: {e}"))?;
    let vm = kvm
        .create_vm()
        .map_err(|e| format!("KVM cannot create a VM: {e}"))?;

    let region = kvm_userspace_memory_region {
        slot: 0,
        guest_phys_addr: 0,
        memory_size: PAGE as u64,
        userspace_addr: memory.0 as u64,
        flags: 0,
    };
    // SAFETY: the region is one private anonymous page that lives until `memory` is dropped, which
    // is after `vm` (declared later) is gone; nothing else uses it.
    unsafe { vm.set_user_memory_region(region) }
        .map_err(|e| format!("KVM rejects guest memory: {e}"))?;

    let mut vcpu = vm
        .create_vcpu(0)
        .map_err(|e| format!("KVM cannot create a vCPU: {e}"))?;
    let registers = prepare(&vcpu)?;

    fastest_run(|| run_once(&mut vcpu, &registers))
}

/// Sets up real mode, with code at address 0. Returns the registers at the start of the code.
fn prepare(vcpu: &VcpuFd) -> Result<kvm_regs, String> {
    const UNREADABLE: &str = "KVM does not return registers";
    let mut sregs = vcpu.get_sregs().map_err(|e| format!("{UNREADABLE}: {e}"))?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    vcpu.set_sregs(&sregs)
        .map_err(|e| format!("KVM rejects registers: {e}"))?;

    let mut regs = vcpu.get_regs().map_err(|e| format!("{UNREADABLE}: {e}"))?;
    regs.rip = 0;
    regs.rflags = 2;
    Ok(regs)
}

/// Runs the guest from its start to its halt; returns the processor time of this thread.
fn run_once(vcpu: &mut VcpuFd, registers: &kvm_regs) -> Result<Duration, String> {
    vcpu.set_regs(registers)
        .map_err(|e| format!("KVM rejects registers: {e}"))?;

    let start = thread_time();
    match vcpu.run() {
        Ok(VcpuExit::Hlt) => Ok(thread_time().saturating_sub(start)),
        Ok(other) => Err(format!(
            "a probe guest stopped with {other:?} instead of halting"
        )),
        Err(e) => Err(format!("KVM cannot run a probe guest: {e}")),
    }
}

/// The processor time of this thread, guests included. Unlike the time of day, it does not advance while others run.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Returns the fastest of a few runs, the last of which is the first that is as fast as hardware.
fn fastest_run(mut run: impl FnMut() -> Result<Duration, String>) -> Result<KvmProbe, String> {
    let mut probe = KvmProbe { fastest: run()? };
    for _ in 1..KvmProbe::MAX_RUNS {
        if probe.is_hardware() {
            break;
        }
        probe.fastest = probe.fastest.min(run()?);
    }

    Ok(probe)
}

struct Memory(*mut std::ffi::c_void);

impl Memory {
    fn new() -> rustix::io::Result<Self> {
        // SAFETY: a new private mapping at an address chosen by the kernel aliases nothing.
        let page = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                PAGE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?
        };

        // SAFETY: the page is PAGE bytes long, writable, and not shared yet.
        unsafe { std::ptr::copy_nonoverlapping(CODE.as_ptr(), page.cast::<u8>(), CODE.len()) };
        Ok(Self(page))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length and is unmapped once.
        let _ = unsafe { munmap(self.0, PAGE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On every machine the probe returns a result, and neither hangs nor crashes.
    #[test]
    fn the_probe_returns_a_result() {
        match probe_kvm() {
            Ok(probe) => println!(
                "the fastest probe guest took {:?}; hardware: {}",
                probe.fastest,
                probe.is_hardware()
            ),
            Err(reason) => assert!(!reason.is_empty()),
        }
    }

    /// The runs of a guest with these times, in ms: the fastest, and how many there were.
    fn measured(times: &[u64]) -> (KvmProbe, usize) {
        let mut times = times.iter().copied();
        let mut runs = 0;
        let probe = fastest_run(|| {
            runs += 1;
            Ok(Duration::from_millis(times.next().unwrap()))
        });

        (probe.unwrap(), runs)
    }

    #[test]
    fn time_in_which_others_run_does_not_count() {
        let start = thread_time();
        std::thread::sleep(Duration::from_millis(200));
        let took = thread_time().saturating_sub(start);
        assert!(took < Duration::from_millis(100), "{took:?}");
    }

    #[test]
    fn one_fast_run_shows_hardware() {
        let (probe, runs) = measured(&[0, 60]);
        assert_eq!((probe.is_hardware(), runs), (true, 1));

        let (probe, runs) = measured(&[12, 40, 11, 1, 60]);
        assert_eq!((probe.is_hardware(), runs), (true, 4));
    }

    #[test]
    fn emulation_is_slow_each_time() {
        let (probe, runs) = measured(&[63, 70, 64, 63, 90]);
        assert_eq!((probe.is_hardware(), runs), (false, 5));
        assert_eq!(probe.fastest, Duration::from_millis(63));
    }
}
