//! Processes are stopped and read, and steps replace the memory of a process that runs them.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{
    Continuation, Registers, RestartableSequences, StopError, StoppedProcess, ThreadState,
    kernel_mappings,
};

const DEADLINE: Duration = Duration::from_secs(20);

/// A program that is killed at the end of a test.
struct Program(Child);

impl Program {
    fn start(script: &str) -> Self {
        let mut command = Command::new("/bin/sh");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(command.args(["-c", script]).spawn().unwrap())
    }

    fn status(&self, field: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        line.unwrap().trim().to_owned()
    }

    /// Tries to stop it until `accept` says that the result is the expected one.
    fn stop_until(&self, accept: impl Fn(&Result<StoppedProcess, StopError>) -> bool) {
        let start = Instant::now();
        while !accept(&StoppedProcess::stop(self.0.id())) {
            assert!(start.elapsed() < DEADLINE, "{}", self.status("State:"));
            std::thread::yield_now();
        }
    }

    /// It is not traced any more, and runs.
    fn assert_released(&self) {
        assert_eq!(self.status("TracerPid:"), "0");
        let state = self.status("State:");
        assert!(state.starts_with(['R', 'S']), "{state}");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_that_waits_is_read_and_continues() {
    let program = Program::start("exec sleep 600");
    program.stop_until(Result::is_ok);
    program.assert_released();

    // Again: its call was interrupted before.
    let start = Instant::now();
    let threads = loop {
        if let Ok(mut stopped) = StoppedProcess::stop(program.0.id()) {
            assert!(stopped.heap_end().unwrap() > 0);
            break stopped.threads().unwrap();
        }
        assert!(start.elapsed() < DEADLINE);
    };
    let [thread] = &threads[..] else {
        panic!("{threads:?}");
    };
    assert_eq!(thread.name, "sleep");
    assert_ne!(thread.clear_on_exit, 0);
    program.assert_released();
}

#[test]
fn a_process_that_computes_is_not_stopped() {
    let program = Program::start("while :; do :; done");
    program.stop_until(|result| matches!(result, Err(StopError::Busy { .. })));
    program.assert_released();
}

/// Looking at a process that computes changes none of its registers.
#[test]
fn a_process_that_is_looked_at_while_it_computes_computes_the_same() {
    let script = "i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done; echo $i";
    let mut program = Program::start(script);
    let mut looked = 0;
    while program.0.try_wait().unwrap().is_none() {
        looked += usize::from(matches!(
            StoppedProcess::stop(program.0.id()),
            Err(StopError::Busy { .. })
        ));
    }

    let mut output = String::new();
    let mut stdout = program.0.stdout.take().unwrap();
    stdout.read_to_string(&mut output).unwrap();
    assert_eq!(output, "300000\n");
    assert!(program.0.wait().unwrap().success());
    assert!(looked > 10, "{looked}");
}

#[test]
fn a_process_in_another_call_is_not_stopped() {
    // The shell waits for a line.
    let program = Program::start("read line");
    program.stop_until(|result| match result {
        Err(StopError::Busy { what, .. }) => what.starts_with("in system call"),
        _ => false,
    });
    program.assert_released();
}

#[test]
fn a_process_that_has_ended_is_an_error() {
    let mut program = Program::start("exit 0");
    let pid = program.0.id();
    program.0.wait().unwrap();
    assert!(matches!(StoppedProcess::stop(pid), Err(StopError::Os(_))));
}

#[test]
fn mappings_of_another_kernel_are_refused() {
    let own = kernel_mappings(&std::fs::read_to_string("/proc/self/maps").unwrap());
    assert!(!own.is_empty());
    let mut other = own.clone();
    other[0].bytes += 4096;
    assert!(Continuation::new(&own, &other).is_err());
    assert!(Continuation::new(&own, &own[1..]).is_err());

    // They may be elsewhere.
    let mut moved = own.clone();
    moved.iter_mut().for_each(|mapping| mapping.address -= 4096);
    assert!(Continuation::new(&own, &moved).is_ok());
}

/// Where the code of the tests is mapped.
const CODE: u64 = 0x10_0000_0000;

/// A thread that continues at [`CODE`].
fn thread() -> ThreadState {
    let mut general = [0; 16];
    // The stack pointer.
    general[7] = CODE + 0xf00;
    ThreadState {
        registers: Registers {
            general,
            instruction: CODE,
            flags: 0x202,
            segments: [0x33, 0x2b],
            thread_pointer: 0,
        },
        clear_on_exit: CODE + 0x800,
        robust_list: (0, 0),
        restartable_sequences: RestartableSequences::default(),
        signal_mask: 0,
        floating_point_control: 0x37f,
        vector_control: 0x1f80,
        name: "continued".to_owned(),
    }
}

/// Runs a test again in a process without restartable sequences, as launchers are. Returns whether this is that process.
fn runs_without_sequences(name: &str) -> bool {
    const VARIABLE: &str = "GLIBC_TUNABLES";
    const VALUE: &str = "glibc.pthread.rseq=0";
    if std::env::var(VARIABLE).is_ok_and(|value| value == VALUE) {
        return true;
    }

    let mut command = Command::new(std::env::current_exe().unwrap());
    let test = format!("host::process_image::tests::{name}");
    command
        .args(["--exact", &test, "--nocapture"])
        .env(VARIABLE, VALUE);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{output:?}"
    );
    false
}

/// Becomes what `prepare` adds in a forked process. Returns its wait status and what it wrote to standard error.
fn become_in_fork(prepare: impl FnOnce(&mut Continuation)) -> (i32, String) {
    let (reader, writer) = std::io::pipe().unwrap();
    // SAFETY: the child has one thread, and the C library makes its allocator usable there.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: both descriptors are open.
        unsafe { libc::dup2(writer.as_raw_fd(), 2) };
        let own = kernel_mappings(&std::fs::read_to_string("/proc/self/maps").unwrap());
        let mut continuation = Continuation::new(&own, &own).unwrap();
        prepare(&mut continuation);
        let error = continuation.run(std::process::id(), &[thread()]);
        let _ = writeln!(std::io::stderr(), "{error}");
        // SAFETY: it ends this process without the harness of the tests.
        unsafe { libc::_exit(99) };
    }

    drop(writer);
    let mut text = String::new();
    (&reader).read_to_string(&mut text).unwrap();
    let mut status = 0;
    // SAFETY: `status` is valid for the call.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    (status, text)
}

/// A file with this code.
fn code_file(code: &[u8]) -> File {
    // SAFETY: the name is a string, and the new descriptor belongs to nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"code".as_ptr(), 0)) };
    let mut file = File::from(fd);
    file.write_all(code).unwrap();
    file.set_len(4096).unwrap();
    file
}

#[test]
fn a_process_becomes_another_one() {
    if !runs_without_sequences("a_process_becomes_another_one") {
        return;
    }

    // mov edi, 42; mov eax, exit_group; syscall
    let code = [0xbf, 42, 0, 0, 0, 0xb8, 231, 0, 0, 0, 0x0f, 0x05];
    let file = code_file(&code);
    let (status, text) = become_in_fork(|continuation| {
        continuation.map(CODE, 4096, 7, Some((file.as_raw_fd(), 0)));
        continuation.handle_signals(&[]);
    });
    assert!(libc::WIFEXITED(status), "{status:#x} {text}");
    assert_eq!((libc::WEXITSTATUS(status), text.as_str()), (42, ""));
}

#[test]
fn a_step_that_fails_ends_the_process_with_a_message() {
    if !runs_without_sequences("a_step_that_fails_ends_the_process_with_a_message") {
        return;
    }

    let (status, text) = become_in_fork(|continuation| {
        continuation.map(CODE, 4096, 7, Some((-5, 0)));
    });
    assert!(text.contains("cannot map memory"), "{text}");
    assert_eq!(libc::WEXITSTATUS(status), libc::EBADF);

    let (status, text) = become_in_fork(|continuation| {
        continuation.map(CODE + 1, 4096, 7, None);
    });
    assert!(text.contains("cannot map memory"), "{text}");
    assert_eq!(libc::WEXITSTATUS(status), libc::EINVAL);

    // Too many steps for their place.
    let (status, text) = become_in_fork(|continuation| {
        for _ in 0..100_000 {
            continuation.map(CODE, 4096, 7, None);
        }
    });
    assert!(text.contains("invalid"), "{text}");
    assert_eq!(libc::WEXITSTATUS(status), 99);
}
