//! That scripts get as deep as they are meant to. Only services are spoken with here: nobody is dialed.

use super::play::Play;
use super::script::{Act, Edits, Flags, Nudge, Options, Remote, Said};

fn open(port: u8, from: u8) -> Act {
    Act::Open {
        remote: Remote { address: 0, port },
        from,
        options: Options::Usual {
            mss: 1460,
            scale: 7,
        },
        window: u16::MAX,
    }
}

fn segment(flags: Flags, said: Said) -> Act {
    Act::Segment {
        talk: 0,
        flags,
        seq: Nudge::Right,
        ack: Nudge::Right,
        window: u16::MAX,
        options: Options::None,
        said,
        edits: Edits::None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_script_speaks_with_a_service_to_the_end() {
    let mut play = Play::new();
    let acts = [
        open(0, 0),
        segment(Flags::Ack, Said::Nothing),
        segment(Flags::Push, Said::Fill(38)),
        segment(Flags::Fin, Said::Nothing),
        segment(Flags::Ack, Said::Nothing),
    ];
    let mut heard = Vec::new();
    for act in &acts {
        let before = play.guest.talks.first().map_or(0, |talk| talk.theirs);
        assert!(play.act(act).await);
        heard.push(play.guest.talks[0].theirs.wrapping_sub(before));
    }
    // What was said comes back, and then the end.
    assert_eq!(heard[1..], [0, 38, 1, 0]);
    play.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_port_of_the_guest_is_reached() {
    let mut play = Play::new();
    let inbound = Act::Inbound {
        v6: false,
        port: 80,
    };
    assert!(play.act(&inbound).await);
    let begun = play.guest.talks[0].theirs;
    assert!(play.act(&segment(Flags::SynAck, Said::Nothing)).await);
    let request = "GET / HTTP/1.1\r\n\r\n".len();
    let heard = play.guest.talks[0].theirs.wrapping_sub(begun);
    assert_eq!(usize::try_from(heard), Ok(request));
    play.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_guest_that_takes_nothing_is_bounded() {
    /// Together these have more to say than may wait.
    const TALKS: u8 = 8;
    let mut play = Play::new();
    for from in 0..TALKS {
        assert!(play.act(&open(2, from)).await);
    }
    assert!(play.act(&Act::Listen(false)).await);
    // After each turn it is seen to that no more waits than may.
    for _ in 0..256 {
        assert!(play.act(&Act::Acknowledge { window: u16::MAX }).await);
    }
    let waiting = play.stack.take_out().len();
    assert!(waiting >= 1024 * 1024, "{waiting} bytes");
    play.end().await;
}
