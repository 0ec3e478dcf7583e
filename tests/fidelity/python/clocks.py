import time
first, second = time.monotonic(), time.monotonic()
print(second >= first, abs(time.time() - time.time_ns() / 1e9) < 1, time.perf_counter() > 0)
print(0 <= time.process_time() < 60, time.get_clock_info("monotonic").implementation)
print(abs(time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()) < 5, time.tzname, time.timezone)
