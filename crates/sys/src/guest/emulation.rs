use std::arch::x86_64::__cpuid;

/// The CPUID leaf with the name of the hypervisor.
const HYPERVISOR_LEAF: u32 = 0x4000_0000;
/// The bit of leaf 1's ecx that is set under a hypervisor.
const HAS_HYPERVISOR: u32 = 1 << 31;
const TCG: [u8; 12] = *b"TCGTCGTCGTCG";

/// Returns whether QEMU emulates this processor in software. Some instructions that are fast on hardware are
/// slow there.
#[must_use]
#[allow(unused_unsafe, reason = "it has become safe in newer compilers")]
pub fn is_emulated() -> bool {
    // SAFETY: every x86-64 processor has this instruction and leaf 1.
    let features = unsafe { __cpuid(1) };
    if features.ecx & HAS_HYPERVISOR == 0 {
        return false;
    }

    // SAFETY: as above; a missing leaf returns other numbers.
    let name = unsafe { __cpuid(HYPERVISOR_LEAF) };
    let words = [name.ebx, name.ecx, name.edx].map(u32::to_le_bytes);
    words.concat() == TCG
}
