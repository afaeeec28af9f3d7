//! Answers that are not there yet: writes on their way to the disk, and requests that take their time.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use serde_json::{Map, Value};

use super::encode::Encoder;
use super::failure::Failure;
use super::recording::RecordedAnswer;
use super::subscriptions::Opened;
use crate::protocol::{ErrorCode, Number};
use crate::server::access::Login;
use crate::store::{Commit, Outcome, StoreError};

/// What became of a request that was handed to a [`super::Session`].
pub enum Handled {
    /// The complete answer.
    Answer(Vec<u8>),
    /// A write that has its place in the order of commits: the answer follows when it is durable. Further
    /// pipelined requests may be handed over meanwhile.
    Pending(PendingAnswer),
    /// Work that must be over before the next request begins; what it yields goes to
    /// [`super::Session::complete`].
    Alone(Pin<Box<dyn Future<Output = Completion> + Send>>),
}

/// What became of a request that was carried out alone, and whose outcome the session has seen.
pub enum Finished<C> {
    /// The complete answer.
    Answer(Vec<u8>),
    /// More work, which yields an outcome like the first.
    Waits(Pin<Box<dyn Future<Output = C> + Send>>),
}

/// What a request that was carried out alone came to.
pub struct Completion {
    pub(super) id: Number,
    pub(super) outcome: Result<Vec<u8>, Failure>,
    /// What the session is to do about it, before the answer is sent.
    pub(super) effect: Effect,
    /// What the audit log is to say of it beside what the request says.
    pub(super) noted: Map<String, Value>,
}

/// What a session is to do about the outcome of a request.
pub(super) enum Effect {
    Nothing,
    /// A subscription is open.
    Opened(Opened),
    /// Somebody has logged in.
    LoggedIn(Login),
    /// Nobody is logged in any more.
    LoggedOut,
}

impl Completion {
    /// An answer, or why there is none.
    pub(super) fn new(id: Number, outcome: Result<Vec<u8>, Failure>) -> Self {
        Self::with(id, outcome, Effect::Nothing)
    }

    pub(super) fn with(id: Number, outcome: Result<Vec<u8>, Failure>, effect: Effect) -> Self {
        Self {
            id,
            outcome,
            effect,
            noted: Map::new(),
        }
    }

    pub(super) fn noting(mut self, details: Map<String, Value>) -> Self {
        self.noted = details;
        self
    }

    /// The answer as it is sent.
    pub(super) fn encode(self, expose_details: bool) -> Vec<u8> {
        let id = self.id;
        self.outcome.unwrap_or_else(|failure| failure.answer(id, expose_details))
    }
}

/// What to answer when a write has succeeded.
pub(super) enum Success {
    /// This.
    Prepared(Vec<u8>),
    /// What the write did.
    Outcome,
    /// What the steps of a transaction did and read.
    Steps {
        /// Whether any of them writes.
        writes: bool,
    },
}

/// An answer that is on its way.
pub enum PendingAnswer {
    /// That to a write, there when the write is durable.
    Write(WriteAnswer),
    /// One that is recorded.
    Recorded(Box<RecordedAnswer>),
}

/// The answer to a write, there when the write is durable.
pub struct WriteAnswer {
    pub(super) commit: Commit,
    pub(super) success: Success,
    /// How large the answer will be, by what was known when the write was submitted.
    pub(super) expected_bytes: usize,
    pub(super) encoder: Encoder,
    pub(super) expose_details: bool,
}

impl WriteAnswer {
    /// What became of the write, when that is known.
    pub(super) fn poll_outcome(&mut self, context: &mut Context<'_>) -> Poll<Result<Vec<u8>, Failure>> {
        Pin::new(&mut self.commit).poll(context).map(|outcome| self.answer(outcome))
    }

    fn answer(&mut self, outcome: Result<Outcome, StoreError>) -> Result<Vec<u8>, Failure> {
        outcome.map_err(Failure::from).and_then(|outcome| match &mut self.success {
            Success::Prepared(answer) => Ok(std::mem::take(answer)),
            Success::Outcome | Success::Steps { writes: false } => self.encoder.outcome(&outcome).map_err(Failure::from),
            Success::Steps { writes: true } => self.encoder.outcome(&outcome).map_err(|_| self.committed_but_too_large()),
        })
    }

    /// The answer as it is sent.
    pub(super) fn encode(&self, outcome: Result<Vec<u8>, Failure>) -> Vec<u8> {
        outcome.unwrap_or_else(|failure| failure.answer(self.encoder.id, self.expose_details))
    }

    /// Not the code of a result that is too large, which invites to try again.
    fn committed_but_too_large(&self) -> Failure {
        let limit = self.encoder.max_bytes;
        Failure::new(
            ErrorCode::InternalError,
            format!("The transaction is committed, but what it read is larger than {limit} bytes"),
        )
    }
}

impl PendingAnswer {
    /// How large the answer will be, as far as could be known before.
    pub(crate) fn expected_bytes(&self) -> usize {
        match self {
            Self::Write(write) => write.expected_bytes,
            Self::Recorded(recorded) => recorded.expected_bytes(),
        }
    }

    /// Whether others can see already what was done, while the answer waits for its record.
    pub(crate) fn is_done(&self) -> bool {
        match self {
            Self::Write(_) => false,
            Self::Recorded(recorded) => recorded.is_done(),
        }
    }
}

impl Future for PendingAnswer {
    type Output = Vec<u8>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Vec<u8>> {
        match &mut *self {
            Self::Write(write) => write.poll_outcome(context).map(|outcome| write.encode(outcome)),
            Self::Recorded(recorded) => Pin::new(recorded).poll(context),
        }
    }
}
