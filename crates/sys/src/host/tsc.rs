use std::time::{Duration, Instant};

/// The rate of this machine's time-stamp counter in kHz.
///
/// A guest under software emulation sees the host's counter and must be told its rate
/// (`tsc_early_khz`), else its clock falls back to jiffies. The kernel states the rate as
/// `bogomips` (twice the MHz, since its delay loop counts the TSC), at no cost; where it does not,
/// the rate is measured for 20 ms.
#[must_use]
pub fn tsc_khz() -> u64 {
    std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| from_cpuinfo(&text))
        .unwrap_or_else(measure)
}

fn from_cpuinfo(text: &str) -> Option<u64> {
    let field = |name: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim())
        })
    };
    if !field("flags")?
        .split(' ')
        .any(|flag| flag == "constant_tsc")
    {
        return None;
    }
    let (whole, hundredths) = field("bogomips")?.split_once('.')?;
    let hundredths_of_bogomips =
        whole.parse::<u64>().ok()? * 100 + hundredths.parse::<u64>().ok()?;
    let khz = hundredths_of_bogomips * 5;
    (100_000..20_000_000).contains(&khz).then_some(khz)
}

fn measure() -> u64 {
    let (start, ticks) = (Instant::now(), ticks());
    std::thread::sleep(Duration::from_millis(20));
    let passed = self::ticks().wrapping_sub(ticks);
    let micros = u64::try_from(start.elapsed().as_micros())
        .unwrap_or(u64::MAX)
        .max(1);
    passed.saturating_mul(1000) / micros
}

fn ticks() -> u64 {
    // SAFETY: every x86_64 CPU has the time-stamp counter and Linux lets programs read it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuinfo_is_read() {
        let text = "processor\t: 0\nflags\t\t: fpu tsc constant_tsc\nbogomips\t: 5200.01\n";
        assert_eq!(from_cpuinfo(text), Some(2_600_005));
        assert_eq!(from_cpuinfo("flags: tsc\nbogomips: 5200.00\n"), None);
        assert_eq!(from_cpuinfo(""), None);
    }

    #[test]
    fn what_the_kernel_states_is_what_is_measured() {
        let (stated, measured) = (tsc_khz(), measure());
        let off = stated.abs_diff(measured) * 1000 / measured;
        assert!(
            off < 20,
            "stated {stated} kHz, measured {measured} kHz: {off} ‰ apart"
        );
    }
}
