//! Progress notifications during a call, for clients that ask for them.

use std::time::{Duration, Instant};

use rmcp::RoleServer;
use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::{Peer, RequestContext};

/// The shortest time between two notifications.
const MIN_INTERVAL: Duration = Duration::from_millis(250);

/// The longest message, in characters. A message contains the end of the latest output.
const MAX_MESSAGE_CHARS: usize = 400;

/// Sends progress notifications to a client.
pub(super) struct Progress {
    target: Option<(Peer<RoleServer>, ProgressToken)>,
    count: f64,
    last_sent: Option<Instant>,
    pending: String,
}

impl Progress {
    pub(super) fn new(context: &RequestContext<RoleServer>) -> Self {
        let token = context.meta.get_progress_token();
        Self {
            target: token.map(|token| (context.peer.clone(), token)),
            count: 0.0,
            last_sent: None,
            pending: String::new(),
        }
    }

    /// Reports output, at once or together with the output that follows soon.
    pub(super) async fn report(&mut self, text: &str) {
        if self.target.is_none() {
            return;
        }

        self.pending.push_str(text);
        let chars = self.pending.chars().count();
        if chars > MAX_MESSAGE_CHARS {
            let excess = chars - MAX_MESSAGE_CHARS;
            self.pending = self.pending.chars().skip(excess).collect();
        }

        if self
            .last_sent
            .is_none_or(|sent| sent.elapsed() >= MIN_INTERVAL)
        {
            self.flush().await;
        }
    }

    async fn flush(&mut self) {
        let Some((peer, token)) = &self.target else {
            return;
        };
        self.count += 1.0;
        let message = std::mem::take(&mut self.pending);
        let progress = ProgressNotificationParam::new(token.clone(), self.count);
        // A client that has disconnected is noticed by the call itself.
        let _ = peer.notify_progress(progress.with_message(message)).await;
        self.last_sent = Some(Instant::now());
    }
}
