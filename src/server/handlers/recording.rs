//! How requests get into the audit log. With it off, each of these looks at one `Option`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::Session;
use super::answer::{Completion, Handled, PendingAnswer, WriteAnswer};
use super::failure::Failure;
use crate::protocol::{ErrorCode, Number, Request};
use crate::server::access::Change;
use crate::server::audit::{Durable, Event, NotRecorded, Trace};

/// Work whose outcome is the session's to see.
type Work = Pin<Box<dyn Future<Output = Completion> + Send>>;

/// What is refused because it could not be recorded.
const CANNOT_RECORD: &str = "Not carried out: the audit log cannot be written";

/// What is answered where the disk fails between the deed and its record.
const NOT_RECORDED: &str = "Carried out, but the audit log cannot be written";

impl Session {
    /// What goes along with a request, where it is recorded.
    pub(super) fn trace_of(&self, request: &Request<'_>) -> Option<Box<Trace>> {
        let log = self.context.audit.as_ref()?;
        let selection = log.select(request)?;
        Some(Box::new(Trace::begin(log, selection, request, &self.access)))
    }

    /// Records that a request was not begun.
    pub(crate) fn record_refusal(&self, request: &Request<'_>, failure: &Failure) {
        if let Some(trace) = self.trace_of(request) {
            trace.refused(failure, &self.access);
        }
    }

    /// Records something that has happened to whoever is logged in.
    pub(crate) fn record_event(&self, event: Event) {
        if let (Some(log), Some(login)) = (&self.context.audit, self.access.login()) {
            Trace::record_event(log, event, login, &self.access);
        }
    }

    /// Brings login and rights up to date, and records where the session has come to its end by that.
    pub(super) fn refresh(&mut self, now_ms: u64, used: bool) -> Change {
        let Some(log) = &self.context.audit else {
            return self.access.refresh(now_ms, used);
        };
        let login = self.access.login().cloned();
        let change = self.access.refresh(now_ms, used);
        if let (Change::SessionOver, Some(login)) = (change, login) {
            let event = if self.access.has_just_expired() {
                Event::Expired
            } else {
                Event::Ended
            };
            Trace::record_event(log, event, &login, &self.access);
        }
        change
    }

    /// Carries out a request that is recorded, or begins to.
    pub(super) fn handle_recorded(&mut self, request: &Request<'_>, mut trace: Box<Trace>) -> Handled {
        let (id, expose_details) = (request.id(), self.context.expose_error_details);
        let is_failing = self.context.audit.as_ref().is_some_and(|log| log.is_failing());
        if trace.selection().must_be_recorded() && is_failing {
            let failure = Failure::new(ErrorCode::StorageUnavailable, CANNOT_RECORD);
            trace.refused(&failure, &self.access);
            return Handled::Answer(failure.answer(id, expose_details));
        }
        if let Err(wait) = trace.take_room() {
            let failure = Failure::rate_limited(wait);
            trace.refused(&failure, &self.access);
            return Handled::Answer(failure.answer(id, expose_details));
        }
        match self.dispatch(request) {
            Err(failure) => {
                let durable = trace.finish(&self.access, Err(&failure));
                answer_when(durable, failure.answer(id, expose_details), None)
            }
            Ok(Handled::Answer(answer)) => {
                let unrecorded = Unrecorded::of(&trace, id, expose_details);
                let durable = trace.finish(&self.access, Ok(()));
                answer_when(durable, answer, unrecorded)
            }
            Ok(Handled::Pending(PendingAnswer::Write(write))) => {
                let unrecorded = Unrecorded::of(&trace, id, expose_details);
                let stage = Stage::Write(write, Some(trace));
                Handled::Pending(PendingAnswer::Recorded(Box::new(RecordedAnswer { stage, unrecorded })))
            }
            Ok(Handled::Alone(work)) => {
                self.trace = Some(trace);
                Handled::Alone(work)
            }
            // No handler makes one: it is what becomes of the others here.
            Ok(Handled::Pending(recorded @ PendingAnswer::Recorded(_))) => Handled::Pending(recorded),
        }
    }

    /// Records what came of a request that was carried out alone. Gives what its answer waits for.
    pub(super) fn record_completion(&self, mut trace: Trace, completion: &mut Completion) -> Option<Work> {
        trace.note(std::mem::take(&mut completion.noted));
        let may_fail = trace.selection().must_be_recorded();
        let outcome = completion.outcome.as_ref().map(|_| ());
        let durable = trace.finish(&self.access, outcome)?;
        let id = completion.id;
        let outcome = std::mem::replace(&mut completion.outcome, Ok(Vec::new()));
        Some(Box::pin(async move {
            let recorded = durable.await;
            let outcome = match recorded {
                Err(NotRecorded) if may_fail => outcome.and(Err(not_recorded())),
                Ok(()) | Err(NotRecorded) => outcome,
            };
            Completion::new(id, outcome)
        }))
    }
}

fn not_recorded() -> Failure {
    Failure::new(ErrorCode::StorageUnavailable, NOT_RECORDED)
}

/// What is answered in the place of a success that could not be recorded.
struct Unrecorded(Vec<u8>);

impl Unrecorded {
    /// None where the success is told nevertheless.
    fn of(trace: &Trace, id: Number, expose_details: bool) -> Option<Self> {
        let must_be_recorded = trace.selection().must_be_recorded();
        must_be_recorded.then(|| Self(not_recorded().answer(id, expose_details)))
    }
}

/// An answer that is there, and goes out when it is recorded.
fn answer_when(durable: Option<Durable>, answer: Vec<u8>, unrecorded: Option<Unrecorded>) -> Handled {
    match durable {
        None => Handled::Answer(answer),
        Some(durable) => {
            let stage = Stage::Recording(durable, answer);
            Handled::Pending(PendingAnswer::Recorded(Box::new(RecordedAnswer { stage, unrecorded })))
        }
    }
}

enum Stage {
    /// The write is on its way. What goes along with it is taken when it is there.
    Write(WriteAnswer, Option<Box<Trace>>),
    /// The record is on its way.
    Recording(Durable, Vec<u8>),
}

/// The answer to a request that is recorded, there when its record is as durable as it has to be.
pub struct RecordedAnswer {
    stage: Stage,
    unrecorded: Option<Unrecorded>,
}

impl RecordedAnswer {
    /// How large the answer will be, as far as could be known before.
    pub(super) fn expected_bytes(&self) -> usize {
        match &self.stage {
            Stage::Write(write, _) => write.expected_bytes,
            Stage::Recording(_, answer) => answer.len(),
        }
    }

    /// Whether others can see already what was done.
    pub(super) fn is_done(&self) -> bool {
        match self.stage {
            Stage::Write(..) => false,
            Stage::Recording(..) => true,
        }
    }
}

impl Future for RecordedAnswer {
    type Output = Vec<u8>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Vec<u8>> {
        loop {
            let Self { stage, unrecorded } = &mut *self;
            match stage {
                Stage::Write(write, trace) => {
                    let Poll::Ready(outcome) = write.poll_outcome(context) else {
                        return Poll::Pending;
                    };
                    if outcome.is_err() {
                        *unrecorded = None;
                    }
                    let seen = outcome.as_ref().map(|_| ());
                    let durable = trace.take().and_then(|trace| trace.finish_of_same_user(seen));
                    let answer = write.encode(outcome);
                    match durable {
                        None => return Poll::Ready(answer),
                        Some(durable) => *stage = Stage::Recording(durable, answer),
                    }
                }
                Stage::Recording(durable, answer) => {
                    return durable.as_mut().poll(context).map(|recorded| match (recorded, unrecorded.take()) {
                        (Err(NotRecorded), Some(Unrecorded(refusal))) => refusal,
                        (Ok(()) | Err(NotRecorded), _) => std::mem::take(answer),
                    });
                }
            }
        }
    }
}
