//! Scripts must reach deep into the stack. They only connect to built-in services here, so that nothing is dialed.

use super::play::Play;
use super::script::{Act, Edits, Flags, Nudge, Options, Payload, Remote};

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

fn segment(flags: Flags, payload: Payload) -> Act {
    Act::Segment {
        connection: 0,
        flags,
        seq: Nudge::Right,
        ack: Nudge::Right,
        window: u16::MAX,
        options: Options::None,
        payload,
        edits: Edits::None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_script_completes_a_connection_with_a_service() {
    let mut play = Play::new();
    let acts = [
        open(0, 0),
        segment(Flags::Ack, Payload::Nothing),
        segment(Flags::Push, Payload::Fill(38)),
        segment(Flags::Fin, Payload::Nothing),
        segment(Flags::Ack, Payload::Nothing),
    ];

    let mut received = Vec::new();
    for act in &acts {
        let before = play
            .guest
            .connections
            .first()
            .map_or(0, |connection| connection.theirs);
        assert!(play.act(act).await);
        received.push(play.guest.connections[0].theirs.wrapping_sub(before));
    }

    // The payload comes back, and then the end.
    assert_eq!(received[1..], [0, 38, 1, 0]);
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
    let start = play.guest.connections[0].theirs;
    assert!(play.act(&segment(Flags::SynAck, Payload::Nothing)).await);
    let request = "GET / HTTP/1.1\r\n\r\n".len();
    let received = play.guest.connections[0].theirs.wrapping_sub(start);
    assert_eq!(usize::try_from(received), Ok(request));
    play.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_outbox_of_a_guest_that_reads_nothing_is_bounded() {
    /// Together, these connections send more than the outbox holds.
    const MAX_CONNECTIONS: u8 = 8;
    let mut play = Play::new();

    for from in 0..MAX_CONNECTIONS {
        assert!(play.act(&open(2, from)).await);
    }

    assert!(play.act(&Act::Listen(false)).await);
    // The bound is asserted after each turn.
    for _ in 0..256 {
        assert!(play.act(&Act::Acknowledge { window: u16::MAX }).await);
    }

    let waiting = play.stack.take_outbox().len();
    assert!(waiting >= 1024 * 1024, "{waiting} bytes wait");
    play.end().await;
}
