use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// The maximum number of bytes that one call adds.
const MAX_BYTES: usize = 256;

/// The kernel's `rand_pool_info`, with space for [`MAX_BYTES`].
#[repr(C)]
struct PoolInfo {
    entropy_bits: libc::c_int,
    bytes: libc::c_int,
    buffer: [u8; MAX_BYTES],
}

// From linux/random.h: _IOW('R', 3, int[2]) and _IO('R', 7).
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// Mixes secret bytes into the kernel's pool and credits them as entropy; `random` is `/dev/urandom`.
///
/// # Errors
/// The error of the kernel; `InvalidInput` for more than 256 bytes.
pub fn add_entropy(random: &File, entropy: &[u8]) -> io::Result<()> {
    let too_many = || io::Error::from(io::ErrorKind::InvalidInput);
    let mut info = PoolInfo {
        entropy_bits: 0,
        bytes: 0,
        buffer: [0; MAX_BYTES],
    };

    let buffer = info.buffer.get_mut(..entropy.len()).ok_or_else(too_many)?;
    buffer.copy_from_slice(entropy);
    info.bytes = libc::c_int::try_from(entropy.len()).map_err(|_| too_many())?;
    info.entropy_bits = info.bytes * 8;
    // SAFETY: the kernel reads the two numbers and as many bytes after them as they state, all of which
    // are in `info`, which outlives the call.
    let result = unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const info) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Reseeds the kernel's generator from its pool, and with it the generators of processes that depend on it.
///
/// # Errors
/// The error of the kernel.
pub fn reseed(random: &File) -> io::Result<()> {
    // SAFETY: the request takes no argument.
    let result = unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
