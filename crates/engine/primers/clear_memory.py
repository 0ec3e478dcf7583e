# Run once before the state of a template with a package set is saved. It takes the free memory and that of cached files
# that no process maps, which the kernel fills with zeros, and gives it back.
def clear_memory():
    import mmap

    with open("/proc/meminfo") as lines:
        sizes = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
    cached = sizes["Buffers"] + sizes["Cached"] - sizes["Mapped"] - sizes["Shmem"]
    # The kernel needs some memory meanwhile, and programs may not take all of it.
    kib = sizes["MemFree"] + cached - 12 * 1024
    if kib > 0:
        with mmap.mmap(-1, kib * 1024, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            for at in range(0, len(memory), mmap.PAGESIZE):
                memory[at] = 0


clear_memory()
