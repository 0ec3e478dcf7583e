use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// A pollable descriptor for signals: a child has ended, or this program should terminate.
#[derive(Debug)]
pub struct Signals {
    descriptor: OwnedFd,
}

/// The signals that have arrived since the last [`Signals::drain`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PendingSignals {
    /// At least one child has ended.
    pub child: bool,
    /// SIGTERM, SIGINT or SIGHUP has arrived: the program should terminate.
    pub terminate: bool,
}

impl Signals {
    /// Blocks SIGCHLD, SIGTERM, SIGINT and SIGHUP and makes them readable here instead. Inherited dispositions
    /// are reset to the default, so that children start with clean ones; SIGPIPE is ignored.
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn take() -> io::Result<Self> {
        for signal in 1..=libc::SIGRTMAX() {
            let action = if signal == libc::SIGPIPE {
                libc::SIG_IGN
            } else {
                libc::SIG_DFL
            };

            // SAFETY: SIG_IGN and SIG_DFL run no code of ours. The kernel rejects signals that may not be
            // set (SIGKILL, SIGSTOP), without effect.
            unsafe { libc::signal(signal, action) };
        }

        let mut mask = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: sigemptyset initialises the set, sigaddset changes it, sigprocmask reads it; the
        // pointers are valid for each call, and the old mask is not requested.
        let descriptor = unsafe {
            libc::sigemptyset(mask.as_mut_ptr());
            for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
                libc::sigaddset(mask.as_mut_ptr(), signal);
            }
            libc::sigprocmask(libc::SIG_SETMASK, mask.as_ptr(), ptr::null_mut());
            libc::signalfd(-1, mask.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }

        // SAFETY: the descriptor was just opened and has no other owner.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };

        Ok(Self { descriptor })
    }

    /// Takes all signals that have arrived.
    #[must_use]
    pub fn drain(&self) -> PendingSignals {
        const SIZE: usize = size_of::<libc::signalfd_siginfo>();
        let mut pending = PendingSignals::default();

        loop {
            let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
            // SAFETY: the pointer is valid for SIZE bytes.
            let read =
                unsafe { libc::read(self.descriptor.as_raw_fd(), info.as_mut_ptr().cast(), SIZE) };
            if usize::try_from(read) != Ok(SIZE) {
                return pending;
            }

            // SAFETY: the kernel filled all of it, and it is plain data anyway.
            let signal = unsafe { info.assume_init() }.ssi_signo.cast_signed();
            if signal == libc::SIGCHLD {
                pending.child = true;
            } else {
                pending.terminate = true;
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
