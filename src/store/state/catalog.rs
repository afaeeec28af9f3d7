//! The whole state at one moment: which buckets and queries there are, and who refers to whom.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use indexmap::IndexMap;

use super::bucket::{Bucket, BucketId, Timestamp};
use super::definition::{BucketDefinition, OnDelete};
use super::persistent::OrdMap;
use super::requests::Requests;
use crate::protocol::{BucketName, FieldName, Number, QueryName};
use crate::store::StoreError;
use crate::store::closure::ClosureQuery;
use crate::store::query::QueryDefinition;

/// Everything the store holds at one moment. Cloning shares it all.
#[derive(Clone, Debug, Default)]
pub struct State {
    seq: u64,
    now: Timestamp,
    next_bucket: u32,
    buckets: OrdMap<BucketId, Arc<Bucket>>,
    names: Arc<IndexMap<BucketName, BucketId>>,
    queries: Arc<IndexMap<QueryName, QueryEntry>>,
    referrers: Arc<HashMap<BucketName, Vec<Referrer>>>,
    /// The buckets whose records end by themselves.
    mortal: Arc<[BucketId]>,
    requests: Requests,
}

/// A field of some bucket whose values are keys of another one.
#[derive(Clone, Debug)]
pub(super) struct Referrer {
    pub source: BucketId,
    pub source_name: BucketName,
    pub field: FieldName,
    pub on_delete: OnDelete,
}

/// A query and how many subscriptions watch it.
#[derive(Clone, Debug)]
pub struct QueryEntry {
    /// What it computes.
    pub kind: QueryKind,
    incarnation: u64,
    active: Arc<AtomicUsize>,
}

/// What a query computes.
#[derive(Clone, Debug)]
pub enum QueryKind {
    /// Filter, sort, window, projection or aggregate over one bucket. Kept in the log.
    Declarative(Arc<QueryDefinition>),
    /// A function of the embedding program. Lives as long as the process.
    Programmatic(ClosureQuery),
}

impl QueryEntry {
    fn new(kind: QueryKind, incarnation: u64) -> Self {
        Self {
            kind,
            incarnation,
            active: Arc::default(),
        }
    }

    /// Which of all the queries that have ever had the name this one is, as [`Bucket::incarnation`] tells of buckets.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// How many subscriptions watch the query.
    #[must_use]
    pub fn active_subscriptions(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// The counter behind [`QueryEntry::active_subscriptions`], for whoever opens and ends subscriptions.
    #[must_use]
    pub(in crate::store) fn subscription_counter(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.active)
    }
}

impl State {
    /// The state that a durable store had when it stopped, still without records.
    #[must_use]
    pub(in crate::store) fn recovered(seq: u64, now: Timestamp, next_bucket: u32) -> Self {
        Self {
            seq,
            now,
            next_bucket,
            ..Self::default()
        }
    }

    /// The number of the last commit.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The time of the last command.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The identity that the next bucket gets.
    #[must_use]
    pub(in crate::store) fn next_bucket(&self) -> u32 {
        self.next_bucket
    }

    /// A bucket by name.
    ///
    /// # Errors
    /// [`StoreError::BucketNotDefined`] where there is none.
    pub fn bucket(&self, name: &str) -> Result<&Arc<Bucket>, StoreError> {
        self.bucket_id(name)
            .and_then(|id| self.buckets.get(&id))
            .ok_or_else(|| StoreError::BucketNotDefined(name.into()))
    }

    /// A bucket by identity.
    #[must_use]
    pub fn bucket_by_id(&self, id: BucketId) -> Option<&Arc<Bucket>> {
        self.buckets.get(&id)
    }

    /// The identity behind a name.
    #[must_use]
    pub fn bucket_id(&self, name: &str) -> Option<BucketId> {
        self.names.get(name).copied()
    }

    /// The names of all buckets in the order of their definition.
    pub fn bucket_names(&self) -> impl ExactSizeIterator<Item = &BucketName> {
        self.names.keys()
    }

    /// All buckets with their names in the order of their definition.
    pub fn buckets(&self) -> impl Iterator<Item = (&BucketName, &Arc<Bucket>)> {
        self.names.iter().filter_map(|(name, id)| Some((name, self.buckets.get(id)?)))
    }

    /// A query by name.
    ///
    /// # Errors
    /// [`StoreError::QueryNotDefined`] where there is none.
    pub fn query(&self, name: &str) -> Result<&QueryEntry, StoreError> {
        self.queries.get(name).ok_or_else(|| StoreError::QueryNotDefined(name.into()))
    }

    /// All queries with their names in the order of their definition.
    pub fn queries(&self) -> impl ExactSizeIterator<Item = (&QueryName, &QueryEntry)> {
        self.queries.iter()
    }

    /// The name behind an identity.
    #[must_use]
    pub(in crate::store) fn name_of_bucket(&self, id: BucketId) -> Option<&BucketName> {
        self.buckets.get(&id).map(|bucket| bucket.name())
    }

    /// The name behind an identity; empty for a bucket that is gone.
    pub(super) fn name_of(&self, id: BucketId) -> BucketName {
        self.name_of_bucket(id).cloned().unwrap_or_else(|| BucketName::from(""))
    }

    /// The name behind an identity, where some bucket refers to it: the quick answer is that none does.
    pub(super) fn name_of_referenced(&self, id: BucketId) -> Option<BucketName> {
        self.name_of_bucket(id).filter(|name| self.referrers.contains_key(*name)).cloned()
    }

    /// Who refers to a bucket.
    pub(super) fn referrers(&self, target: &str) -> &[Referrer] {
        self.referrers.get(target).map_or(&[], Vec::as_slice)
    }

    /// Whether the records of any bucket end by themselves.
    #[must_use]
    pub(in crate::store) fn has_mortal_buckets(&self) -> bool {
        !self.mortal.is_empty()
    }

    /// When the next record of any bucket ends.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Number> {
        self.mortal.iter().filter_map(|id| self.buckets.get(id)?.next_expiry()).min()
    }

    /// The requests whose answers are remembered.
    #[must_use]
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    pub(in crate::store) fn requests_mut(&mut self) -> &mut Requests {
        &mut self.requests
    }

    /// A bucket to change. What other versions of the state share of it is copied on the way.
    pub(super) fn bucket_mut(&mut self, id: BucketId) -> Option<&mut Bucket> {
        self.buckets.get_mut(&id).map(Arc::make_mut)
    }

    /// Moves the clock. It never runs backwards.
    pub(super) fn advance_to(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
    }

    /// Counts one commit.
    pub(super) fn commit(&mut self) {
        self.seq += 1;
    }

    /// Registers a new bucket, under an identity of its own.
    pub(super) fn add_bucket(&mut self, name: BucketName, mut definition: Arc<BucketDefinition>) -> BucketId {
        let id = BucketId(self.next_bucket);
        self.next_bucket += 1;
        let wanted = definition.wanted_incarnation;
        if wanted.is_some() {
            // Whoever defines another one by what they read of this one does not mean the same incarnation.
            Arc::make_mut(&mut definition).wanted_incarnation = None;
        }
        self.put_bucket(Bucket::new(id, name, definition, wanted.unwrap_or(self.seq + 1)));
        id
    }

    /// Registers a bucket as it is: one that was loaded, redefined or emptied.
    pub(in crate::store) fn put_bucket(&mut self, bucket: Bucket) {
        let id = bucket.id();
        if let Some(old) = Arc::make_mut(&mut self.names).insert(bucket.name().clone(), id) {
            self.buckets.remove(&old);
        }
        self.buckets.insert(id, Arc::new(bucket));
        self.index_definitions();
    }

    /// An empty bucket of the same name, definition and counters, under a new identity.
    pub(super) fn replace_bucket(&mut self, name: &BucketName) -> Option<BucketId> {
        let old = self.bucket(name.as_str()).ok()?.clone();
        let id = BucketId(self.next_bucket);
        let mut bucket = Bucket::new(id, name.clone(), Arc::clone(old.definition()), old.incarnation());
        bucket.next_row = old.next_row;
        bucket.counter = old.counter;
        self.next_bucket += 1;
        self.put_bucket(bucket);
        Some(id)
    }

    /// Removes a bucket.
    pub(super) fn remove_bucket(&mut self, name: &BucketName) -> Option<BucketId> {
        let id = Arc::make_mut(&mut self.names).shift_remove(name)?;
        self.buckets.remove(&id);
        self.index_definitions();
        Some(id)
    }

    /// Registers a new query.
    pub(super) fn add_query(&mut self, name: QueryName, mut kind: QueryKind) {
        let wanted = match &mut kind {
            QueryKind::Declarative(definition) if definition.wanted_incarnation.is_some() => {
                Arc::make_mut(definition).wanted_incarnation.take()
            }
            QueryKind::Declarative(_) | QueryKind::Programmatic(_) => None,
        };
        let incarnation = wanted.unwrap_or(self.seq + 1);
        self.put_query(name, kind, incarnation);
    }

    /// Registers a query as it is: one that was loaded.
    pub(in crate::store) fn put_query(&mut self, name: QueryName, kind: QueryKind, incarnation: u64) {
        Arc::make_mut(&mut self.queries).insert(name, QueryEntry::new(kind, incarnation));
    }

    /// Removes a query.
    pub(super) fn remove_query(&mut self, name: &QueryName) -> bool {
        Arc::make_mut(&mut self.queries).shift_remove(name).is_some()
    }

    /// What depends on the definitions of all buckets together.
    fn index_definitions(&mut self) {
        let mut referrers: HashMap<BucketName, Vec<Referrer>> = HashMap::new();
        for (name, bucket) in self.buckets() {
            for reference in bucket.definition().references() {
                let referrer = Referrer {
                    source: bucket.id(),
                    source_name: name.clone(),
                    field: reference.field.clone(),
                    on_delete: reference.on_delete,
                };
                referrers.entry(reference.target.clone()).or_default().push(referrer);
            }
        }
        self.mortal = self
            .buckets()
            .filter(|(_, bucket)| bucket.definition().ttl_ms().is_some())
            .map(|(_, bucket)| bucket.id())
            .collect();
        self.referrers = Arc::new(referrers);
    }
}
