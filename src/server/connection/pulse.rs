//! When a client that owes a pong is given up: pure, no clock.
//!
//! A pong can be late for two reasons that are not the client's death: it waits in the socket behind requests that
//! are not read yet, or the ping itself waits behind a large answer that the client is still reading.

use super::outbox::Outbox;

/// How a connection looks at the end of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Bytes that the client has taken in all.
    pub(super) taken: u64,
    /// Whether it has taken all that it was sent.
    pub(super) all_taken: bool,
    /// Whether all that had arrived from it is read.
    pub(super) all_read: bool,
}

/// What is expected of the client.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// Whether a ping is being sent in this round.
    pinging: bool,
    /// The ping whose time was found to be up in this round.
    overdue: Option<u64>,
    /// The ping that had time enough and is not answered: whether the pong has arrived is not known before all that
    /// has arrived is read.
    doubtful: Option<u64>,
    /// How it looked when the ping was sent, or when its time was up last.
    last: Option<Look>,
}

impl Pulse {
    /// A ping is being sent.
    pub(super) fn ping(&mut self) {
        self.pinging = true;
    }

    /// The time for the answer to a ping is up, for the first time or again.
    pub(super) fn time_is_up(&mut self, timestamp: u64) {
        self.overdue = Some(timestamp);
    }

    /// Tells at the end of a round whether the client is to be given up.
    pub(super) fn is_lost(&mut self, now: Look, outbox: &Outbox) -> bool {
        if std::mem::take(&mut self.pinging) {
            self.last = Some(now);
            self.doubtful = None;
            // A server that was held up may find the time to be up when the ping is only leaving. It will ask again.
            self.overdue = None;
        }
        let is_unanswered = |timestamp: &u64| outbox.awaits_pong(*timestamp);
        if let Some(timestamp) = self.overdue.take().filter(is_unanswered) {
            let Some(before) = self.last.replace(now) else { return false };
            if !now.all_taken && now.taken == before.taken {
                return true;
            }
            // A ping that had not left by then may be on its way only now.
            if before.all_taken {
                self.doubtful = Some(timestamp);
            }
        }
        if self.doubtful.is_none() || !now.all_read {
            return false;
        }
        self.doubtful.take_if(|timestamp| is_unanswered(timestamp)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u64 = 77;

    fn pinged(look: Look) -> (Pulse, Outbox) {
        let outbox = Outbox::default();
        outbox.ping(PING);
        let mut pulse = Pulse::default();
        pulse.ping();
        assert!(!pulse.is_lost(look, &outbox));
        (pulse, outbox)
    }

    fn look(taken: u64, all_taken: bool, all_read: bool) -> Look {
        Look {
            taken,
            all_taken,
            all_read,
        }
    }

    fn lost_when_overdue(pulse: &mut Pulse, outbox: &Outbox, now: Look) -> bool {
        pulse.time_is_up(PING);
        pulse.is_lost(now, outbox)
    }

    #[test]
    fn every_case_of_the_first_verdict_is_as_designed() {
        // The ping left at once or not; at the verdict: progress or none, all taken or not, all read or not.
        let table = [
            (true, look(9, true, true), true),
            (true, look(9, true, false), false),
            (true, look(5, true, true), true),
            (true, look(5, false, false), true),
            (true, look(9, false, true), true),
            (true, look(9, false, false), false),
            (false, look(9, true, true), false),
            (false, look(9, false, true), false),
            (false, look(9, false, false), false),
            (false, look(5, false, true), true),
            (false, look(5, false, false), true),
        ];
        for (left_at_once, now, lost) in table {
            let (mut pulse, outbox) = pinged(look(5, left_at_once, true));
            assert_eq!(lost_when_overdue(&mut pulse, &outbox, now), lost, "{left_at_once} {now:?}");
        }
    }

    #[test]
    fn a_ping_that_leaves_when_its_time_is_up_already_has_the_whole_time_too() {
        for left_at_once in [true, false] {
            let outbox = Outbox::default();
            outbox.ping(PING);
            let mut pulse = Pulse::default();
            pulse.ping();
            assert!(!lost_when_overdue(&mut pulse, &outbox, look(5, left_at_once, true)));
            assert!(!pulse.is_lost(look(5, true, true), &outbox));
        }
    }

    #[test]
    fn a_client_in_doubt_is_lost_as_soon_as_all_is_read_and_the_pong_is_not_there() {
        let (mut pulse, outbox) = pinged(look(5, true, true));
        assert!(!lost_when_overdue(&mut pulse, &outbox, look(9, true, false)));
        assert!(!pulse.is_lost(look(9, true, false), &outbox));
        assert!(pulse.is_lost(look(9, true, true), &outbox));
    }

    #[test]
    fn a_client_in_doubt_whose_pong_is_found_stays() {
        let (mut pulse, outbox) = pinged(look(5, true, true));
        assert!(!lost_when_overdue(&mut pulse, &outbox, look(9, true, false)));
        outbox.pong(77.0);
        assert!(!pulse.is_lost(look(9, true, true), &outbox));
        assert!(!lost_when_overdue(&mut pulse, &outbox, look(9, true, true)));
    }

    #[test]
    fn a_client_that_takes_nothing_from_one_verdict_to_the_next_is_lost() {
        let (mut pulse, outbox) = pinged(look(5, false, false));
        assert!(!lost_when_overdue(&mut pulse, &outbox, look(6, false, false)));
        assert!(!lost_when_overdue(&mut pulse, &outbox, look(7, false, false)));
        assert!(lost_when_overdue(&mut pulse, &outbox, look(7, false, false)));
    }

    #[test]
    fn a_ping_that_left_late_has_the_whole_time_for_its_answer() {
        let (mut pulse, outbox) = pinged(look(5, false, true));
        assert!(!lost_when_overdue(&mut pulse, &outbox, look(9, true, true)));
        assert!(!pulse.is_lost(look(9, true, true), &outbox));
        assert!(lost_when_overdue(&mut pulse, &outbox, look(9, true, true)));
    }
}
