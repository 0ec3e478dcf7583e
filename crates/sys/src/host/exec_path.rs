use std::ffi::{CStr, CString};
use std::io;

/// The address of the path in [`ExecPath`]: below everything that a program maps by itself, and above the addresses
/// that the kernel reserves (`vm.mmap_min_addr`, 64 KiB).
pub const EXEC_PATH_ADDRESS: usize = 1 << 20;

/// The first address above the path.
pub const EXEC_PATH_END: usize = EXEC_PATH_ADDRESS + PATH_BYTES;

/// The size of the mapping: one page, which is also the longest path.
const PATH_BYTES: usize = 4096;

/// The path of a program to execute, at a fixed address. A filter of system calls can thereby allow exactly one exec:
/// the new program has no memory at this address, so with a filter that lets it map none there, its own calls of
/// `execve` have no path.
#[derive(Debug)]
pub struct ExecPath(());

impl ExecPath {
    /// Puts the path of a program at [`EXEC_PATH_ADDRESS`].
    ///
    /// # Errors
    /// `InvalidInput` if the path is too long; the error of the operating system if the address is in use or reserved.
    pub fn new(program: &CStr) -> io::Result<Self> {
        let path = program.to_bytes_with_nul();
        if path.len() > PATH_BYTES {
            return Err(io::ErrorKind::InvalidInput.into());
        }

        // SAFETY: the kernel refuses the address if anything is mapped there, so the mapping replaces no memory.
        let mapped = unsafe {
            libc::mmap(
                std::ptr::without_provenance_mut(EXEC_PATH_ADDRESS),
                PATH_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }

        // SAFETY: the mapping is new, writable, and at least as large as the path; nothing else refers to it.
        unsafe { std::ptr::copy_nonoverlapping(path.as_ptr(), mapped.cast(), path.len()) };
        Ok(Self(()))
    }

    /// Becomes the program, with these arguments and an empty environment. The first argument is the name of the
    /// program. Returns only on failure.
    #[must_use]
    pub fn exec(self, args: &[CString]) -> io::Error {
        let mut pointers: Vec<_> = args.iter().map(|arg| arg.as_ptr()).collect();
        pointers.push(std::ptr::null());
        let environment = [std::ptr::null::<libc::c_char>()];

        // SAFETY: the path is mapped as long as this process is, and ends with a null byte; both arrays end with a
        // null pointer and outlive the call. Rust ignores SIGPIPE, which the program must not inherit.
        unsafe {
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            libc::execve(
                std::ptr::without_provenance(EXEC_PATH_ADDRESS),
                pointers.as_ptr(),
                environment.as_ptr(),
            );
        }
        io::Error::last_os_error()
    }
}
