//! Every mutation as plain data.
//!
//! An [`Operation`] is what a caller asks for. A [`Command`] is an operation in its place in the order, with all
//! that is not deterministic (the time, the source of generated ids) already in it: applying the same commands
//! gives the same state, everywhere, always.

use serde_json::{Map, Value};
use std::sync::Arc;

use super::closure::ClosureQuery;
use super::guard::Guard;
use super::query::{Filter, QueryDefinition};
use super::state::{BucketDefinition, RequestKey, RequestLimits, Timestamp};
use crate::protocol::{BucketName, Datum, QueryName, Record};

/// An operation in its place in the order.
#[derive(Clone, Debug)]
pub struct Command {
    /// The time at which it happens, never less than that of the command before it.
    pub now: Timestamp,
    /// What generated ids are made from.
    pub seed: [u8; 32],
    /// How much it may cost.
    pub limits: CommandLimits,
    /// Where it is to be carried out once, however often it comes: what it is known by.
    pub request: Option<RequestKey>,
    /// What happens.
    pub operation: Operation,
}

impl Command {
    /// A command within the default limits.
    #[must_use]
    pub fn new(now: Timestamp, seed: [u8; 32], operation: Operation) -> Self {
        Self {
            now,
            seed,
            limits: CommandLimits::default(),
            request: None,
            operation,
        }
    }

    /// The same command, carried out once for all commands with this key.
    #[must_use]
    pub fn once(self, request: RequestKey) -> Self {
        Self {
            request: Some(request),
            ..self
        }
    }
}

/// How much one command may cost. Part of the command, so that the same commands are refused everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandLimits {
    /// Rows that the reads of one transaction may look at together. Default 1,000,000.
    pub rows_read: usize,
    /// Bytes that a command may write, and as many that a transaction may read. Default 64 MiB.
    pub bytes: usize,
    /// Bytes of one record. Default 2 MiB.
    pub record_bytes: usize,
    /// How much of past requests is remembered.
    pub requests: RequestLimits,
}

impl Default for CommandLimits {
    fn default() -> Self {
        Self {
            rows_read: 1_000_000,
            bytes: 64 << 20,
            record_bytes: 2 << 20,
            requests: RequestLimits::default(),
        }
    }
}

/// What a caller asks for.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Stores a new record.
    Insert {
        /// The bucket.
        bucket: BucketName,
        /// The record as the caller gave it.
        record: Record,
    },
    /// Stores all of the records or none.
    InsertMany {
        /// The bucket.
        bucket: BucketName,
        /// The records, in order.
        records: Vec<Record>,
    },
    /// Changes a record.
    Update {
        /// The bucket.
        bucket: BucketName,
        /// The record's key.
        key: Datum,
        /// The fields to replace.
        changes: Record,
        /// The version that the record must have.
        expect_version: Option<u64>,
    },
    /// Inserts, or updates where the key is there.
    Upsert {
        /// The bucket.
        bucket: BucketName,
        /// The record, which holds the key.
        record: Record,
        /// The version that the record must have; 0 where there must be none.
        expect_version: Option<u64>,
    },
    /// Removes a record. One that is not there is no fault.
    Delete {
        /// The bucket.
        bucket: BucketName,
        /// The record's key.
        key: Datum,
        /// The version that the record must have.
        expect_version: Option<u64>,
    },
    /// Changes all records that match.
    UpdateMany {
        /// The bucket.
        bucket: BucketName,
        /// Which records.
        filter: Filter,
        /// The fields to replace.
        changes: Record,
    },
    /// Removes all records that match.
    DeleteMany {
        /// The bucket.
        bucket: BucketName,
        /// Which records.
        filter: Filter,
    },
    /// Removes all records.
    Clear {
        /// The bucket.
        bucket: BucketName,
    },
    /// An operation on records by somebody for whom only those are there that pass a guard. Anything but an operation
    /// on the records of one bucket is refused; the steps of a transaction have guards of their own.
    Guarded {
        /// Who passes.
        guard: Arc<Guard>,
        /// What is to be done.
        operation: Box<Operation>,
    },
    /// Does all of the steps or none.
    Transaction {
        /// The steps, in order.
        steps: Vec<Step>,
    },
    /// Removes the records whose time is up.
    Expire,
    /// Defines a bucket.
    DefineBucket {
        /// Its name.
        name: BucketName,
        /// Its definition.
        definition: Arc<BucketDefinition>,
    },
    /// Adds fields or indexes to a bucket, or changes its ttl.
    UpdateBucket {
        /// Its name.
        name: BucketName,
        /// `addFields`, `addIndexes`, `ttl`.
        updates: Map<String, Value>,
    },
    /// Removes a bucket with all of its records.
    DropBucket {
        /// Its name.
        name: BucketName,
    },
    /// Defines a query.
    DefineQuery {
        /// Its name.
        name: QueryName,
        /// Its definition.
        definition: Arc<QueryDefinition>,
    },
    /// Registers a function of the embedding program as a query. Not kept in the log.
    DefineClosure {
        /// Its name.
        name: QueryName,
        /// What computes it.
        closure: ClosureQuery,
    },
    /// Removes a query.
    UndefineQuery {
        /// Its name.
        name: QueryName,
    },
}

impl Operation {
    /// The same by somebody who is bound by a guard.
    #[must_use]
    pub fn within(self, guard: Arc<Guard>) -> Self {
        Self::Guarded {
            guard,
            operation: Box::new(self),
        }
    }

    /// The guards that bind it, each with its place: 0 for the whole, the number of the step in a transaction.
    pub(super) fn guards(&self) -> impl Iterator<Item = (usize, &Arc<Guard>)> {
        let (whole, steps) = match self {
            Self::Guarded { guard, .. } => (Some((0, guard)), &[][..]),
            Self::Transaction { steps } => (None, steps.as_slice()),
            Self::Insert { .. }
            | Self::InsertMany { .. }
            | Self::Update { .. }
            | Self::Upsert { .. }
            | Self::Delete { .. }
            | Self::UpdateMany { .. }
            | Self::DeleteMany { .. }
            | Self::Clear { .. }
            | Self::Expire
            | Self::DefineBucket { .. }
            | Self::UpdateBucket { .. }
            | Self::DropBucket { .. }
            | Self::DefineQuery { .. }
            | Self::DefineClosure { .. }
            | Self::UndefineQuery { .. } => (None, &[][..]),
        };
        let of_steps = steps
            .iter()
            .enumerate()
            .filter_map(|(at, step)| Some((at + 1, step.guard.as_ref()?)));
        whole.into_iter().chain(of_steps)
    }

    /// The same, where it defines something, as an incarnation of its name that is known beforehand. It must be one that there
    /// was never before.
    #[must_use]
    pub(crate) fn of_incarnation(self, incarnation: u64) -> Self {
        #[expect(clippy::wildcard_enum_match_arm, reason = "nothing else defines anything that is kept")]
        match self {
            Self::DefineBucket { name, definition } => {
                let mut definition = Arc::unwrap_or_clone(definition);
                definition.wanted_incarnation = Some(incarnation);
                Self::DefineBucket {
                    name,
                    definition: Arc::new(definition),
                }
            }
            Self::DefineQuery { name, definition } => {
                let mut definition = Arc::unwrap_or_clone(definition);
                definition.wanted_incarnation = Some(incarnation);
                Self::DefineQuery {
                    name,
                    definition: Arc::new(definition),
                }
            }
            other => other,
        }
    }

    /// Whether it may look at more than a few records: then it is kept away from the threads that serve sockets.
    pub(super) fn may_take_long(&self) -> bool {
        const FEW: usize = 200;
        match self {
            Self::Insert { .. } | Self::Update { .. } | Self::Upsert { .. } | Self::UndefineQuery { .. } | Self::Delete { .. } => false,
            Self::Guarded { operation, .. } => operation.may_take_long(),
            Self::InsertMany { records, .. } => records.len() > FEW,
            Self::Transaction { steps } => steps.len() > FEW || steps.iter().any(|step| step.action.searches()),
            Self::UpdateMany { .. }
            | Self::DeleteMany { .. }
            | Self::Clear { .. }
            | Self::Expire
            | Self::DefineBucket { .. }
            | Self::UpdateBucket { .. }
            | Self::DropBucket { .. }
            | Self::DefineQuery { .. }
            | Self::DefineClosure { .. } => true,
        }
    }
}

impl Action {
    fn searches(&self) -> bool {
        match self {
            Self::Where { .. } | Self::FindOne { .. } | Self::Count { .. } => true,
            Self::Get { .. } | Self::Insert { .. } | Self::Update { .. } | Self::Delete { .. } => false,
        }
    }
}

/// One step of a transaction: it sees what the steps before it did.
#[derive(Clone, Debug)]
pub struct Step {
    /// The bucket.
    pub bucket: BucketName,
    /// What to do there.
    pub action: Action,
    /// What bounds whoever asks for it, where it is not the whole bucket that is there for them.
    pub guard: Option<Arc<Guard>>,
}

/// What a step does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Reads a record.
    Get {
        /// Its key.
        key: Datum,
        /// The version that it must have; 0 where there must be none.
        expect_version: Option<u64>,
    },
    /// Stores a new record.
    Insert {
        /// The record as the caller gave it.
        record: Record,
    },
    /// Changes a record.
    Update {
        /// Its key.
        key: Datum,
        /// The fields to replace.
        changes: Record,
        /// The version that it must have.
        expect_version: Option<u64>,
    },
    /// Removes a record.
    Delete {
        /// Its key.
        key: Datum,
        /// The version that it must have.
        expect_version: Option<u64>,
    },
    /// Reads the records that match.
    Where {
        /// Which records.
        filter: Filter,
    },
    /// Reads the first record that matches.
    FindOne {
        /// Which records.
        filter: Filter,
    },
    /// Counts the records that match.
    Count {
        /// Which records.
        filter: Filter,
    },
}

/// What an operation did.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Nothing to tell.
    Done,
    /// A stored record, or none.
    Record(Option<Record>),
    /// Records, in order.
    Records(Vec<Record>),
    /// How many.
    Count(usize),
    /// Whether there was something to delete.
    Deleted(bool),
    /// The outcome of each step of a transaction.
    Steps(Vec<Outcome>),
}
