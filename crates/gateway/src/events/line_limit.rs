//! Limits the lines that a guest can write into the log of this host.

use std::time::Duration;

use tokio::time::Instant;

/// Maximum number of lines of one guest in each [`WINDOW`]. A guest can cause events much faster than a disk has room.
pub(super) const MAX_LINES: u64 = 100;

/// The time that the lines are counted for.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// Counts the lines of one guest.
#[derive(Debug, Default)]
pub(super) struct LineLimit {
    window_start: Option<Instant>,
    lines: u64,
}

/// Whether a line may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It may be written, after so many that were left out in the window before.
    Write { left_out: u64 },
    /// It is left out.
    LeaveOut,
}

impl LineLimit {
    /// Counts a line.
    pub(super) fn admit(&mut self) -> Admission {
        let now = Instant::now();
        let is_over = |start: Instant| now.duration_since(start) >= WINDOW;
        let mut left_out = 0;
        if self.window_start.is_none_or(is_over) {
            left_out = self.left_out();
            *self = Self {
                window_start: Some(now),
                lines: 0,
            };
        }

        self.lines += 1;
        if self.lines > MAX_LINES {
            Admission::LeaveOut
        } else {
            Admission::Write { left_out }
        }
    }

    /// Returns how many lines of this window were left out.
    pub(super) fn left_out(&self) -> u64 {
        self.lines.saturating_sub(MAX_LINES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lines_past_the_limit_are_left_out_and_counted() {
        let mut limit = LineLimit::default();
        for _ in 0..MAX_LINES {
            assert_eq!(limit.admit(), Admission::Write { left_out: 0 });
        }
        for _ in 0..3 {
            assert_eq!(limit.admit(), Admission::LeaveOut);
        }

        tokio::time::advance(WINDOW).await;
        assert_eq!(limit.admit(), Admission::Write { left_out: 3 });
        assert_eq!(limit.admit(), Admission::Write { left_out: 0 });
    }
}
