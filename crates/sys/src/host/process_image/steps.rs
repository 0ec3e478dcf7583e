use std::arch::{asm, global_asm};
use std::io;

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};

/// The first address of the memory in which a continuation is prepared. It stays mapped in the continued process, so no
/// image may have anything there: 32 GiB. Programs at fixed addresses start at 4 MiB, and their heaps within the next GiB.
/// Other programs, libraries and stacks are far above.
pub const CONTINUATION_START: u64 = 32 << 30;
/// The size of that memory, in bytes. Only what is used takes memory.
pub const CONTINUATION_BYTES: u64 = 16 << 20;

// A heap of a program at a fixed address starts up to 1 GiB above it, and the launcher is such a program.
const _: () = assert!(CONTINUATION_START >= 2 << 30);

/// Where the parts of that memory start: code, steps, data that the steps refer to, and a place for mappings of the kernel.
pub(super) const STEPS_START: u64 = CONTINUATION_START + PAGE;
pub(super) const DATA_START: u64 = CONTINUATION_START + (4 << 20);
pub(super) const KERNEL_PARKING: u64 = CONTINUATION_START + (12 << 20);

const PAGE: u64 = 4096;

/// One step of a continuation: a system call, or something that is marked by a negative number in its place.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Step {
    pub(super) number: i64,
    pub(super) arguments: [u64; 6],
    /// For `clone`: the address of the steps of the new thread.
    pub(super) steps_of_thread: u64,
    /// The address of a message for the case that the call fails: its length, then its bytes.
    pub(super) message: u64,
}

/// Instead of a call: stores the second argument, 32 bits, at the address in the first one.
pub(super) const STORE: i64 = -1;

// Executes steps, from the one at `rbx`, until a thread returns to its registers. It uses no memory but the steps: the
// memory of the program that prepared them, its stack too, is gone. A failed call writes its message to standard error and
// ends the process with the number of the error.
global_asm!(
    ".pushsection .text.fumehood_continuation, \"ax\"",
    ".hidden fumehood_continuation_code",
    ".hidden fumehood_continuation_code_end",
    ".globl fumehood_continuation_code",
    ".globl fumehood_continuation_code_end",
    "fumehood_continuation_code:",
    "2:",
    "mov rax, [rbx]",
    "mov rdi, [rbx + 8]",
    "mov rsi, [rbx + 16]",
    "mov rdx, [rbx + 24]",
    "mov r10, [rbx + 32]",
    "mov r8, [rbx + 40]",
    "mov r9, [rbx + 48]",
    "cmp rax, {store}",
    "je 4f",
    "cmp rax, {sigreturn}",
    "je 5f",
    "syscall",
    "cmp rax, -4095",
    "jae 6f",
    "test rax, rax",
    "jnz 3f",
    "cmp qword ptr [rbx], {clone}",
    "jne 3f",
    // The new thread has its own steps.
    "mov rbx, [rbx + 56]",
    "jmp 2b",
    "3:",
    "add rbx, {step_bytes}",
    "jmp 2b",
    "4:",
    "mov dword ptr [rdi], esi",
    "jmp 3b",
    "5:",
    "mov rsp, rdi",
    "syscall",
    "hlt",
    "6:",
    "mov r12, rax",
    "mov rsi, [rbx + 64]",
    "mov rdx, [rsi]",
    "add rsi, 8",
    "mov edi, 2",
    "mov eax, {write}",
    "syscall",
    "mov rdi, r12",
    "neg rdi",
    "mov eax, {exit_group}",
    "syscall",
    "hlt",
    "fumehood_continuation_code_end:",
    ".popsection",
    store = const STORE,
    sigreturn = const libc::SYS_rt_sigreturn,
    clone = const libc::SYS_clone,
    write = const libc::SYS_write,
    exit_group = const libc::SYS_exit_group,
    step_bytes = const size_of::<Step>(),
);

unsafe extern "C" {
    static fumehood_continuation_code: u8;
    static fumehood_continuation_code_end: u8;
}

/// Replaces this process by executing these steps, which may refer to `data` by its addresses from [`DATA_START`].
///
/// # Errors
/// Returns only on failure: `InvalidInput` if there are too many steps or too much data; the error of the operating system.
pub(super) fn execute(steps: &[Step], data: &[u8]) -> io::Error {
    match place(steps, data) {
        // SAFETY: the steps and everything they refer to are in place, and are executed by code that lies there too.
        // The caller guarantees that this process has one thread, whose stack and heap are not used any more.
        Ok(()) => unsafe {
            asm!(
                "mov rbx, rsi",
                "jmp rdi",
                in("rsi") STEPS_START,
                in("rdi") CONTINUATION_START,
                options(noreturn)
            )
        },
        Err(error) => error,
    }
}

/// Copies code, steps and data to where they are executed.
fn place(steps: &[Step], data: &[u8]) -> io::Result<()> {
    let steps_bytes = size_of_val(steps);
    let fits = STEPS_START + steps_bytes as u64 <= DATA_START
        && DATA_START + data.len() as u64 <= KERNEL_PARKING;
    if !fits {
        return Err(io::ErrorKind::InvalidInput.into());
    }

    let start = std::ptr::without_provenance_mut::<libc::c_void>(address(CONTINUATION_START));
    let readable = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE | MapFlags::NORESERVE;
    // SAFETY: the kernel refuses the address if anything is mapped there, so the mapping replaces no memory.
    let region = unsafe {
        mmap_anonymous(
            start,
            address(KERNEL_PARKING - CONTINUATION_START),
            readable,
            flags,
        )?
    }
    .cast::<u8>();

    // SAFETY: the mapping is new, and large enough for each part, as checked above. Code and its end are symbols in
    // one section.
    unsafe {
        let code = &raw const fumehood_continuation_code;
        let code_bytes = (&raw const fumehood_continuation_code_end).offset_from_unsigned(code);
        std::ptr::copy_nonoverlapping(code, region, code_bytes);
        let to_steps = region.add(address(STEPS_START - CONTINUATION_START));
        std::ptr::copy_nonoverlapping(steps.as_ptr().cast(), to_steps, steps_bytes);
        let to_data = region.add(address(DATA_START - CONTINUATION_START));
        std::ptr::copy_nonoverlapping(data.as_ptr(), to_data, data.len());
        mprotect(
            region.cast(),
            address(PAGE),
            MprotectFlags::READ | MprotectFlags::EXEC,
        )?;
    }
    Ok(())
}

const fn address(value: u64) -> usize {
    value as usize
}
