//! Which requests are begun, and when: one by one, or one after the other out of a batch.

use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::coop;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::super::batch::{self, Batch};
use super::super::intake::Next;
use super::super::phase::{Event, Phase};
use super::super::{Reply, Service};
use super::{Driver, Input};
use crate::protocol::{Envelope, Operation, Order, Request, Tier};
use crate::server::handlers::Admittance;
use crate::server::statistics::Ticket;

impl<S: AsyncRead + AsyncWrite + Unpin, V: Service> Driver<S, V> {
    /// Whether a request may be begun now.
    fn may_begin(&self) -> bool {
        !self.answers.is_alone()
            && self.asking.is_none()
            && !self.admission.is_paused()
            && self.answers.in_flight() < self.limits.requests_in_flight_max
            && (!self.next_waits || self.answers.in_flight() == 0)
            && self.socket.unsent().saturating_add(self.answers.expected_bytes()) < self.limits.high_water_bytes
    }

    /// Whether the batch that is being begun goes on.
    fn may_go_on_with(&self, batch: &Batch) -> bool {
        // A batch ends behind the answer to its last request.
        if batch.first().is_none() {
            !self.answers.is_alone()
        } else {
            self.may_begin() && !self.may_be_full(batch)
        }
    }

    /// Whether answers have to be waited for to know whether there is room for more.
    fn may_be_full(&self, batch: &Batch) -> bool {
        let expected = self.answers.expected_bytes();
        expected > 0 && self.answers.batch_bytes(batch.serial).saturating_add(expected) > self.limits.result_bytes_max
    }

    /// Whether something can be begun at once.
    pub(super) fn has_next(&self) -> bool {
        match &self.batch {
            Some(batch) => self.may_go_on_with(batch),
            None => self.intake.has_next(self.may_begin()),
        }
    }

    /// Begins what may be begun and reads, a little ahead where nothing may.
    pub(super) fn receive(&mut self, cx: &mut Context<'_>, budget: &mut usize) -> Input {
        while self.phase == Phase::Open {
            let Some(rest) = budget.checked_sub(1) else {
                return Input::Interrupted;
            };
            if self.has_next() {
                self.begin_next(cx);
                *budget = rest;
                continue;
            }
            if self.intake.is_full(self.limits.requests_in_flight_max) || self.socket.must_send_first(cx) {
                return Input::Stopped;
            }
            match self.socket.poll_receive(cx) {
                Poll::Ready(incoming) => {
                    *budget = rest;
                    let may_begin = self.batch.is_none() && self.may_begin();
                    self.intake.add(incoming, may_begin, &self.outbox);
                }
                // Where the task has had its share, nobody has looked whether there is more.
                Poll::Pending if !coop::has_budget_remaining() => return Input::Interrupted,
                Poll::Pending => return Input::Exhausted,
            }
        }
        Input::Stopped
    }

    /// Begins the next request, of a batch or by itself, or attends to what else has arrived.
    fn begin_next(&mut self, cx: &mut Context<'_>) {
        if let Some(batch) = self.batch.take() {
            return self.go_on_with(batch, cx);
        }
        let (ticket, text) = match self.intake.next(self.may_begin()) {
            Some(Next::Message(ticket, text)) => (ticket, text),
            Some(Next::Event(event)) => return self.happen(event),
            None => return,
        };
        if !self.carry_out_message(ticket, &text, cx) {
            self.intake.put_back(ticket, text);
        }
    }

    /// Tells whether the message was begun; otherwise it has to wait for answers.
    fn carry_out_message(&mut self, ticket: Ticket, text: &Utf8Bytes, cx: &mut Context<'_>) -> bool {
        match Envelope::parse_within(text, self.limits.message_depth_max) {
            Ok(Envelope::Request(request)) if request.operation() == Some(Operation::Batch) => self.begin_batch(ticket, text, &request),
            Ok(Envelope::Request(request)) => return self.carry_out(ticket, &request, cx),
            Ok(Envelope::Pong { timestamp }) => self.outbox.pong(timestamp),
            Err(answer) => self.refuse(ticket, answer),
        }
        true
    }

    /// Answers what nobody is asked for: a message that is no request, or one that whoever sends it may not. Unless it is
    /// one too many; but in a batch that has its place in the list like all others.
    fn refuse(&mut self, ticket: Ticket, answer: Vec<u8>) {
        let counted = self.admission.count_refused();
        if counted.is_ok() || self.answers.has_batch() {
            self.owe(ticket, answer);
        }
        if let Err(code) = counted {
            self.happen(Event::Finish(code));
        }
    }

    /// Carries out a request, or begins to: the one place through which every request passes, in a batch or not.
    /// Tells whether it was begun; otherwise it has to wait for answers.
    fn carry_out(&mut self, ticket: Ticket, request: &Request<'_>, cx: &mut Context<'_>) -> bool {
        if request.order() == Order::Alone && self.answers.in_flight() > 0 {
            self.send_ready_answers(cx);
            self.next_waits = self.answers.in_flight() > 0;
            if self.next_waits {
                return false;
            }
        }
        self.next_waits = false;
        let ticket = ticket.asks_for(request.operation());
        match self.service.admit(request) {
            Admittance::Granted => {}
            Admittance::Refused(answer) => {
                self.refuse(ticket, answer);
                return true;
            }
            Admittance::Asking(asking) => {
                self.asking = Some(asking);
                return false;
            }
        }
        if let Some(user) = self.service.new_user() {
            self.admission.identify(user.as_ref().map(|user| &*user.user_id));
        }
        if let Err(failure) = self.admission.admit(request) {
            self.service.refused(request, &failure);
            // Its only detail is the time to wait, which is always shown.
            self.owe(ticket, failure.answer(request.id(), false));
            return true;
        }
        match self.service.handle(request) {
            Reply::Now(answer) => self.owe(ticket, answer),
            Reply::Later(pending) => self.answers.owe_later(ticket, pending),
            Reply::Alone(future) => {
                let reads = request.operation().and_then(Operation::tier) == Some(Tier::Read);
                self.answers.owe_alone(ticket, future, !reads);
            }
        }
        true
    }

    fn begin_batch(&mut self, ticket: Ticket, text: &Utf8Bytes, request: &Request<'_>) {
        let opened = Batch::open(ticket, text, request, self.batches + 1, self.limits.batch_requests_max);
        let counts_by_its_requests = opened.as_ref().is_ok_and(|batch| batch.first().is_some());
        if !counts_by_its_requests {
            // Nothing in it is judged and counted by itself.
            if let Admittance::Refused(answer) = self.service.admit(request) {
                return self.refuse(ticket, answer);
            }
            if let Err(failure) = self.admission.admit(request) {
                return self.owe(ticket, failure.answer(request.id(), false));
            }
        }
        match opened {
            Ok(batch) => {
                self.batches = batch.serial;
                self.answers.begin_batch(request.id(), batch.serial);
                self.batch = Some(batch);
            }
            Err(answer) => self.owe(ticket, answer),
        }
    }

    fn go_on_with(&mut self, mut batch: Batch, cx: &mut Context<'_>) {
        let Some(text) = batch.first() else {
            return self.answers.end_batch();
        };
        let bytes_max = self.limits.result_bytes_max;
        let begun = match batch::read_request(text) {
            Ok(request) if self.answers.batch_bytes(batch.serial) > bytes_max => {
                self.owe(batch.ticket, batch::refuse_beyond(request.id(), bytes_max));
                true
            }
            Ok(request) => self.carry_out(batch.ticket, &request, cx),
            Err(answer) => {
                self.refuse(batch.ticket, answer);
                true
            }
        };
        if begun {
            batch.advance();
        }
        self.batch = Some(batch);
    }

    /// Ends a batch in a connection that closes: the client learns which of its requests were not carried out.
    pub(super) fn refuse_rest_of_batch(&mut self) {
        if self.answers.is_alone() {
            return;
        }
        let Some(mut batch) = self.batch.take() else { return };
        while let Some(text) = batch.first() {
            let answer = batch::read_request(text).map_or_else(|answer| answer, |request| batch::refuse_at_close(request.id()));
            self.owe(batch.ticket, answer);
            batch.advance();
        }
        self.answers.end_batch();
    }
}
