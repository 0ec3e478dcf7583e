/// Lets the allocator keep what was freed, up to `bytes`: giving it back and asking again costs an emulated
/// guest two walks through its memory maps for each exec.
pub fn keep_freed_memory(bytes: i32) {
    // SAFETY: sets parameters of the allocator; what it does not know it ignores.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, bytes);
        libc::mallopt(libc::M_MMAP_THRESHOLD, bytes);
    }
}
