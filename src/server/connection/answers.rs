//! The answers that a connection owes, in the order of the requests.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::{Awaited as _, Service};
use crate::protocol::Number;
use crate::protocol::message::ResultList;
use crate::server::handlers::Finished;
use crate::server::statistics::{ConnectionCounters, Ticket};

/// Something that is owed, behind what was owed before it.
enum Owed<P> {
    /// An answer that is known and waits for those before it.
    Ready(Ticket, Vec<u8>),
    /// An answer that is on its way.
    Later {
        ticket: Ticket,
        pending: P,
        /// How large it is expected to be.
        bytes: usize,
    },
    /// From here on answers are part of the answer to a batch.
    BatchBegins { id: Number, serial: u64 },
    /// The answer to the batch is complete.
    BatchEnds,
}

/// What a request that is carried out alone comes to.
type Work<C> = Pin<Box<dyn Future<Output = C> + Send>>;

/// A request that is being carried out alone.
struct Alone<C> {
    ticket: Ticket,
    work: Work<C>,
    /// Whether subscribers may be told of what it does.
    changes_things: bool,
}

/// The answer to a batch, as far as it goes.
struct Collecting {
    serial: u64,
    answers: ResultList,
}

/// Answers on their way to the client.
pub(super) struct Answers<V: Service> {
    /// What is owed to requests that were submitted one after the other, without waiting.
    owed: VecDeque<Owed<V::Pending>>,
    /// The request that is being carried out alone. No other is begun meanwhile.
    alone: Option<Alone<V::Completion>>,
    collecting: Option<Collecting>,
    /// Batches that are begun and not answered.
    batches: usize,
    /// How large the answers that are on their way are expected to be, together.
    expected_bytes: usize,
    counters: ConnectionCounters,
}

impl<V: Service> Answers<V> {
    pub(super) fn new(counters: ConnectionCounters) -> Self {
        Self {
            owed: VecDeque::new(),
            alone: None,
            collecting: None,
            batches: 0,
            expected_bytes: 0,
            counters,
        }
    }

    /// Counts what the connection does.
    pub(super) fn counters(&mut self) -> &mut ConnectionCounters {
        &mut self.counters
    }

    /// Drops all that is owed.
    pub(super) fn clear(&mut self) {
        self.owed.clear();
        self.alone = None;
        self.collecting = None;
        self.batches = 0;
        self.expected_bytes = 0;
    }

    /// The answers that are not there yet, but for that of a request that is carried out alone.
    pub(super) fn in_flight(&self) -> usize {
        self.owed.len()
    }

    /// Whether a request is being carried out alone.
    pub(super) fn is_alone(&self) -> bool {
        self.alone.is_some()
    }

    /// Whether nothing is owed.
    pub(super) fn is_empty(&self) -> bool {
        self.owed.is_empty() && self.alone.is_none()
    }

    /// How large the answers that are on their way are expected to be, together.
    pub(super) fn expected_bytes(&self) -> usize {
        self.expected_bytes
    }

    /// Whether a batch is being answered.
    pub(super) fn has_batch(&self) -> bool {
        self.batches > 0
    }

    /// Whether pushes may be about what a request did that is not answered: they must wait for its answer. A write is
    /// answered before others learn of it, unless its record has to be kept first.
    pub(super) fn hold_updates(&self) -> bool {
        let first_is_done = match self.owed.front() {
            Some(Owed::Later { pending, .. }) => pending.is_done(),
            Some(Owed::Ready(..) | Owed::BatchBegins { .. } | Owed::BatchEnds) | None => false,
        };
        first_is_done || self.has_batch() || self.alone.as_ref().is_some_and(|alone| alone.changes_things)
    }

    /// How many bytes of the answer to this batch there are.
    pub(super) fn batch_bytes(&self, serial: u64) -> usize {
        let collecting = self.collecting.as_ref().filter(|collecting| collecting.serial == serial);
        collecting.map_or(0, |collecting| collecting.answers.bytes())
    }

    /// Owes an answer that is known, behind those that are owed already. Gives what is to be sent at once.
    #[must_use]
    pub(super) fn owe(&mut self, ticket: Ticket, answer: Vec<u8>) -> Option<Vec<u8>> {
        if self.owed.is_empty() {
            return self.deliver(ticket, answer);
        }
        self.owed.push_back(Owed::Ready(ticket, answer));
        None
    }

    /// Owes an answer that is on its way.
    pub(super) fn owe_later(&mut self, ticket: Ticket, pending: V::Pending) {
        let bytes = pending.expected_bytes();
        self.expected_bytes = self.expected_bytes.saturating_add(bytes);
        self.owed.push_back(Owed::Later { ticket, pending, bytes });
    }

    /// Owes the answer to a request that is carried out alone. Nothing else may be owed.
    pub(super) fn owe_alone(&mut self, ticket: Ticket, work: Work<V::Completion>, changes_things: bool) {
        self.alone = Some(Alone {
            ticket,
            work,
            changes_things,
        });
    }

    /// Makes what is owed from here on a part of the answer to a batch.
    pub(super) fn begin_batch(&mut self, id: Number, serial: u64) {
        self.batches += 1;
        self.owed.push_back(Owed::BatchBegins { id, serial });
    }

    /// Ends the answer to the batch behind what is owed already.
    pub(super) fn end_batch(&mut self) {
        self.owed.push_back(Owed::BatchEnds);
    }

    /// The next answer, where it is ready; otherwise the task is woken by it. Answers that nobody asks for wait as they
    /// are: those to writes share their records with the store.
    pub(super) fn next(&mut self, cx: &mut Context<'_>, service: &mut V) -> Option<Vec<u8>> {
        while let Some(first) = self.owed.pop_front() {
            let answer = match first {
                Owed::Ready(ticket, answer) => self.deliver(ticket, answer),
                Owed::Later {
                    ticket,
                    mut pending,
                    bytes,
                } => match Pin::new(&mut pending).poll(cx) {
                    Poll::Ready(answer) => {
                        self.expected_bytes = self.expected_bytes.saturating_sub(bytes);
                        self.deliver(ticket, answer)
                    }
                    Poll::Pending => {
                        self.owed.push_front(Owed::Later { ticket, pending, bytes });
                        return None;
                    }
                },
                Owed::BatchBegins { id, serial } => {
                    let answers = ResultList::new(id);
                    self.collecting = Some(Collecting { serial, answers });
                    None
                }
                Owed::BatchEnds => {
                    self.batches -= 1;
                    self.collecting.take().map(|collecting| collecting.answers.finish())
                }
            };
            if answer.is_some() {
                return answer;
            }
        }
        self.next_of_alone(cx, service)
    }

    fn next_of_alone(&mut self, cx: &mut Context<'_>, service: &mut V) -> Option<Vec<u8>> {
        while let Some(alone) = &mut self.alone
            && let Poll::Ready(completion) = alone.work.as_mut().poll(cx)
        {
            match service.complete(completion) {
                Finished::Waits(work) => alone.work = work,
                Finished::Answer(answer) => {
                    let ticket = alone.ticket;
                    self.alone = None;
                    return self.deliver(ticket, answer);
                }
            }
        }
        None
    }

    /// Gives the answer, unless it becomes a part of another.
    fn deliver(&mut self, ticket: Ticket, answer: Vec<u8>) -> Option<Vec<u8>> {
        self.counters.answered(ticket, &answer);
        match &mut self.collecting {
            Some(collecting) => {
                collecting.answers.push(&answer);
                None
            }
            None => Some(answer),
        }
    }
}
