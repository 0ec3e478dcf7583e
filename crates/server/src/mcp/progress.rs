//! What a client is told while a call goes on, where it asked for that.

use std::time::{Duration, Instant};

use rmcp::RoleServer;
use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::{Peer, RequestContext};

/// How often at most a client is told.
const PACE: Duration = Duration::from_millis(250);

/// The most of one message, in characters: the end of what was written last.
const MESSAGE_CHARS: usize = 400;

/// Tells a client how a call goes on.
pub(super) struct Progress {
    to: Option<(Peer<RoleServer>, ProgressToken)>,
    count: f64,
    last: Option<Instant>,
    waiting: String,
}

impl Progress {
    pub(super) fn new(context: &RequestContext<RoleServer>) -> Self {
        let token = context.meta.get_progress_token();
        Self {
            to: token.map(|token| (context.peer.clone(), token)),
            count: 0.0,
            last: None,
            waiting: String::new(),
        }
    }

    /// Says something, now or with what follows soon.
    pub(super) async fn say(&mut self, text: &str) {
        if self.to.is_none() {
            return;
        }
        self.waiting.push_str(text);
        let chars = self.waiting.chars().count();
        if chars > MESSAGE_CHARS {
            self.waiting = self.waiting.chars().skip(chars - MESSAGE_CHARS).collect();
        }
        if self.last.is_none_or(|last| last.elapsed() >= PACE) {
            self.flush().await;
        }
    }

    async fn flush(&mut self) {
        let Some((peer, token)) = &self.to else {
            return;
        };
        self.count += 1.0;
        let message = std::mem::take(&mut self.waiting);
        let told = ProgressNotificationParam::new(token.clone(), self.count).with_message(message);
        // Somebody who has gone is noticed elsewhere.
        let _ = peer.notify_progress(told).await;
        self.last = Some(Instant::now());
    }
}
