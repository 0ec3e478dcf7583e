use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::context::World;
use crate::stack::GuestStream;

/// How long a guest may take for its next question.
const NEXT: Duration = Duration::from_secs(10);

/// The longest question, in bytes: a name takes 255.
const QUESTION_BYTES: u16 = 4096;

impl World {
    /// Answers questions about names by TCP: each message after its length, in two bytes.
    pub(super) async fn answer_names(&self, mut guest: GuestStream) {
        if !guest.accept().await {
            return;
        }
        while let Some(question) = next(&mut guest).await {
            let Some(answer) = self.names.answer(&question, true).await else {
                break;
            };
            let Ok(length) = u16::try_from(answer.len()) else {
                break;
            };
            let message = [&length.to_be_bytes(), answer.as_slice()].concat();
            if guest.write_all(&message).await.is_err() {
                return;
            }
        }
        let _ = guest.shutdown().await;
    }
}

async fn next(guest: &mut GuestStream) -> Option<Vec<u8>> {
    let reading = async {
        let length = guest.read_u16().await.ok()?;
        if length > QUESTION_BYTES {
            return None;
        }
        let mut question = vec![0; usize::from(length)];
        guest.read_exact(&mut question).await.ok()?;
        Some(question)
    };
    tokio::time::timeout(NEXT, reading).await.ok()?
}
