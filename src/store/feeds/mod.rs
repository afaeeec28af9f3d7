//! Change feeds: what happened to the records of a bucket, commit by commit, for those who follow them.
//!
//! A feed is a bucket and a filter. All who follow the same share it: what happened is encoded once, and only where
//! somebody follows. Who was away gets what was missed from the history. Nothing here knows what a follower is beyond
//! [`Sink`].

mod backlog;
mod change_set;
mod replaced;

use std::collections::HashMap;
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::Value;

use self::backlog::Backlog;
pub use self::change_set::ChangeSet;
use self::change_set::{Sight, encode};
use super::StoreError;
use super::fingerprint::Fingerprint;
use super::guard::Guard;
use super::history::History;
use super::query::Filter;
use super::state::{Bucket, BucketId, Change, State};
use super::views::{EndReason, Sink, Update, push};
use super::visible::{CommitChanges, Visible};
use crate::protocol::{BucketName, CursorScope, SubscriptionId, json};

/// What equal feeds have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct FeedKey {
    bucket: BucketName,
    seen: SeenKey,
}

/// What those have in common who see the same of a bucket: the filter as JSON, and the key of the guard.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SeenKey {
    filter: Vec<u8>,
    guard: Option<Box<[u8]>>,
}

/// A feed to be followed.
#[derive(Clone, Debug)]
pub(super) struct FeedPlan {
    key: FeedKey,
    sight: Sight,
    scope: CursorScope,
}

impl FeedPlan {
    /// Puts a bucket and a filter together, as far as a guard lets see.
    ///
    /// # Errors
    /// Where the bucket is not there, the filter is malformed, or it names a field that is not there within the guard.
    pub(super) fn new(state: &State, bucket: &str, filter: &Value, guard: Option<&Guard>, opening: Opening) -> Result<Self, StoreError> {
        let Opening { epoch, life } = opening;
        let content = state.bucket(bucket)?;
        let parsed = match filter {
            Value::Null => Filter::everything(),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => Filter::from_value(filter)?,
        };
        let seen = SeenKey {
            filter: match filter {
                Value::Null => b"{}".to_vec(),
                Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => json::to_vec(filter),
            },
            guard: guard.map(|guard| guard.key().into()),
        };
        let subject = Fingerprint::of("feed")
            .with(bucket.as_bytes())
            .with(&seen.filter)
            .with(&lifetime(content, life))
            .with_any(seen.guard.as_deref())
            .finish();
        Ok(Self {
            key: FeedKey {
                bucket: bucket.into(),
                seen,
            },
            sight: match guard {
                None => Sight {
                    filter: parsed,
                    projection: None,
                },
                Some(guard) => Sight {
                    filter: guard.narrow(&parsed, content.key_field())?,
                    projection: guard.projection(content.key_field()),
                },
            },
            scope: CursorScope { epoch, subject },
        })
    }

    /// The bucket.
    pub(super) fn bucket(&self) -> &BucketName {
        &self.key.bucket
    }

    /// Checks that a guard was put in place for this bucket, and not for an earlier one of its name.
    ///
    /// # Errors
    /// [`StoreError::BucketNotDefined`]
    pub(super) fn check_current(&self, bucket: &Bucket) -> Result<(), StoreError> {
        match &self.sight.projection {
            Some(projection) if !projection.keeps(bucket.key_field()) => Err(StoreError::BucketNotDefined(self.key.bucket.clone())),
            Some(_) | None => Ok(()),
        }
    }

    /// What its cursors have in common.
    pub(super) fn scope(&self) -> CursorScope {
        self.scope
    }
}

/// What cursors are of: the order of commits, and this opening of the store.
#[derive(Clone, Copy)]
pub(super) struct Opening {
    pub(super) epoch: u64,
    pub(super) life: u64,
}

/// What cursors of a bucket refer to besides its name: the records of one that is not kept end with the store.
pub(super) fn lifetime(bucket: &Bucket, life: u64) -> Vec<u8> {
    if bucket.definition().is_persistent() {
        Vec::new()
    } else {
        life.to_le_bytes().to_vec()
    }
}

struct Feed {
    sight: Sight,
    followers: HashMap<SubscriptionId, Arc<dyn Sink>>,
    /// What was encoded for those who came back, until something new happens.
    backlog: Option<Backlog>,
}

impl Feed {
    fn push(&self, update: &Update) {
        for (id, sink) in &self.followers {
            push(&**sink, *id, update.clone());
        }
    }
}

/// All feeds that are followed.
pub(super) struct Feeds {
    by_bucket: HashMap<BucketName, HashMap<SeenKey, Feed>>,
    by_subscription: HashMap<SubscriptionId, FeedKey>,
    backlog_bytes: usize,
    /// Bytes of one backlog, and of all that are kept.
    backlog_bytes_max: usize,
    /// Changes of a bucket that was replaced which are told one by one.
    changes_max: usize,
}

impl Feeds {
    pub(super) fn new(changes_max: usize, backlog_bytes_max: usize) -> Self {
        Self {
            by_bucket: HashMap::new(),
            by_subscription: HashMap::new(),
            backlog_bytes: 0,
            backlog_bytes_max,
            changes_max,
        }
    }

    /// Adds a follower; what it has missed since a commit.
    ///
    /// # Errors
    /// Where that is not known, or too much to be told: the oldest commit since which it can be. Nobody is added then.
    pub(super) fn add(
        &mut self,
        plan: &FeedPlan,
        id: SubscriptionId,
        sink: Arc<dyn Sink>,
        missed: Option<Missed<'_>>,
    ) -> Result<Vec<Arc<ChangeSet>>, u64> {
        let backlog = missed.map_or(Ok(Vec::new()), |missed| self.backlog(plan, &missed))?;
        let feed = self.feed(plan);
        feed.followers.insert(id, sink);
        self.by_subscription.insert(id, plan.key.clone());
        Ok(backlog)
    }

    fn feed(&mut self, plan: &FeedPlan) -> &mut Feed {
        let of_bucket = self.by_bucket.entry(plan.key.bucket.clone()).or_default();
        of_bucket.entry(plan.key.seen.clone()).or_insert_with(|| Feed {
            sight: plan.sight.clone(),
            followers: HashMap::new(),
            backlog: None,
        })
    }

    fn backlog(&mut self, plan: &FeedPlan, missed: &Missed<'_>) -> Result<Vec<Arc<ChangeSet>>, u64> {
        let feed = self.by_bucket.get(&plan.key.bucket).and_then(|feeds| feeds.get(&plan.key.seen));
        let known = feed.and_then(|feed| feed.backlog.as_ref());
        if let Some(sets) = known.and_then(|known| known.since(missed.since)) {
            return Ok(sets);
        }
        let backlog = Backlog::read(&plan.sight, missed, self.backlog_bytes_max, known)?;
        let sets = backlog.all();
        if self.backlog_bytes + backlog.bytes() > self.backlog_bytes_max {
            self.forget_backlogs();
        }
        self.backlog_bytes += backlog.bytes();
        let replaced = self.feed(plan).backlog.replace(backlog);
        self.backlog_bytes -= replaced.map_or(0, |older| older.bytes());
        Ok(sets)
    }

    fn forget_backlogs(&mut self) {
        for feed in self.by_bucket.values_mut().flat_map(HashMap::values_mut) {
            feed.backlog = None;
        }
        self.backlog_bytes = 0;
    }

    /// Takes a follower out, and the feed with the last of them.
    pub(super) fn remove(&mut self, id: SubscriptionId) {
        let Some(key) = self.by_subscription.remove(&id) else { return };
        let Some(feeds) = self.by_bucket.get_mut(&key.bucket) else { return };
        let Some(feed) = feeds.get_mut(&key.seen) else { return };
        feed.followers.remove(&id);
        if !feed.followers.is_empty() {
            return;
        }
        let gone = feeds.remove(&key.seen);
        self.backlog_bytes -= gone.and_then(|feed| feed.backlog).map_or(0, |backlog| backlog.bytes());
        if feeds.is_empty() {
            self.by_bucket.remove(&key.bucket);
        }
    }

    /// Tells what a commit group did. Costs nothing where nobody follows.
    pub(super) fn follow(&mut self, visible: &Visible, before: &State, after: &State) {
        if self.by_bucket.is_empty() {
            return;
        }
        for commit in &visible.commits {
            self.tell(commit, visible, after);
        }
        for replaced in &visible.replaced {
            if replaced.dropped {
                self.end(&replaced.name);
            } else {
                self.tell_replaced(&replaced.name, before, after);
            }
        }
    }

    fn tell(&mut self, commit: &CommitChanges, visible: &Visible, after: &State) {
        let mut by_bucket: IndexMap<BucketId, Vec<&Change>> = IndexMap::new();
        for change in &commit.changes {
            by_bucket.entry(change.bucket).or_default().push(change);
        }
        for (bucket, changes) in by_bucket {
            let Some(bucket) = after.bucket_by_id(bucket) else { continue };
            let Some(feeds) = self.by_bucket.get_mut(bucket.name()) else {
                continue;
            };
            if visible.replaced.iter().any(|replaced| replaced.name == *bucket.name()) {
                continue;
            }
            for feed in feeds.values_mut() {
                self.backlog_bytes -= feed.backlog.take().map_or(0, |backlog| backlog.bytes());
                let versions = changes.iter().map(|change| (change.old.as_ref(), change.new.as_ref()));
                if let Some(set) = encode(commit.seq, versions, &feed.sight, bucket.key_field()) {
                    feed.push(&Update::Changes(Arc::new(set)));
                }
            }
        }
    }

    /// A bucket was emptied, or its records are seen under another rule: tells the difference, or that it is too much
    /// to be told.
    fn tell_replaced(&mut self, name: &BucketName, before: &State, after: &State) {
        let Some(feeds) = self.by_bucket.get_mut(name) else { return };
        let (Ok(old), Ok(new)) = (before.bucket(name.as_str()), after.bucket(name.as_str())) else {
            return;
        };
        let differences = replaced::differences(old, before.now(), new, after.now());
        for feed in feeds.values_mut() {
            self.backlog_bytes -= feed.backlog.take().map_or(0, |backlog| backlog.bytes());
            let count = change_set::count(differences.iter().copied(), &feed.sight.filter);
            if count > self.changes_max {
                feed.push(&Update::Missed {
                    changes: count as u64,
                    seq: after.seq(),
                });
            } else if let Some(set) = encode(after.seq(), differences.iter().copied(), &feed.sight, new.key_field()) {
                feed.push(&Update::Changes(Arc::new(set)));
            }
        }
    }

    /// A bucket is gone: whoever follows it is told that it is over.
    fn end(&mut self, name: &BucketName) {
        for feed in self.by_bucket.remove(name).into_iter().flat_map(HashMap::into_values) {
            feed.push(&Update::Ended(EndReason::BucketDropped));
            for id in feed.followers.keys() {
                self.by_subscription.remove(id);
            }
            self.backlog_bytes -= feed.backlog.map_or(0, |backlog| backlog.bytes());
        }
    }
}

/// What somebody asks for who was away.
pub(super) struct Missed<'h> {
    /// The last commit that was seen.
    pub(super) since: u64,
    /// The last commit that there is.
    pub(super) until: u64,
    pub(super) bucket: &'h Bucket,
    pub(super) history: &'h History,
}
