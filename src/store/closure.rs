//! Queries that are functions of the embedding program. What they read is noted, so that they run again only
//! when something of that changes.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::StoreError;
use super::query::{Aggregate, Filter, Group, Page, Reader};
use super::state::{State, Timestamp};
use crate::protocol::{BucketName, Datum, Number, Record};

type Function = dyn Fn(&QueryContext<'_>, &Value) -> Result<Value, StoreError> + Send + Sync;

/// A query that is a function over the store's content. Cloning shares it.
#[derive(Clone)]
pub struct ClosureQuery(Arc<Function>);

impl ClosureQuery {
    /// Wraps a function. It must depend on nothing but the context and the parameters.
    pub fn new(function: impl Fn(&QueryContext<'_>, &Value) -> Result<Value, StoreError> + Send + Sync + 'static) -> Self {
        Self(Arc::new(function))
    }

    /// Runs the function and says what it read.
    pub(super) fn run(&self, state: &State, now: Timestamp, params: &Value) -> (Result<Value, StoreError>, Dependencies) {
        let context = QueryContext {
            state,
            now,
            read: RefCell::default(),
        };
        // A panic in a caller's function must not take the store with it.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (self.0)(&context, params)))
            .unwrap_or_else(|_| Err(StoreError::QueryFailed("the query function panicked".to_owned())));
        (result, context.read.into_inner())
    }
}

impl fmt::Debug for ClosureQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClosureQuery")
    }
}

/// What a query read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Dependencies {
    /// Buckets of which more than single keys were read.
    pub buckets: HashSet<BucketName>,
    /// Records read by key, found or not.
    pub keys: HashSet<(BucketName, Datum)>,
}

/// Read access to one consistent state, for closure queries.
pub struct QueryContext<'s> {
    state: &'s State,
    now: Timestamp,
    read: RefCell<Dependencies>,
}

impl<'s> QueryContext<'s> {
    /// A bucket to read from.
    ///
    /// # Errors
    /// [`StoreError::BucketNotDefined`] where there is none.
    pub fn bucket(&self, name: &str) -> Result<BucketView<'_, 's>, StoreError> {
        // Also a bucket that is not there is something the result depends on.
        let bucket = self.state.bucket(name).inspect_err(|_| {
            self.read.borrow_mut().buckets.insert(name.into());
        })?;
        Ok(BucketView {
            name: name.into(),
            reader: Reader::new(bucket, self.now),
            read: &self.read,
        })
    }
}

/// One bucket as a closure query reads it.
pub struct BucketView<'c, 's> {
    name: BucketName,
    reader: Reader<'s>,
    read: &'c RefCell<Dependencies>,
}

impl<'s> BucketView<'_, 's> {
    fn whole(&self) -> &Reader<'s> {
        self.read.borrow_mut().buckets.insert(self.name.clone());
        &self.reader
    }

    /// The record of a key.
    #[must_use]
    pub fn get(&self, key: impl Into<Datum>) -> Option<&'s Record> {
        let key = key.into();
        let record = self.reader.get(&key);
        self.read.borrow_mut().keys.insert((self.name.clone(), key));
        record
    }

    /// All records in the order of insertion.
    #[must_use]
    pub fn all(&self) -> Vec<&'s Record> {
        self.whole().all()
    }

    /// The records that match.
    #[must_use]
    pub fn select(&self, filter: &Filter) -> Vec<&'s Record> {
        self.whole().select(filter)
    }

    /// The first record that matches.
    #[must_use]
    pub fn find_one(&self, filter: &Filter) -> Option<&'s Record> {
        self.whole().find_one(filter)
    }

    /// The number of records that match.
    #[must_use]
    pub fn count(&self, filter: &Filter) -> usize {
        self.whole().count(filter)
    }

    /// The first `n` records.
    #[must_use]
    pub fn first(&self, n: usize) -> Vec<&'s Record> {
        self.whole().first(n)
    }

    /// The last `n` records, in forward order.
    #[must_use]
    pub fn last(&self, n: usize) -> Vec<&'s Record> {
        self.whole().last(n)
    }

    /// A page of records behind a cursor.
    #[must_use]
    pub fn paginate(&self, limit: usize, after: Option<&Datum>) -> Page<'s> {
        self.whole().paginate(limit, after)
    }

    /// An aggregate over the records that match.
    #[must_use]
    pub fn aggregate(&self, aggregate: &Aggregate, filter: &Filter) -> Option<Number> {
        self.whole().aggregate(aggregate, filter)
    }

    /// An aggregate for every group of the records that match.
    #[must_use]
    pub fn group_by(&self, aggregate: &Aggregate, filter: &Filter) -> Vec<Group> {
        self.whole().group_by(aggregate, filter)
    }
}
