//! Drives one connection: the only place where its socket, its session and its outbox meet.
//!
//! One task does everything, in rounds: what the outbox holds, the answers that are ready, pushes, requests that
//! have arrived, one flush. There is no queue between reading and answering, so that a request that can be
//! answered at once costs no more than its own work.

mod requests;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::coop;
use tokio::time::Sleep;

use super::answers::Answers;
use super::batch::Batch;
use super::intake::Intake;
use super::outbox::Outbox;
use super::phase::{Event, Phase};
use super::pulse::{Look, Pulse};
use super::slowness::Slowness;
use super::socket::{LINGER, Socket};
use super::updates::Updates;
use super::{Limits, Service};
use crate::protocol::{CloseCode, message};
use crate::server::access::Work;
use crate::server::admission::Admission;
use crate::server::statistics::{ConnectionCounters, Standing, Ticket};

/// The most steps of one connection before others have their turn: a message read, or a request begun.
const TURN_STEPS: usize = 128;

/// How long a connection that is to close may take to answer what it was asked.
const DRAIN: Duration = Duration::from_secs(5);

/// How far a round's reading came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    /// All that had arrived is read; the task is woken when more does.
    Exhausted,
    /// Reading has to wait for answers, for the client to take what it was sent, or for nothing any more.
    Stopped,
    /// There may be more, but it is the turn of others.
    Interrupted,
}

/// What a poll of the connection came to.
enum Turn {
    /// The socket is at rest, and its buffers are larger than they need be.
    Renew,
    /// The connection is over.
    Over,
}

/// One connection at work.
pub(crate) struct Driver<S, V: Service> {
    socket: Socket<S>,
    service: V,
    outbox: Arc<Outbox>,
    limits: Limits,
    admission: Admission,
    phase: Phase,
    /// What has arrived and is not begun.
    intake: Intake,
    /// The batch whose requests are being begun, before anything else is.
    batch: Option<Batch>,
    /// How many batches there were.
    batches: u64,
    /// Whether the next request has to be carried out alone, so that it waits for the answers to those before it.
    next_waits: bool,
    /// While it goes on, nobody knows whether the next request may be carried out.
    asking: Option<Work<()>>,
    answers: Answers<V>,
    /// Whether there may be answers that wait for the client to take others.
    answers_wait: bool,
    /// Updates taken from the outbox that are not sent yet.
    updates: Updates,
    /// Whether the outbox was told that updates are held back.
    holding: bool,
    pulse: Pulse,
    slowness: Slowness,
    /// Whether there was a ping since the socket was renewed last: for buffers that are not huge, once per heartbeat
    /// is often enough.
    renewal_is_due: bool,
    /// When the phase ends in any case. Only connections that are closing have such a moment, and a timer.
    deadline: Option<Pin<Box<Sleep>>>,
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
            intake: Intake::default(),
            batch: None,
            batches: 0,
            next_waits: false,
            asking: None,
            answers: Answers::new(counters),
            answers_wait: false,
            updates: Updates::new(limits.held),
            holding: false,
            pulse: Pulse::default(),
            slowness: Slowness::default(),
            renewal_is_due: false,
            deadline: None,
        }
    }

    /// Greets the client, serves it until the connection ends, and closes the socket.
    ///
    /// What is large is boxed, and so is what comes at the end: this future stays as long as the connection does.
    pub(super) async fn run(mut self: Box<Self>, welcome: Vec<u8>) {
        self.socket.send(welcome);
        while let Turn::Renew = poll_fn(|cx| self.poll(cx)).await {
            self = Box::pin(self.renew()).await;
        }
        Box::pin(self.finish()).await;
    }

    async fn renew(mut self: Box<Self>) -> Box<Self> {
        self.socket = self.socket.renewed().await;
        self.renewal_is_due = false;
        self
    }

    async fn finish(mut self: Box<Self>) {
        self.settle();
        let Self { socket, service, .. } = *self;
        // The subscriptions need not wait for the peer.
        drop(service);
        socket.finish().await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        // Before anything is taken from the outbox, so that nothing that comes later is missed.
        self.outbox.register(cx.waker());
        let mut budget = TURN_STEPS;
        loop {
            while let Some(deadline) = &mut self.deadline
                && deadline.as_mut().poll(cx).is_ready()
            {
                self.deadline = None;
                self.happen(Event::TimeUp);
            }
            match self.phase {
                Phase::Open | Phase::Draining(_) => {
                    if !self.serve(cx, &mut budget) {
                        if self.phase == Phase::Open && self.socket.should_be_renewed(self.renewal_is_due) {
                            return Poll::Ready(Turn::Renew);
                        }
                        return Poll::Pending;
                    }
                }
                Phase::Closing(_) => {
                    ready!(self.socket.poll_closed(cx));
                    self.happen(Event::Settled);
                }
                Phase::Closed => return Poll::Ready(Turn::Over),
            }
        }
    }

    /// One round. Tells whether another one is to follow at once.
    ///
    /// The order of the first three steps is a promise: a push that a connection's own request causes comes after
    /// the answer to it. The store has resolved the answers of a commit before it hands out the commit's updates.
    /// So for every update that is taken here the answer is ready, and it is sent in the second step; where something
    /// else holds the answer up, it holds updates up too.
    fn serve(&mut self, cx: &mut Context<'_>, budget: &mut usize) -> bool {
        let phase = self.phase;
        self.take_from_outbox();
        self.send_ready_answers(cx);
        self.send_updates();

        self.admission.poll_pause(cx);
        self.poll_asking(cx);
        let input = self.receive(cx, budget);
        self.admission.poll_pause(cx);
        // What was asked just now, so that the task is woken by the answer.
        self.poll_asking(cx);
        if matches!(self.phase, Phase::Draining(_)) {
            self.refuse_rest_of_batch();
        }
        // Polls what has just been submitted, so that the task is woken by its answer.
        self.send_ready_answers(cx);
        let flushed = match self.socket.poll_flush(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(_)) => {
                self.happen(Event::Gone);
                true
            }
            Poll::Pending => false,
        };
        self.judge_client(cx, input, flushed);
        let is_draining = matches!(self.phase, Phase::Draining(_));
        if is_draining && flushed && self.answers.is_empty() && self.batch.is_none() {
            self.happen(Event::Settled);
        }
        self.settle();
        if input == Input::Interrupted {
            cx.waker().wake_by_ref();
        }
        let may_go_on = match self.phase {
            Phase::Open => input != Input::Interrupted && self.has_next(),
            Phase::Draining(_) => self.batch.is_some() && !self.answers.is_alone(),
            Phase::Closing(_) | Phase::Closed => false,
        };
        let news = self.hold_updates();
        self.phase != phase || may_go_on || news || (flushed && (self.answers_wait || self.has_update()))
    }

    fn poll_asking(&mut self, cx: &mut Context<'_>) {
        if let Some(asking) = &mut self.asking
            && asking.as_mut().poll(cx).is_ready()
        {
            self.asking = None;
        }
    }

    /// Makes the round seen in the statistics.
    fn settle(&mut self) {
        let standing = Standing {
            traffic: self.socket.traffic(),
            unsent_bytes: self.socket.unsent(),
            in_flight: self.answers.in_flight() + usize::from(self.answers.is_alone() || self.asking.is_some()),
        };
        let coalesced = self.updates.take_coalesced();
        let counters = self.answers.counters();
        counters.coalesced(coalesced);
        counters.settle(standing);
    }

    fn take_from_outbox(&mut self) {
        let signals = self.outbox.take(&mut self.updates);
        if let Some(notice) = signals.notice {
            self.socket.send(notice);
        }
        if let Some(timestamp) = signals.ping {
            // Ahead of answers that wait: the client cannot answer in time what it gets late.
            self.socket.send_first(message::ping(timestamp));
            self.pulse.ping();
            self.renewal_is_due = true;
        }
        if let Some(timestamp) = signals.overdue {
            self.pulse.time_is_up(timestamp);
        }
        if signals.recheck
            && let Some(code) = self.service.recheck()
        {
            self.happen(Event::Finish(code));
        }
        if let Some(code) = signals.close {
            self.happen(Event::Finish(code));
        }
    }

    /// Outside of the task's share of steps: once that is used up, an answer that is ready would look as if it were
    /// not, and the updates that come behind it would be sent before it, or be lost where they are those of a
    /// subscription that the session is only about to learn of.
    fn send_ready_answers(&mut self, cx: &mut Context<'_>) {
        let mut sending = coop::unconstrained(poll_fn(|cx| {
            self.send_answers(cx);
            Poll::Ready(())
        }));
        let sent = Pin::new(&mut sending).poll(cx);
        debug_assert!(sent.is_ready(), "it is done at once");
    }

    /// Sends answers while the client keeps up. What stays is not written out.
    fn send_answers(&mut self, cx: &mut Context<'_>) {
        self.answers_wait = false;
        while !self.client_is_behind() {
            let Some(answer) = self.answers.next(cx, &mut self.service) else {
                return;
            };
            self.socket.send(answer);
        }
        self.answers_wait = !self.answers.is_empty();
    }

    /// Sends updates while the client keeps up. What stays is held within bounds.
    fn send_updates(&mut self) {
        while self.has_update() && !self.pushes_wait() {
            if let Some(past) = self.service.backlog() {
                self.answers.counters().pushed(0);
                self.socket.send(past);
                continue;
            }
            let Some((id, update)) = self.updates.pop() else { return };
            let missed = update.missed_changes();
            if let Some(push) = self.service.message(id, update) {
                self.answers.counters().pushed(missed);
                self.socket.send(push);
            }
        }
    }

    /// Tells the outbox whether updates are held back. Tells whether there are some that nobody has come for.
    fn hold_updates(&mut self) -> bool {
        let holding = self.has_update() && self.pushes_wait();
        if holding == self.holding {
            return false;
        }
        self.holding = holding;
        self.outbox.hold(holding) && !holding
    }

    fn pushes_wait(&self) -> bool {
        self.socket.unsent() >= self.limits.pushes_held_bytes
    }

    /// Whether there is an update that may be sent as far as answers are concerned.
    fn has_update(&self) -> bool {
        (!self.updates.is_empty() || self.service.has_backlog()) && !self.answers.hold_updates()
    }

    fn client_is_behind(&self) -> bool {
        self.socket.unsent() >= self.limits.high_water_bytes
    }

    /// Sends the answer, after those that are owed already.
    fn owe(&mut self, ticket: Ticket, answer: Vec<u8>) {
        if let Some(answer) = self.answers.owe(ticket, answer) {
            self.socket.send(answer);
        }
    }

    /// Gives up a client that is gone without a word, and one that has been too slow for too long.
    fn judge_client(&mut self, cx: &mut Context<'_>, input: Input, flushed: bool) {
        let look = Look {
            taken: self.socket.taken(),
            all_taken: flushed,
            all_read: input == Input::Exhausted,
        };
        if self.pulse.is_lost(look, &self.outbox) {
            self.happen(Event::Abort(CloseCode::HeartbeatTimeout));
        }
        let unsent = self.socket.unsent();
        let demand = self.limits.demand(unsent, self.answers_wait || self.has_update());
        if self.slowness.has_lasted(demand, look.taken, self.limits.grace, cx) {
            self.happen(Event::Abort(CloseCode::TooSlow));
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
            Phase::Draining(_) => {
                self.intake = Intake::default();
                self.asking = None;
                self.deadline = Some(Box::pin(tokio::time::sleep(DRAIN)));
            }
            Phase::Closing(code) => {
                self.forget();
                self.deadline = Some(Box::pin(tokio::time::sleep(LINGER)));
                if let Some(code) = code {
                    self.answers.counters().closed(code);
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
        self.answers.clear();
        self.batch = None;
        self.asking = None;
        self.intake = Intake::default();
    }
}
