/// Lets the allocator keep up to `bytes` of freed memory: returning it to the kernel and requesting it again costs
/// an emulated guest two walks through its memory maps for each exec.
pub fn keep_freed_memory(bytes: i32) {
    // SAFETY: sets parameters of the allocator, which ignores those that it does not know.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, bytes);
        libc::mallopt(libc::M_MMAP_THRESHOLD, bytes);
    }
}
