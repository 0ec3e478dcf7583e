//! The times of one measurement, and how they are printed and judged.
//!
//! A slow machine slows the floor and the measurement alike. A row is therefore judged by the ratio of its
//! median to the median of a floor that was measured in turn with it. The target of a row is given in
//! milliseconds on the reference machine; divided by the floor of that machine ([`FloorSeries`]) it becomes
//! the target ratio. A row without a floor is not judged: its target is printed as information.

use std::time::Duration;

/// The sorted times of one measurement.
pub(crate) struct Series {
    name: &'static str,
    target: Option<Target>,
    seconds: Vec<f64>,
}

/// The times to reach on the reference machine, in milliseconds.
#[derive(Clone, Copy)]
struct Target {
    median_ms: f64,
    p99_ms: Option<f64>,
}

/// A floor: the times of the least work that the judged rows include, and its median on the reference machine.
pub(crate) struct FloorSeries {
    series: Series,
    reference_ms: f64,
}

impl Series {
    /// Creates a series without a target.
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            target: None,
            seconds: Vec::new(),
        }
    }

    /// Creates a series with a target for the median, in milliseconds on the reference machine.
    pub(crate) fn with_target(name: &'static str, median_ms: f64) -> Self {
        Self {
            target: Some(Target {
                median_ms,
                p99_ms: None,
            }),
            ..Self::new(name)
        }
    }

    /// Adds a target for the 99th percentile.
    pub(crate) fn and_p99(mut self, p99_ms: f64) -> Self {
        if let Some(target) = &mut self.target {
            target.p99_ms = Some(p99_ms);
        }

        self
    }

    /// Adds a time.
    pub(crate) fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        let at = self.seconds.partition_point(|known| *known < seconds);
        self.seconds.insert(at, seconds);
    }

    /// Returns the median in seconds.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Prints the heads of the columns.
    pub(crate) fn print_heads() {
        println!(
            "Rows with a target ratio are judged by their median in floors measured in this run; other targets are \
             times on the reference machine and not judged."
        );
        println!(
            "{:<54} {:>4} {:>8} {:>8} {:>8} {:>7} {:>12} {:>14}",
            "milliseconds", "n", "min", "median", "p99", "/floor", "target ratio", "reference ms"
        );
    }

    /// Prints a row that has no floor.
    pub(crate) fn print(&self) {
        println!("{}", self.row("", ""));
    }

    /// Prints a row with its ratio to the floor. A row with a target is judged.
    pub(crate) fn print_against(&self, floor: &FloorSeries) {
        let (ratio, judgement) = self.judge(floor);
        println!("{}", self.row(&ratio, &judgement));
    }

    /// Returns the ratio to the floor, and the target ratio with the verdict if there is a target.
    fn judge(&self, floor: &FloorSeries) -> (String, String) {
        let ratio = self.median() / floor.median();
        let judgement = self.target.map_or_else(String::new, |target| {
            let target_ratio = target.median_ms / floor.reference_ms;
            format!("{target_ratio:.2} {}", verdict(ratio <= target_ratio))
        });

        (format!("{ratio:.2}"), judgement)
    }

    /// Returns the value below which this share of the times lies.
    fn quantile(&self, share: f64) -> f64 {
        let last = self.seconds.len().saturating_sub(1);
        let at = ((last as f64) * share).round() as usize;
        self.seconds.get(at).copied().unwrap_or(f64::NAN)
    }

    fn row(&self, ratio: &str, judgement: &str) -> String {
        let [min, median, p99] = [0.0, 0.5, 0.99].map(|share| self.quantile(share) * 1000.0);
        let reference = self
            .target
            .map_or_else(String::new, |target| target.to_string());
        let row = format!(
            "{:<54} {:>4} {min:>8.1} {median:>8.1} {p99:>8.1} {ratio:>7} {judgement:>12} {reference:>14}",
            self.name,
            self.seconds.len()
        );
        row.trim_end().to_owned()
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.p99_ms {
            Some(p99_ms) => write!(f, "{}, p99 {p99_ms}", self.median_ms),
            None => write!(f, "{}", self.median_ms),
        }
    }
}

impl FloorSeries {
    /// A restore of the smallest guest with a new QEMU.
    pub(crate) fn new_qemu() -> Self {
        Self::new("floor: bare restore, new QEMU", 25.3)
    }

    /// A boot of our kernel to the smallest first process.
    pub(crate) fn bare_boot() -> Self {
        Self::new("floor: bare boot to init", 302.0)
    }

    fn new(name: &'static str, reference_ms: f64) -> Self {
        Self {
            series: Series::with_target(name, reference_ms),
            reference_ms,
        }
    }

    /// Adds a time.
    pub(crate) fn add(&mut self, time: Duration) {
        self.series.add(time);
    }

    /// Returns the median in seconds.
    pub(crate) fn median(&self) -> f64 {
        self.series.median()
    }

    /// Prints the floor's row, with its median on the reference machine.
    pub(crate) fn print(&self) {
        self.series.print();
    }
}

/// Returns the word for a target that was reached or missed.
pub(crate) fn verdict(is_reached: bool) -> &'static str {
    if is_reached { "ok" } else { "NO" }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn floor(milliseconds: u64) -> FloorSeries {
        let mut floor = FloorSeries::new_qemu();
        floor.add(Duration::from_millis(milliseconds));
        floor
    }

    fn judge(median_ms: u64, floor_ms: u64) -> (String, String) {
        // Four floors: 101.2 ms over 25.3 ms on the reference machine.
        let mut series = Series::with_target("row", 101.2);
        series.add(Duration::from_millis(median_ms));
        series.judge(&floor(floor_ms))
    }

    #[test]
    fn a_slower_machine_does_not_change_the_verdict() {
        assert_eq!(judge(90, 25), ("3.60".into(), "4.00 ok".into()));
        assert_eq!(judge(360, 100), ("3.60".into(), "4.00 ok".into()));
        assert_eq!(judge(110, 25), ("4.40".into(), "4.00 NO".into()));
    }

    #[test]
    fn a_row_without_a_target_is_not_judged() {
        let mut series = Series::new("row");
        series.add(Duration::from_millis(50));
        assert_eq!(series.judge(&floor(25)), ("2.00".into(), String::new()));
    }

    #[test]
    fn quantiles_of_sorted_times() {
        let mut series = Series::new("row");
        for milliseconds in [30, 10, 20] {
            series.add(Duration::from_millis(milliseconds));
        }
        assert_eq!(series.median(), 0.02);
        assert_eq!(series.quantile(0.99), 0.03);
        assert!(Series::new("empty").median().is_nan());
    }
}
