//! What one connection counts: in plain numbers while it works, made seen at the end of each round of work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::counters::{Count, Counters};
use crate::protocol::{CloseCode, Operation, Tier, message};
use crate::server::access::Principal;

/// What passed through a socket since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) messages_in: u64,
    pub(crate) bytes_in: u64,
    pub(crate) messages_out: u64,
    pub(crate) bytes_out: u64,
}

impl Traffic {
    pub(crate) fn receive(&mut self, bytes: usize) {
        self.messages_in += 1;
        self.bytes_in += bytes as u64;
    }

    pub(crate) fn send(&mut self, bytes: usize) {
        self.messages_out += 1;
        self.bytes_out += bytes as u64;
    }
}

/// Where a connection stands at the end of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) traffic: Traffic,
    pub(crate) unsent_bytes: usize,
    /// Requests taken and not answered.
    pub(crate) in_flight: usize,
}

impl Standing {
    fn counts(&self) -> [(Count, u64); 6] {
        [
            (Count::MessagesIn, self.traffic.messages_in),
            (Count::BytesIn, self.traffic.bytes_in),
            (Count::MessagesOut, self.traffic.messages_out),
            (Count::BytesOut, self.traffic.bytes_out),
            (Count::UnsentBytes, self.unsent_bytes as u64),
            (Count::InFlight, self.in_flight as u64),
        ]
    }
}

/// What others may see of a connection. Only the connection itself writes, so that writing costs no more than a
/// plain store.
#[derive(Debug)]
pub(crate) struct ConnectionFigures {
    /// When it was opened, in milliseconds since 1970.
    pub(super) connected_at: u64,
    /// Shared with the session, which counts.
    pub(super) subscriptions: Arc<AtomicUsize>,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) unsent_bytes: AtomicU64,
    pub(super) in_flight: AtomicU64,
    /// Who is logged in.
    pub(super) user: Mutex<Option<Arc<Principal>>>,
}

impl ConnectionFigures {
    pub(crate) fn new(connected_at: u64) -> Arc<Self> {
        Arc::new(Self {
            connected_at,
            subscriptions: Arc::default(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            unsent_bytes: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            user: Mutex::new(None),
        })
    }

    /// Shows who is logged in.
    pub(crate) fn show_user(&self, user: Option<&Arc<Principal>>) {
        *self.user.lock() = user.cloned();
    }

    /// The number of the connection's subscriptions, for the session to keep.
    pub(crate) fn subscriptions(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.subscriptions)
    }

    fn show(&self, standing: &Standing) {
        self.bytes_in.store(standing.traffic.bytes_in, Ordering::Relaxed);
        self.bytes_out.store(standing.traffic.bytes_out, Ordering::Relaxed);
        self.unsent_bytes.store(standing.unsent_bytes as u64, Ordering::Relaxed);
        self.in_flight.store(standing.in_flight as u64, Ordering::Relaxed);
    }
}

/// A request that was read and is to be answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    read_at: Instant,
    tier: Option<Tier>,
}

impl Ticket {
    /// A request has just been read; what it asks for is yet to be found out.
    pub(crate) fn now() -> Self {
        Self {
            read_at: Instant::now(),
            tier: None,
        }
    }

    /// It asks for this. Requests that name nothing have no place among the latencies.
    pub(crate) fn asks_for(mut self, operation: Option<Operation>) -> Self {
        self.tier = operation.and_then(Operation::tier);
        self
    }
}

/// Counts for one connection. When it goes, nothing of the connection is in flight or unsent any more.
#[derive(Debug)]
pub(crate) struct ConnectionCounters {
    shared: Arc<Counters>,
    figures: Arc<ConnectionFigures>,
    /// What was made seen.
    standing: Standing,
    answers: u64,
    pushes: u64,
}

impl ConnectionCounters {
    pub(crate) fn new(shared: Arc<Counters>, figures: Arc<ConnectionFigures>) -> Self {
        Self {
            shared,
            figures,
            standing: Standing::default(),
            answers: 0,
            pushes: 0,
        }
    }

    /// An answer is handed to the socket.
    pub(crate) fn answered(&mut self, ticket: Ticket, answer: &[u8]) {
        self.answers += 1;
        if let Some(tier) = ticket.tier {
            self.shared.answered(tier, ticket.read_at.elapsed());
        }
        if let Some(code) = message::error_code(answer) {
            self.shared.failed(code);
        }
    }

    /// A message about a subscription is handed to the socket. It tells of so many changes that were left out.
    pub(crate) fn pushed(&mut self, missed: u64) {
        self.pushes += 1;
        self.shared.add(Count::MissedChanges, missed);
    }

    /// So many updates were replaced by newer ones.
    pub(crate) fn coalesced(&self, updates: u64) {
        self.shared.add(Count::Coalesced, updates);
    }

    /// The server begins to close the connection.
    pub(crate) fn closed(&self, code: CloseCode) {
        self.shared.closed(code);
    }

    /// Makes seen what the round that is over has done.
    pub(crate) fn settle(&mut self, standing: Standing) {
        self.shared.add(Count::Answers, std::mem::take(&mut self.answers));
        self.shared.add(Count::Pushes, std::mem::take(&mut self.pushes));
        let before = std::mem::replace(&mut self.standing, standing);
        if before == standing {
            return;
        }
        for ((count, before), (_, now)) in before.counts().into_iter().zip(standing.counts()) {
            self.shared.shift(count, before, now);
        }
        self.figures.show(&standing);
    }
}

impl Drop for ConnectionCounters {
    fn drop(&mut self) {
        self.settle(Standing {
            traffic: self.standing.traffic,
            ..Standing::default()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{ErrorCode, Number};

    fn standing(messages_in: u64, unsent_bytes: usize, in_flight: usize) -> Standing {
        let mut traffic = Traffic::default();
        for _ in 0..messages_in {
            traffic.receive(10);
            traffic.send(100);
        }
        Standing {
            traffic,
            unsent_bytes,
            in_flight,
        }
    }

    #[test]
    fn several_connections_add_up_and_one_that_goes_takes_only_what_it_holds_at_present() {
        let shared = Arc::new(Counters::default());
        let figures = [ConnectionFigures::new(1), ConnectionFigures::new(2)];
        let [mut first, mut second] = figures.clone().map(|figures| ConnectionCounters::new(Arc::clone(&shared), figures));
        first.settle(standing(1, 500, 3));
        first.settle(standing(3, 200, 1));
        second.settle(standing(2, 40, 0));
        let totals = |counts: &[Count]| counts.iter().map(|count| shared.total(*count)).collect::<Vec<_>>();
        let flow = [Count::MessagesIn, Count::BytesIn, Count::MessagesOut, Count::BytesOut];
        let level = [Count::UnsentBytes, Count::InFlight];
        assert_eq!(totals(&flow), [5, 50, 5, 500]);
        assert_eq!(totals(&level), [240, 1]);
        assert_eq!(figures[0].bytes_out.load(Ordering::Relaxed), 300);
        drop(first);
        assert_eq!(totals(&flow), [5, 50, 5, 500]);
        assert_eq!(totals(&level), [40, 0]);
    }

    #[test]
    fn an_answer_is_counted_once_whatever_the_rounds_and_errors_by_their_code() {
        let shared = Arc::new(Counters::default());
        let mut counters = ConnectionCounters::new(Arc::clone(&shared), ConnectionFigures::new(1));
        let read = Ticket::now().asks_for(Some(Operation::StoreGet));
        counters.answered(read, &message::result(Number::Int(1), Some(b"null")));
        counters.settle(Standing::default());
        counters.answered(read, &message::error(Number::Int(-2), ErrorCode::NotFound, "no", None));
        counters.answered(Ticket::now(), &message::error(Number::Int(3), ErrorCode::ParseError, "no", None));
        counters.settle(Standing::default());
        counters.settle(Standing::default());
        assert_eq!(shared.total(Count::Answers), 3);
        assert_eq!(
            (shared.latency(Tier::Read).count, shared.latency(Tier::Admin).count),
            (2, 0),
            "what names no operation has no latency"
        );
        let errors = ErrorCode::ALL.map(|code| shared.total_of_errors(code));
        assert_eq!(errors.iter().sum::<u64>(), 2);
        assert_eq!(
            (errors[ErrorCode::NotFound as usize], errors[ErrorCode::ParseError as usize]),
            (1, 1)
        );
    }
}
