//! Limits how fast the log grows.
//!
//! Guests and callers can cause many kinds of lines as often as they like, and a full disk stops everyone.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Maximum number of lines of one kind, of one owner, in each [`WINDOW`].
const MAX_LINES: u64 = 1000;

/// The time that lines are counted for.
const WINDOW: Duration = Duration::from_secs(60);

/// Maximum number of owners that are counted separately. All others share one count for each kind of line.
const MAX_OWNERS: usize = 256;

/// The target of the lines that say how many others were left out. They are not limited: there are few.
const TARGET: &str = "fumehood::log_limit";

/// A layer that drops lines past a limit.
#[derive(Debug, Default)]
pub(crate) struct LogLimit(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    window_start: Option<Instant>,
    lines: HashMap<(Identifier, String), Count>,
}

#[derive(Debug)]
struct Count {
    lines: u64,
    /// The message of the first line that was left out.
    message: String,
}

/// Lines of one kind that were left out.
#[derive(Debug, PartialEq, Eq)]
struct LeftOut {
    message: String,
    owner: String,
    lines: u64,
}

/// The fields of a line that are counted and reported.
#[derive(Debug, Default)]
struct Line {
    owner: String,
    message: String,
}

impl<S: Subscriber> Layer<S> for LogLimit {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        // Finer levels are written only because someone wants all of them.
        let metadata = event.metadata();
        if metadata.target() == TARGET || *metadata.level() > Level::INFO {
            return true;
        }

        let mut line = Line::default();
        event.record(&mut line);
        let (is_admitted, left_out) = {
            let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            counts.admit(event.metadata().callsite(), line, Instant::now())
        };
        // Not under the lock: each of these lines comes back here.
        for LeftOut {
            message,
            owner,
            lines,
        } in left_out
        {
            tracing::warn!(target: TARGET, lines, owner, like = message, "lines were left out of the log");
        }
        is_admitted
    }
}

impl Counts {
    /// Counts a line; returns whether it may be written, and the lines that were left out of the window before.
    fn admit(&mut self, callsite: Identifier, line: Line, now: Instant) -> (bool, Vec<LeftOut>) {
        let is_over = |start: Instant| now.duration_since(start) >= WINDOW;
        let mut left_out = Vec::new();
        if self.window_start.is_none_or(is_over) {
            left_out = self.take_left_out();
            self.window_start = Some(now);
        }

        let mut key = (callsite, line.owner);
        if self.lines.len() >= MAX_OWNERS && !self.lines.contains_key(&key) {
            key.1 = "others".to_owned();
        }
        let count = self.lines.entry(key).or_insert_with(|| Count {
            lines: 0,
            message: line.message,
        });
        count.lines += 1;
        (count.lines <= MAX_LINES, left_out)
    }

    fn take_left_out(&mut self) -> Vec<LeftOut> {
        let counts = std::mem::take(&mut self.lines).into_iter();
        let past_limit = counts.filter(|(_, count)| count.lines > MAX_LINES);
        past_limit
            .map(|((_, owner), count)| LeftOut {
                message: count.message,
                owner,
                lines: count.lines - MAX_LINES,
            })
            .collect()
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "owner" => self.owner = value.chars().take(64).collect(),
            "message" => self.message = value.chars().take(64).collect(),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}").chars().take(64).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Counts the lines that are written.
    #[derive(Debug, Default, Clone)]
    struct Written(Arc<AtomicU64>);

    impl<S: Subscriber> Layer<S> for Written {
        fn on_event(&self, _event: &Event<'_>, _context: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_flood_of_one_owner_leaves_the_lines_of_others() {
        let written = Written::default();
        let subscriber = tracing_subscriber::registry()
            .with(written.clone())
            .with(LogLimit::default());
        let request = |owner: &str| tracing::info!(owner, "answered");
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..MAX_LINES * 3 {
                request("one");
            }
            request("another");
            tracing::info!("answered");
        });
        assert_eq!(written.0.load(Ordering::Relaxed), MAX_LINES + 2);
    }

    #[test]
    fn the_next_window_says_what_was_left_out() {
        static CALLSITE: tracing::callsite::DefaultCallsite = {
            static METADATA: tracing::Metadata<'static> = tracing::metadata! {
                name: "line", target: "test", level: tracing::Level::INFO,
                fields: &[], callsite: &CALLSITE, kind: tracing::metadata::Kind::EVENT,
            };
            tracing::callsite::DefaultCallsite::new(&METADATA)
        };
        let line = |owner: usize| Line {
            owner: owner.to_string(),
            message: "answered".to_owned(),
        };
        let callsite = || Identifier(&CALLSITE);
        let mut counts = Counts::default();
        let start = Instant::now();
        for _ in 0..MAX_LINES + 5 {
            counts.admit(callsite(), line(1), start);
        }
        for owner in 0..2 * MAX_OWNERS {
            counts.admit(callsite(), line(owner), start);
        }
        assert_eq!(counts.lines.len(), MAX_OWNERS + 1);

        let (is_admitted, left_out) = counts.admit(callsite(), line(1), start + WINDOW);
        assert!(is_admitted);
        let expected = LeftOut {
            message: "answered".to_owned(),
            owner: "1".to_owned(),
            lines: 6,
        };
        assert_eq!(left_out, [expected]);
    }
}
