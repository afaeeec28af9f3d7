//! Where operations wait for the store actor. Actor mailboxes have no bound, so operations do not pass through
//! one: they wait here, in order, up to a limit, and the actor is woken once for all that wait.

use parking_lot::Mutex;

use super::StoreError;
use super::command::Operation;
use super::commit_group::Reply;
use super::state::RequestKey;

/// An operation and where its answer goes.
pub(super) struct Submitted {
    pub(super) operation: Operation,
    /// Where it is to be carried out once: what it is known by.
    pub(super) request: Option<RequestKey>,
    pub(super) reply: Reply,
}

/// The waiting operations.
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    limit: usize,
}

#[derive(Default)]
struct Waiting {
    operations: Vec<Submitted>,
    /// Why no more are taken.
    closed: Option<StoreError>,
}

impl Inbox {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            limit,
        }
    }

    /// Adds an operation; true where the actor has to be woken for it.
    pub(super) fn push(&self, submitted: Submitted) -> Result<bool, StoreError> {
        let mut waiting = self.waiting.lock();
        if let Some(error) = &waiting.closed {
            return Err(error.clone());
        }
        if waiting.operations.len() >= self.limit {
            return Err(StoreError::Busy);
        }
        waiting.operations.push(submitted);
        Ok(waiting.operations.len() == 1)
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.lock().operations.len()
    }

    /// Takes all that wait.
    pub(super) fn take(&self) -> Vec<Submitted> {
        std::mem::take(&mut self.waiting.lock().operations)
    }

    /// Refuses everything from now on.
    pub(super) fn close(&self, error: StoreError) {
        self.waiting.lock().closed.get_or_insert(error);
    }
}
