//! The life of a connection as a state machine: pure, no socket and no clock.

use crate::protocol::CloseCode;

/// Where a connection stands. `Open → Draining → Closing → Closed`, each step skippable, none ever taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Requests are read and carried out.
    Open,
    /// Nothing more is read. What was submitted is answered, then the connection closes with this code.
    Draining(CloseCode),
    /// The closing handshake is under way: begun by us with a code, or by the peer.
    Closing(Option<CloseCode>),
    /// It is over; the socket can go.
    Closed,
}

/// What can happen to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It is to close once the requests already taken are answered.
    Finish(CloseCode),
    /// It is to close without waiting for anything.
    Abort(CloseCode),
    /// The peer has begun to close.
    PeerClosed,
    /// Nothing is left to do in this phase: all is answered and sent, or the closing handshake is complete.
    Settled,
    /// The time that this phase may take is up.
    TimeUp,
    /// The peer is gone without a closing handshake.
    Gone,
}

impl Phase {
    /// The phase after `event`. The first code wins, except that an abort overtakes a drain.
    #[must_use]
    pub(crate) fn after(self, event: Event) -> Self {
        match (self, event) {
            (_, Event::Gone) | (Self::Closed, _) => Self::Closed,
            (Self::Open, Event::Finish(code)) => Self::Draining(code),
            (Self::Open | Self::Draining(_), Event::Abort(code)) => Self::Closing(Some(code)),
            (Self::Open | Self::Draining(_), Event::PeerClosed) => Self::Closing(None),
            // An open connection is never done by itself and has no time limit.
            (Self::Open, Event::Settled | Event::TimeUp) => Self::Open,
            (Self::Draining(code), Event::Finish(_)) => Self::Draining(code),
            (Self::Draining(code), Event::Settled | Event::TimeUp) => Self::Closing(Some(code)),
            (Self::Closing(code), Event::Finish(_) | Event::Abort(_) | Event::PeerClosed) => Self::Closing(code),
            (Self::Closing(_), Event::Settled | Event::TimeUp) => Self::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHUTDOWN: CloseCode = CloseCode::GoingAway;
    const SILENT: CloseCode = CloseCode::HeartbeatTimeout;

    #[test]
    fn every_cell_of_the_transition_table_is_as_designed() {
        use Event::{Abort, Finish, Gone, PeerClosed, Settled, TimeUp};
        use Phase::{Closed, Closing, Draining, Open};
        let events = [Finish(SILENT), Abort(SILENT), PeerClosed, Settled, TimeUp, Gone];
        let ours = Closing(Some(SHUTDOWN));
        let table = [
            (Open, [Draining(SILENT), Closing(Some(SILENT)), Closing(None), Open, Open, Closed]),
            (
                Draining(SHUTDOWN),
                [Draining(SHUTDOWN), Closing(Some(SILENT)), Closing(None), ours, ours, Closed],
            ),
            (ours, [ours, ours, ours, Closed, Closed, Closed]),
            (Closing(None), [Closing(None), Closing(None), Closing(None), Closed, Closed, Closed]),
            (Closed, [Closed; 6]),
        ];
        for (phase, row) in table {
            for (event, expected) in events.into_iter().zip(row) {
                assert_eq!(phase.after(event), expected, "{phase:?} after {event:?}");
            }
        }
    }
}
