//! Drives one connection: the only place where its socket, its session and its outbox meet.
//!
//! One task does everything, in rounds: what the outbox holds, the answers that are ready, pushes, requests that
//! have arrived, one flush. There is no queue between reading and answering, so that a request that can be
//! answered at once costs no more than its own work.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::outbox::{Outbox, Updates};
use super::phase::{Event, Phase};
use super::socket::{Incoming, LINGER, Socket};
use super::{Limits, Reply, Service};
use crate::protocol::{CloseCode, Envelope, Order, message};
use crate::server::admission::Admission;
use crate::server::statistics::{ConnectionCounters, Standing, Ticket};

/// The most messages taken from one socket before others have their turn.
const BATCH_MESSAGES: usize = 64;

/// How long a connection that is to close may take to answer what it was asked.
const DRAIN: Duration = Duration::from_secs(5);

/// The answer to a request, in the order of the requests.
enum Owed<P> {
    /// Known; it waits for those before it.
    Ready(Ticket, Vec<u8>),
    /// On its way.
    Later(Ticket, P),
}

/// A request that is being carried out alone.
type Work<C> = Pin<Box<dyn Future<Output = C> + Send>>;

/// How far a round's reading came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    /// All that had arrived is read; the task is woken when more does.
    Exhausted,
    /// Reading has to wait for answers, for the client to take what it was sent, or for nothing any more.
    Stopped,
    /// The batch is full; there may be more.
    BatchFull,
}

/// One connection at work.
pub(crate) struct Driver<S, V: Service> {
    socket: Socket<S>,
    service: V,
    outbox: Arc<Outbox>,
    limits: Limits,
    admission: Admission,
    phase: Phase,
    /// Answers owed to requests that were submitted one after the other, without waiting.
    owed: VecDeque<Owed<V::Pending>>,
    /// The request that is being carried out alone. Nothing is read meanwhile.
    alone: Option<(Ticket, Work<V::Completion>)>,
    /// A request that has to be carried out alone and waits for the answers to those before it.
    kept: Option<(Ticket, Utf8Bytes)>,
    /// Updates taken from the outbox that are not sent yet.
    updates: Updates,
    /// The ping whose time is up, until it is judged.
    overdue: Option<u64>,
    /// When the phase ends in any case. Only connections that are closing have such a moment, and a timer.
    deadline: Option<Pin<Box<Sleep>>>,
    counters: ConnectionCounters,
}

impl<S: AsyncRead + AsyncWrite + Unpin, V: Service> Driver<S, V> {
    pub(super) fn new(
        socket: Socket<S>,
        service: V,
        outbox: Arc<Outbox>,
        limits: Limits,
        admission: Admission,
        counters: ConnectionCounters,
    ) -> Self {
        Self {
            socket,
            service,
            outbox,
            limits,
            admission,
            phase: Phase::Open,
            owed: VecDeque::new(),
            alone: None,
            kept: None,
            updates: Updates::default(),
            overdue: None,
            deadline: None,
            counters,
        }
    }

    /// Greets the client, serves it until the connection ends, and closes the socket.
    ///
    /// What is large is boxed, and so is what comes at the end: this future stays as long as the connection does.
    pub(super) async fn run(mut self: Box<Self>, welcome: Vec<u8>) {
        self.socket.send(welcome);
        poll_fn(|cx| self.poll(cx)).await;
        Box::pin(self.finish()).await;
    }

    async fn finish(mut self: Box<Self>) {
        self.settle();
        let Self { socket, service, .. } = *self;
        // The subscriptions need not wait for the peer.
        drop(service);
        socket.finish().await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Before anything is taken from the outbox, so that nothing that comes later is missed.
        self.outbox.register(cx.waker());
        let mut batch = BATCH_MESSAGES;
        loop {
            while let Some(deadline) = &mut self.deadline
                && deadline.as_mut().poll(cx).is_ready()
            {
                self.deadline = None;
                self.happen(Event::TimeUp);
            }
            match self.phase {
                Phase::Open | Phase::Draining(_) => {
                    if !self.serve(cx, &mut batch) {
                        return Poll::Pending;
                    }
                }
                Phase::Closing(_) => {
                    ready!(self.socket.poll_closed(cx));
                    self.happen(Event::Settled);
                }
                Phase::Closed => return Poll::Ready(()),
            }
        }
    }

    /// One round. Tells whether another one is to follow at once.
    ///
    /// The order of the first three steps is a promise: a push that a connection's own request causes comes after
    /// the answer to it. The store has resolved the answers of a commit before it hands out the commit's updates.
    /// So for every update that is taken here the answer is ready, and it is sent in the second step.
    fn serve(&mut self, cx: &mut Context<'_>, batch: &mut usize) -> bool {
        let phase = self.phase;
        self.take_from_outbox();
        self.send_ready_answers(cx);
        self.send_updates();

        self.admission.poll_pause(cx);
        let input = self.receive(cx, batch);
        self.admission.poll_pause(cx);
        // Polls what has just been submitted, so that the task is woken by its answer.
        self.send_ready_answers(cx);
        self.judge_overdue_pong(input);
        let flushed = match self.socket.poll_flush(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(_)) => {
                self.happen(Event::Gone);
                true
            }
            Poll::Pending => false,
        };
        if matches!(self.phase, Phase::Draining(_)) && flushed && self.owed.is_empty() && self.alone.is_none() {
            self.happen(Event::Settled);
        }
        self.settle();
        if input == Input::BatchFull {
            cx.waker().wake_by_ref();
        }
        self.phase != phase
            || (input == Input::Stopped && self.may_receive())
            || (flushed && (!self.updates.is_empty() || self.service.has_backlog()))
    }

    /// Makes the round seen in the statistics.
    fn settle(&mut self) {
        self.counters.coalesced(self.updates.take_coalesced());
        self.counters.settle(Standing {
            traffic: self.socket.traffic(),
            unsent_bytes: self.socket.unsent(),
            in_flight: self.owed.len() + usize::from(self.alone.is_some()) + usize::from(self.kept.is_some()),
        });
    }

    fn take_from_outbox(&mut self) {
        let signals = self.outbox.take(&mut self.updates);
        if let Some(notice) = signals.notice {
            self.socket.send(notice);
        }
        if let Some(timestamp) = signals.ping {
            // Ahead of answers that wait: the client cannot answer in time what it gets late.
            self.socket.send_first(message::ping(timestamp));
        }
        self.overdue = signals.overdue.or(self.overdue);
        if let Some(code) = signals.close {
            self.happen(Event::Finish(code));
        }
    }

    fn send_ready_answers(&mut self, cx: &mut Context<'_>) {
        while let Some(first) = self.owed.front_mut() {
            let (ticket, answer) = match first {
                Owed::Ready(ticket, answer) => (*ticket, std::mem::take(answer)),
                Owed::Later(ticket, pending) => match Pin::new(pending).poll(cx) {
                    Poll::Ready(answer) => (*ticket, answer),
                    Poll::Pending => return,
                },
            };
            self.owed.pop_front();
            self.answer(ticket, answer);
        }
        if let Some((ticket, alone)) = &mut self.alone
            && let Poll::Ready(completion) = alone.as_mut().poll(cx)
        {
            let ticket = *ticket;
            self.alone = None;
            let answer = self.service.complete(completion);
            self.answer(ticket, answer);
        }
    }

    fn answer(&mut self, ticket: Ticket, answer: Vec<u8>) {
        self.counters.answered(ticket, &answer);
        self.socket.send(answer);
    }

    /// Sends updates while the client keeps up. Of what stays, only the newest state of each subscription is kept.
    fn send_updates(&mut self) {
        while self.socket.unsent() < self.limits.high_water_bytes {
            if let Some(missed) = self.service.backlog() {
                self.counters.pushed(0);
                self.socket.send(missed);
                continue;
            }
            let Some((id, update)) = self.updates.pop() else { return };
            let missed = update.missed_changes();
            if let Some(push) = self.service.message(id, update) {
                self.counters.pushed(missed);
                self.socket.send(push);
            }
        }
    }

    /// Whether a request may be taken now. Otherwise the socket is left alone, and TCP makes the client wait.
    fn may_receive(&self) -> bool {
        self.phase == Phase::Open
            && self.alone.is_none()
            && !self.admission.is_paused()
            && self.owed.len() < self.limits.requests_in_flight_max
            && (self.kept.is_none() || self.owed.is_empty())
            && !self.client_is_behind()
    }

    fn client_is_behind(&self) -> bool {
        self.socket.unsent() >= self.limits.high_water_bytes
    }

    fn receive(&mut self, cx: &mut Context<'_>, batch: &mut usize) -> Input {
        while self.may_receive() {
            let Some(rest) = batch.checked_sub(1) else {
                return Input::BatchFull;
            };
            *batch = rest;
            if let Some((ticket, text)) = self.kept.take() {
                self.carry_out(ticket, text, cx);
                continue;
            }
            let Poll::Ready(incoming) = self.socket.poll_receive(cx) else {
                return Input::Exhausted;
            };
            match incoming {
                Incoming::Text(text) => self.carry_out(Ticket::now(), text, cx),
                Incoming::Control => {}
                Incoming::Binary => self.happen(Event::Finish(CloseCode::BinaryNotSupported)),
                Incoming::Fault(code) => self.happen(Event::Finish(code)),
                Incoming::Close => self.happen(Event::PeerClosed),
                Incoming::Gone => self.happen(Event::Gone),
            }
        }
        Input::Stopped
    }

    fn carry_out(&mut self, ticket: Ticket, text: Utf8Bytes, cx: &mut Context<'_>) {
        let request = match Envelope::parse_within(&text, self.limits.message_depth_max) {
            Ok(Envelope::Request(request)) => request,
            Ok(Envelope::Pong { timestamp }) => return self.outbox.pong(timestamp),
            Err(answer) => return self.refuse(ticket, answer),
        };
        let ticket = ticket.asks_for(request.operation());
        if request.order() == Order::Alone && !self.owed.is_empty() {
            self.send_ready_answers(cx);
            if !self.owed.is_empty() {
                drop(request);
                self.kept = Some((ticket, text));
                return;
            }
        }
        if let Err(failure) = self.admission.admit(&request) {
            return self.owe(ticket, failure.answer(request.id(), false));
        }
        match self.service.handle(&request) {
            Reply::Now(answer) => self.owe(ticket, answer),
            Reply::Later(pending) => self.owed.push_back(Owed::Later(ticket, pending)),
            Reply::Alone(future) => self.alone = Some((ticket, future)),
        }
    }

    /// Answers a message whose form is wrong, unless there were too many of them.
    fn refuse(&mut self, ticket: Ticket, answer: Vec<u8>) {
        match self.admission.count_refused() {
            Ok(()) => self.owe(ticket, answer),
            Err(code) => self.happen(Event::Finish(code)),
        }
    }

    /// Sends the answer, after those that are owed already.
    fn owe(&mut self, ticket: Ticket, answer: Vec<u8>) {
        if self.owed.is_empty() {
            self.answer(ticket, answer);
        } else {
            self.owed.push_back(Owed::Ready(ticket, answer));
        }
    }

    /// Gives up a client whose pong is overdue, but not before what has already arrived is read: the pong may be
    /// among it, behind a request that took long. A client that takes nothing of what it is sent is not read, and
    /// it is not waited for.
    fn judge_overdue_pong(&mut self, input: Input) {
        let Some(timestamp) = self.overdue else { return };
        if !self.outbox.awaits_pong(timestamp) {
            self.overdue = None;
        } else if input == Input::Exhausted || self.client_is_behind() {
            self.happen(Event::Abort(CloseCode::HeartbeatTimeout));
        }
    }

    fn happen(&mut self, event: Event) {
        let next = self.phase.after(event);
        if next == self.phase {
            return;
        }
        self.phase = next;
        match next {
            Phase::Open => {}
            Phase::Draining(_) => self.deadline = Some(Box::pin(tokio::time::sleep(DRAIN))),
            Phase::Closing(code) => {
                self.forget();
                self.deadline = Some(Box::pin(tokio::time::sleep(LINGER)));
                if let Some(code) = code {
                    self.counters.closed(code);
                    self.socket.close(code);
                }
            }
            Phase::Closed => self.forget(),
        }
    }

    /// Drops all that will not be sent any more.
    fn forget(&mut self) {
        self.outbox.close();
        self.updates = Updates::default();
        self.owed.clear();
        self.alone = None;
        self.kept = None;
    }
}
