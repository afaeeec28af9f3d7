//! The answers that a connection owes, in the order of the requests.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::Service;
use crate::protocol::Number;
use crate::protocol::message::ResultList;
use crate::server::handlers::Finished;
use crate::server::statistics::{ConnectionCounters, Ticket};

/// Something that is owed, behind what was owed before it.
enum Owed<P> {
    /// An answer that is known and waits for those before it.
    Ready(Ticket, Vec<u8>),
    /// An answer that is on its way.
    Later(Ticket, P),
    /// From here on answers are part of the answer to a batch.
    BatchBegins { id: Number, serial: u64 },
    /// The answer to the batch is complete.
    BatchEnds,
}

/// A request that is being carried out alone.
type Work<C> = Pin<Box<dyn Future<Output = C> + Send>>;

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
    alone: Option<(Ticket, Work<V::Completion>)>,
    collecting: Option<Collecting>,
    /// Batches that are begun and not answered.
    batches: usize,
    counters: ConnectionCounters,
}

impl<V: Service> Answers<V> {
    pub(super) fn new(counters: ConnectionCounters) -> Self {
        Self {
            owed: VecDeque::new(),
            alone: None,
            collecting: None,
            batches: 0,
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

    /// Whether a batch is being answered: pushes that it may have caused must wait for its answer.
    pub(super) fn has_batch(&self) -> bool {
        self.batches > 0
    }

    /// How many bytes of the answer to this batch there are.
    pub(super) fn batch_bytes(&self, serial: u64) -> usize {
        let collecting = self.collecting.as_ref().filter(|collecting| collecting.serial == serial);
        collecting.map_or(0, |collecting| collecting.answers.bytes())
    }

    /// Owes an answer that is known, behind those that are owed already.
    pub(super) fn owe(&mut self, ticket: Ticket, answer: Vec<u8>, send: impl FnOnce(Vec<u8>)) {
        if self.owed.is_empty() {
            self.deliver(ticket, answer, send);
        } else {
            self.owed.push_back(Owed::Ready(ticket, answer));
        }
    }

    /// Owes an answer that is on its way.
    pub(super) fn owe_later(&mut self, ticket: Ticket, pending: V::Pending) {
        self.owed.push_back(Owed::Later(ticket, pending));
    }

    /// Owes the answer to a request that is carried out alone. Nothing else may be owed.
    pub(super) fn owe_alone(&mut self, ticket: Ticket, alone: Work<V::Completion>) {
        self.alone = Some((ticket, alone));
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

    /// Sends the answers that are ready, and has the task woken by the next one.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, service: &mut V, mut send: impl FnMut(Vec<u8>)) {
        while let Some(mut first) = self.owed.pop_front() {
            match &mut first {
                Owed::Ready(ticket, answer) => self.deliver(*ticket, std::mem::take(answer), &mut send),
                Owed::Later(ticket, pending) => match Pin::new(pending).poll(cx) {
                    Poll::Ready(answer) => self.deliver(*ticket, answer, &mut send),
                    Poll::Pending => {
                        self.owed.push_front(first);
                        return;
                    }
                },
                Owed::BatchBegins { id, serial } => {
                    self.collecting = Some(Collecting {
                        serial: *serial,
                        answers: ResultList::new(*id),
                    });
                }
                Owed::BatchEnds => {
                    self.batches -= 1;
                    if let Some(collecting) = self.collecting.take() {
                        send(collecting.answers.finish());
                    }
                }
            }
        }
        while let Some((ticket, alone)) = &mut self.alone
            && let Poll::Ready(completion) = alone.as_mut().poll(cx)
        {
            let ticket = *ticket;
            self.alone = None;
            match service.complete(completion) {
                Finished::Answer(answer) => self.deliver(ticket, answer, &mut send),
                Finished::Waits(work) => self.alone = Some((ticket, work)),
            }
        }
    }

    fn deliver(&mut self, ticket: Ticket, answer: Vec<u8>, send: impl FnOnce(Vec<u8>)) {
        self.counters.answered(ticket, &answer);
        match &mut self.collecting {
            Some(collecting) => collecting.answers.push(&answer),
            None => send(answer),
        }
    }
}
