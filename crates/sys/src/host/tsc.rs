use std::time::{Duration, Instant};

/// Returns the rate of this machine's time-stamp counter in kHz.
///
/// A guest under software emulation reads the host's counter and needs its rate (`tsc_early_khz`);
/// otherwise its clock falls back to jiffies. The kernel reports the rate as `bogomips` (twice the MHz,
/// since its delay loop counts the TSC), at no cost. If it does not, the rate is measured for 20 ms.
#[must_use]
pub fn tsc_khz() -> u64 {
    std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| parse_cpuinfo(&text))
        .unwrap_or_else(measure)
}

fn parse_cpuinfo(text: &str) -> Option<u64> {
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
    let (start, first) = (Instant::now(), ticks());
    std::thread::sleep(Duration::from_millis(20));
    let elapsed = ticks().wrapping_sub(first);
    let micros = u64::try_from(start.elapsed().as_micros())
        .unwrap_or(u64::MAX)
        .max(1);

    elapsed.saturating_mul(1000) / micros
}

fn ticks() -> u64 {
    // SAFETY: every x86_64 CPU has the time-stamp counter and Linux lets programs read it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_parsed_from_cpuinfo() {
        let text = "processor\t: 0\nflags\t\t: fpu tsc constant_tsc\nbogomips\t: 5200.01\n";
        assert_eq!(parse_cpuinfo(text), Some(2_600_005));
        assert_eq!(parse_cpuinfo("flags: tsc\nbogomips: 5200.00\n"), None);
        assert_eq!(parse_cpuinfo(""), None);
    }

    #[test]
    fn the_reported_rate_matches_the_measured_one() {
        let (reported, measured) = (tsc_khz(), measure());
        let deviation = reported.abs_diff(measured) * 1000 / measured;
        assert!(
            deviation < 20,
            "reported {reported} kHz, measured {measured} kHz: {deviation} ‰ apart"
        );
    }
}
