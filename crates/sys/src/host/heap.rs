//! The memory that the allocator keeps after it was freed.

/// A freed block of at least this many bytes goes back to the kernel at once.
const RETURNED_BYTES: i32 = 256 * 1024;

/// The heaps that threads share. By default the allocator creates eight for each processor, each with separate freed blocks.
const MAX_HEAPS: i32 = 2;

/// Bounds the freed memory that the allocator keeps, for a long-running process that sometimes holds much.
pub fn bound_heap() {
    // SAFETY: sets parameters of the allocator, which ignores those that it does not know.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, MAX_HEAPS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, RETURNED_BYTES);
    }
}

/// Returns freed memory to the kernel, as far as whole pages are free. It takes some milliseconds.
pub fn trim_heap() {
    // SAFETY: it changes no memory that is allocated.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident_kib() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
        pages * rustix::param::page_size() / 1024
    }

    #[test]
    fn freed_memory_is_returned() {
        bound_heap();

        // Small blocks, of which the last one stays: the heap cannot shrink at its end.
        let mut blocks: Vec<Box<[u8]>> = (0..64 * 1024).map(|_| vec![1; 1000].into()).collect();
        let last = blocks.pop();
        let full = resident_kib();
        drop(blocks);
        trim_heap();

        let trimmed = resident_kib();
        assert!(
            trimmed + 50 * 1024 < full,
            "{full} KiB became {trimmed} KiB"
        );
        drop(last);
    }
}
