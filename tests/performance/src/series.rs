//! Times of one thing.

use std::time::Duration;

/// Times of one thing, in seconds, and what they are to reach.
pub(crate) struct Series {
    name: &'static str,
    limit: Option<Limit>,
    seconds: Vec<f64>,
}

/// What a median, and perhaps a 99th percentile, should be at most.
#[derive(Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) median_ms: f64,
    pub(crate) p99_ms: Option<f64>,
}

impl Series {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            limit: None,
            seconds: Vec::new(),
        }
    }

    /// One that is to reach a median.
    pub(crate) fn to_reach(name: &'static str, median_ms: f64) -> Self {
        Self {
            limit: Some(Limit {
                median_ms,
                p99_ms: None,
            }),
            ..Self::new(name)
        }
    }

    /// And a 99th percentile.
    pub(crate) fn and_p99(mut self, p99_ms: f64) -> Self {
        if let Some(limit) = &mut self.limit {
            limit.p99_ms = Some(p99_ms);
        }
        self
    }

    pub(crate) fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        let at = self.seconds.partition_point(|known| *known < seconds);
        self.seconds.insert(at, seconds);
    }

    /// The value below which this share of the times lies.
    fn quantile(&self, share: f64) -> f64 {
        let last = self.seconds.len().saturating_sub(1);
        let at = ((last as f64) * share).round() as usize;
        self.seconds.get(at).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The heads of the columns of [`print`](Self::print).
    pub(crate) fn heads() {
        println!(
            "{:<54} {:>4} {:>8} {:>8} {:>8} {:>7} {:>10}",
            "milliseconds", "n", "min", "median", "p99", "/floor", "to reach"
        );
    }

    /// A line: beside the floor that was measured in turn with it, where there is one.
    pub(crate) fn print(&self, floor: Option<&Self>) {
        let [least, median, p99] = [0.0, 0.5, 0.99].map(|share| self.quantile(share) * 1000.0);
        let ratio = floor.map_or(String::new(), |floor| {
            format!("{:.2}", self.median() / floor.median())
        });

        let verdict = self.limit.map_or(String::new(), |limit| {
            let held = median <= limit.median_ms && limit.p99_ms.is_none_or(|most| p99 <= most);
            let most = match limit.p99_ms {
                Some(p99) => format!("{}/{p99}", limit.median_ms),
                None => limit.median_ms.to_string(),
            };
            format!("{most} {}", if held { "ok" } else { "NO" })
        });

        println!(
            "{:<54} {:>4} {least:>8.1} {median:>8.1} {p99:>8.1} {ratio:>7} {verdict:>10}",
            self.name,
            self.seconds.len()
        );
    }
}
