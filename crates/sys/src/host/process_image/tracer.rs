use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::state::{Registers, RestartableSequences, SignalAction, ThreadState};

/// How long a thread may take to stop. It takes microseconds.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Stops tracing a thread, which continues if it is stopped.
const PTRACE_DETACH: libc::c_uint = 17;

/// The encoding of the `syscall` instruction.
const SYSCALL_INSTRUCTION: [u8; 2] = [0x0f, 0x05];

/// The kernel's internal result of an interrupted call that is restarted with the same arguments.
const ERESTARTSYS: i64 = 512;

/// The calls in which a thread may wait when it is stopped. All of them may be interrupted by a signal, and callers
/// handle that. Nothing is held in vector registers at a call.
const WAITING_CALLS: [libc::c_long; 7] = [
    libc::SYS_futex,
    libc::SYS_ppoll,
    libc::SYS_poll,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
];

/// Why a process was not stopped.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// A thread was not waiting in a call that can be restarted. Later it may.
    #[error("thread {thread} is busy ({what})")]
    Busy {
        /// Its id.
        thread: i32,
        /// Its activity.
        what: String,
    },
    /// The kernel does not permit it, or the process has ended.
    #[error("cannot trace the process: {0}")]
    Os(#[from] io::Error),
}

/// A process whose threads are all stopped and waited in a system call. Dropping it lets them continue, as after a
/// signal. It can be used only by the thread that created it, since tracing belongs to a thread.
#[derive(Debug)]
pub struct StoppedProcess {
    pid: i32,
    /// The first one is the main thread.
    threads: Vec<StoppedThread>,
    memory: File,
    _one_thread: PhantomData<*const ()>,
}

#[derive(Debug)]
struct StoppedThread {
    id: i32,
    /// As the kernel reported them.
    registers: libc::user_regs_struct,
    /// Whether it was made to make other calls, so that its own one is not continued by the kernel any more.
    has_made_calls: bool,
}

impl StoppedProcess {
    /// Stops all threads of a process. If one of them is not waiting, all continue.
    ///
    /// # Errors
    /// [`StopError`].
    pub fn stop(pid: u32) -> Result<Self, StopError> {
        let pid = i32::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let memory = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"))?;
        let mut process = Self {
            pid,
            threads: Vec::new(),
            memory,
            _one_thread: PhantomData,
        };

        // A thread that runs may start another one meanwhile: look again until all are stopped.
        loop {
            let new: Vec<i32> = thread_ids(pid)?
                .into_iter()
                .filter(|id| process.threads.iter().all(|known| known.id != *id))
                .collect();
            if new.is_empty() {
                break;
            }
            for id in new {
                process.stop_thread(id)?;
            }
        }

        process
            .threads
            .sort_by_key(|thread| (thread.id != pid, thread.id));
        for thread in &process.threads {
            process.check_waits(thread)?;
        }
        Ok(process)
    }

    /// Returns the memory of the process.
    #[must_use]
    pub fn memory(&self) -> &File {
        &self.memory
    }

    /// Returns the state of all threads, the main thread first. Each continues as if a signal had interrupted its call.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn threads(&mut self) -> io::Result<Vec<ThreadState>> {
        (0..self.threads.len())
            .map(|at| self.thread_state(at))
            .collect()
    }

    /// Returns how signals are handled whose action is not the default one.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn signal_actions(&mut self) -> io::Result<Vec<SignalAction>> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let set = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
                .ok_or_else(|| io::Error::other(format!("/proc/{}/status has no {name}", self.pid)))
        };
        let changed = set("SigCgt:")? | set("SigIgn:")?;

        let signals = (1..=64).filter(|signal| changed >> (signal - 1) & 1 == 1);
        signals
            .map(|signal| {
                let action: [u64; 4] = self.query(0, |address| {
                    (libc::SYS_rt_sigaction, [u64::from(signal), 0, address, 8])
                })?;
                let [handler, flags, restorer, mask] = action;
                Ok(SignalAction {
                    signal,
                    handler,
                    flags,
                    restorer,
                    mask,
                })
            })
            .collect()
    }

    /// Returns where the heap ends that grows in place.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn heap_end(&mut self) -> io::Result<u64> {
        let thread = &mut self.threads[0];
        let request = call_request(&thread.registers, libc::SYS_brk, [0; 4]);
        let end = thread.make_call(&request)?;
        Ok(end.cast_unsigned())
    }

    fn stop_thread(&mut self, id: i32) -> Result<(), StopError> {
        const PTRACE_SEIZE: libc::c_uint = 0x4206;
        const PTRACE_INTERRUPT: libc::c_uint = 0x4207;

        let seized = ptrace(PTRACE_SEIZE, id, 0, libc::PTRACE_O_TRACESYSGOOD as usize);
        if seized
            .as_ref()
            .is_err_and(|e| e.raw_os_error() == Some(libc::ESRCH))
        {
            // The thread has ended.
            return Ok(());
        }
        seized?;
        let stopped = ptrace(PTRACE_INTERRUPT, id, 0, 0)
            .and_then(|()| wait_for_stop(id))
            .and_then(|()| registers(id));
        match stopped {
            Ok(registers) => {
                self.threads.push(StoppedThread {
                    id,
                    registers,
                    has_made_calls: false,
                });
                Ok(())
            }
            Err(error) => {
                // Otherwise it stays stopped until this thread ends.
                let _ = ptrace(PTRACE_DETACH, id, 0, 0);
                Err(error.into())
            }
        }
    }

    /// Checks that a thread waits in a call that it can repeat.
    fn check_waits(&self, thread: &StoppedThread) -> Result<(), StopError> {
        let busy = |what: String| StopError::Busy {
            thread: thread.id,
            what,
        };

        let call = thread.registers.orig_rax.cast_signed();
        if call < 0 {
            return Err(busy("it computes".into()));
        }
        if !WAITING_CALLS.contains(&call) {
            return Err(busy(format!("in system call {call}")));
        }

        let mut instruction = [0; 2];
        let before = thread.registers.rip.wrapping_sub(2);
        self.memory.read_exact_at(&mut instruction, before)?;
        if instruction != SYSCALL_INSTRUCTION {
            return Err(busy(format!("no system call at {before:#x}")));
        }
        Ok(())
    }

    fn thread_state(&mut self, at: usize) -> io::Result<ThreadState> {
        let StoppedThread { id, registers, .. } = &self.threads[at];
        let id = *id;
        let interrupted = as_interrupted(*registers);

        let [clear_on_exit] = self.query(at, |address| {
            const PR_GET_TID_ADDRESS: u64 = 40;
            (libc::SYS_prctl, [PR_GET_TID_ADDRESS, address, 0, 0])
        })?;
        let robust_list = robust_list(id)?;
        let floating_point = floating_point_registers(id)?;
        let name = std::fs::read_to_string(format!("/proc/{}/task/{id}/comm", self.pid))?;

        Ok(ThreadState {
            registers: Registers::new(&interrupted),
            clear_on_exit,
            robust_list,
            restartable_sequences: restartable_sequences(id)?,
            signal_mask: signal_mask(id)?,
            floating_point_control: floating_point.cwd,
            vector_control: floating_point.mxcsr,
            name: name.trim_end().to_string(),
        })
    }

    /// Lets a thread make a call that writes `N` numbers to the address that `call` gets, and returns them.
    fn query<const N: usize>(
        &mut self,
        at: usize,
        call: impl FnOnce(u64) -> (libc::c_long, [u64; 4]),
    ) -> io::Result<[u64; N]> {
        let registers = &self.threads[at].registers;

        // Below the stack and its red zone, nothing is in use.
        let address = registers.rsp.wrapping_sub(4096) & !63;
        let (number, arguments) = call(address);
        let request = call_request(registers, number, arguments);

        let mut before = [0; 64];
        self.memory.read_exact_at(&mut before, address)?;
        let result = self.threads[at].make_call(&request);
        let mut answer = [0; 64];
        self.memory.read_exact_at(&mut answer, address)?;
        self.memory.write_all_at(&before, address)?;

        match result? {
            0 => {}
            error => {
                return Err(io::Error::from_raw_os_error(
                    i32::try_from(-error).unwrap_or(libc::EINVAL),
                ));
            }
        }
        let numbers = answer.as_chunks::<8>().0;
        Ok(std::array::from_fn(|n| u64::from_ne_bytes(numbers[n])))
    }
}

impl Drop for StoppedProcess {
    fn drop(&mut self) {
        for thread in &self.threads {
            // A thread that was only looked at, which may compute, is left as it is. Both fail only if it has been killed.
            if thread.has_made_calls {
                let _ = set_registers(thread.id, &as_interrupted(thread.registers));
            }
            let _ = ptrace(PTRACE_DETACH, thread.id, 0, 0);
        }
    }
}

/// Returns the registers of a thread whose call was interrupted by a signal: a call without a time limit is made
/// again, any other one returns `EINTR`.
fn as_interrupted(mut registers: libc::user_regs_struct) -> libc::user_regs_struct {
    let is_restarted = registers.rax.cast_signed() == -ERESTARTSYS
        && registers.orig_rax == libc::SYS_futex.cast_unsigned();
    if is_restarted {
        registers.rax = registers.orig_rax;
        registers.rip = registers.rip.wrapping_sub(2);
    } else {
        registers.rax = i64::from(-libc::EINTR).cast_unsigned();
    }
    registers.orig_rax = u64::MAX;
    registers
}

fn thread_ids(pid: i32) -> io::Result<Vec<i32>> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task"))?;
    let mut ids = Vec::new();
    for entry in entries {
        ids.extend(
            entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<i32>().ok()),
        );
    }
    Ok(ids)
}

/// Returns the registers of a thread that makes another call than the one in which it waits.
fn call_request(
    registers: &libc::user_regs_struct,
    number: libc::c_long,
    arguments: [u64; 4],
) -> libc::user_regs_struct {
    let mut request = *registers;
    request.rip = request.rip.wrapping_sub(2);
    request.rax = number.cast_unsigned();
    request.orig_rax = u64::MAX;
    [request.rdi, request.rsi, request.rdx, request.r10] = arguments;
    request
}

impl StoppedThread {
    /// Runs to the end of the call that these registers prepare, and returns the result of the call.
    fn make_call(&mut self, request: &libc::user_regs_struct) -> io::Result<i64> {
        const PTRACE_SYSCALL: libc::c_uint = 24;
        self.has_made_calls = true;
        set_registers(self.id, request)?;
        // At its start, and at its end.
        for _ in 0..2 {
            ptrace(PTRACE_SYSCALL, self.id, 0, 0)?;
            wait_for_stop(self.id)?;
        }
        Ok(registers(self.id)?.rax.cast_signed())
    }
}

/// Waits until a thread of another process, which this thread traces, stops. Its end is left to the one who waits for it.
fn wait_for_stop(id: i32) -> io::Result<()> {
    let start = Instant::now();
    loop {
        if has_changed(id, libc::WSTOPPED)? {
            return Ok(());
        }
        if has_changed(id, libc::WEXITED | libc::WNOWAIT)? {
            return Err(io::Error::other("the process has ended"));
        }
        if start.elapsed() > STOP_TIMEOUT {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_micros(20));
    }
}

/// Returns whether a thread is in the state that the options of `waitid` name.
fn has_changed(id: i32, state: libc::c_int) -> io::Result<bool> {
    let options = state | libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG;
    // SAFETY: the structure consists of numbers, and is valid for the call, which fills it.
    let (result, info) = unsafe {
        let mut info = std::mem::zeroed::<libc::siginfo_t>();
        let result = libc::waitid(libc::P_PID, id.cast_unsigned(), &raw mut info, options);
        (result, info)
    };
    match result {
        // SAFETY: the call has set it, to 0 if nothing was reported.
        0 => Ok(unsafe { info.si_pid() } != 0),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            error => Err(error),
        },
    }
}

fn ptrace(request: libc::c_uint, id: i32, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: the requests that use this function take numbers, or a pointer that is valid for the call.
    match unsafe { libc::ptrace(request, id, address, data) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Reads a structure of a thread that the request writes to its fourth argument.
///
/// # Safety
/// The request writes a whole `T`, and every value of its bytes is a `T`.
unsafe fn read_structure<T>(request: libc::c_uint, id: i32, address: usize) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    // The kernel returns the number of bytes for some requests, and 0 for others.
    ptrace(request, id, address, value.as_mut_ptr() as usize)?;
    // SAFETY: the caller guarantees that it is initialized.
    Ok(unsafe { value.assume_init() })
}

fn registers(id: i32) -> io::Result<libc::user_regs_struct> {
    const PTRACE_GETREGS: libc::c_uint = 12;
    // SAFETY: this request writes the structure, which consists of numbers.
    unsafe { read_structure(PTRACE_GETREGS, id, 0) }
}

fn set_registers(id: i32, registers: &libc::user_regs_struct) -> io::Result<()> {
    const PTRACE_SETREGS: libc::c_uint = 13;
    ptrace(
        PTRACE_SETREGS,
        id,
        0,
        std::ptr::from_ref(registers) as usize,
    )
}

fn floating_point_registers(id: i32) -> io::Result<libc::user_fpregs_struct> {
    const PTRACE_GETFPREGS: libc::c_uint = 14;
    // SAFETY: this request writes the structure, which consists of numbers.
    unsafe { read_structure(PTRACE_GETFPREGS, id, 0) }
}

fn signal_mask(id: i32) -> io::Result<u64> {
    const PTRACE_GETSIGMASK: libc::c_uint = 0x420a;
    // SAFETY: this request writes as many bytes as the address says.
    unsafe { read_structure(PTRACE_GETSIGMASK, id, size_of::<u64>()) }
}

/// Returns the registration of restartable sequences of a thread; all zeros if it has none.
fn restartable_sequences(id: i32) -> io::Result<RestartableSequences> {
    const PTRACE_GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;

    #[repr(C)]
    struct Configuration {
        address: u64,
        bytes: u32,
        signature: u32,
        flags: u32,
        padding: u32,
    }

    let size = size_of::<Configuration>();
    // SAFETY: this request writes the structure, which consists of numbers.
    let Configuration {
        address,
        bytes,
        signature,
        ..
    } = unsafe { read_structure(PTRACE_GET_RSEQ_CONFIGURATION, id, size)? };
    Ok(RestartableSequences {
        address,
        bytes,
        signature,
    })
}

/// Returns address and size of the list of locks that the kernel releases when a thread dies.
fn robust_list(id: i32) -> io::Result<(u64, u64)> {
    let (mut head, mut bytes) = (0_usize, 0_usize);
    // SAFETY: both are valid for the call.
    let result =
        unsafe { libc::syscall(libc::SYS_get_robust_list, id, &raw mut head, &raw mut bytes) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok((head as u64, bytes as u64)),
    }
}
