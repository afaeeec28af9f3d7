//! What the store says of itself.

use indexmap::IndexMap;
use serde::Serialize;

use super::shared::Shared;
use super::state::State;
use crate::protocol::BucketName;

/// A look at the store at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreStats {
    /// The store's name.
    pub name: String,
    /// Its buckets.
    pub buckets: BucketStats,
    /// Its records.
    pub records: CountStats,
    /// Its listed and unique indexes.
    pub indexes: CountStats,
    /// Its queries.
    pub queries: QueryStats,
    /// Whether anything is kept on disk.
    pub persistence: PersistenceStats,
    /// Whether expired records are removed by themselves.
    pub ttl: TtlStats,
    /// How live views are kept up to date.
    pub views: ViewStats,
    /// Writes that wait for their place in the order of commits, at present.
    pub pending_commands: usize,
    /// The requests whose answers are remembered.
    pub request_keys: RequestKeyStats,
}

/// What somebody sees of a bucket in what the store says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Not even that it is there.
    Nothing,
    /// That it is there.
    Name,
    /// How much it holds, too.
    Counts,
}

/// A look at the part of the store that somebody may see.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartialStats {
    /// The store's name.
    pub name: String,
    /// The buckets that may be seen.
    pub buckets: BucketStats,
    /// The records of those of which all may be seen.
    pub records: CountStats,
    /// The listed and unique indexes of those.
    pub indexes: CountStats,
    /// The queries over buckets that may be seen.
    pub queries: QueryStats,
    /// Whether anything is kept on disk.
    pub persistence: PersistenceStats,
    /// Whether expired records are removed by themselves.
    pub ttl: TtlStats,
}

/// The requests whose answers are remembered.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RequestKeyStats {
    /// How many.
    pub count: usize,
    /// The bytes of their keys and answers.
    pub bytes: usize,
}

/// Which buckets there are, in the order of their definition.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BucketStats {
    /// How many.
    pub count: usize,
    /// Their names.
    pub names: Vec<BucketName>,
}

/// A number in all and for each bucket.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CountStats {
    /// In all.
    pub total: usize,
    /// By bucket.
    pub per_bucket: IndexMap<BucketName, usize>,
}

/// How many queries there are and how many watch them.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueryStats {
    /// Queries.
    pub defined: usize,
    /// Subscriptions.
    pub active_subscriptions: usize,
}

/// Whether anything is kept on disk.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PersistenceStats {
    /// True unless everything is in memory only.
    pub enabled: bool,
}

/// Whether expired records are removed by themselves.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TtlStats {
    /// Always true.
    pub enabled: bool,
    /// How often expired records that something still refers to are looked at again, in milliseconds.
    pub check_interval_ms: u64,
}

/// How live views are kept up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ViewStats {
    /// Views that are being kept.
    pub live: u64,
    /// The same, by how they follow changes.
    pub maintenance: MaintenanceStats,
    /// Evaluations in all: of views that were not there yet, and those below.
    pub evaluated: u64,
    /// Times that a view had to be evaluated anew because the change could not be followed.
    pub reevaluated: u64,
    /// New results that were offered to subscribers. Where one is slower than the changes come, it is sent the newest
    /// of those that were offered to it, so that fewer go out.
    pub offered: u64,
}

/// Views that are being kept, by how they follow changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MaintenanceStats {
    /// Lists: record by record.
    pub by_row: u64,
    /// Aggregates: value by value.
    pub by_value: u64,
    /// Aggregates with groups: group by group.
    pub by_group: u64,
    /// Evaluated anew for every commit group that may concern them.
    pub anew: u64,
}

impl StoreStats {
    /// As clients may see it: without what is the server's own.
    #[must_use]
    pub fn without_reserved(mut self) -> Self {
        let visible = |name: &BucketName| !name.is_reserved();
        self.buckets.names.retain(visible);
        self.buckets.count = self.buckets.names.len();
        for counts in [&mut self.records, &mut self.indexes] {
            counts.per_bucket.retain(|name, _| visible(name));
            counts.total = counts.per_bucket.values().sum();
        }
        self
    }

    /// As somebody may see it who may not see everything: of each bucket what `seen` says, and totals of that. What the
    /// store as a whole is doing is left out, since it tells of all buckets. `subscriptions` has, for each
    /// query that is seen, the number that is told of.
    #[must_use]
    pub fn seen(self, seen: impl Fn(&BucketName) -> Seen, subscriptions: impl Iterator<Item = usize>) -> PartialStats {
        let names: Vec<_> = self.buckets.names.into_iter().filter(|name| seen(name) != Seen::Nothing).collect();
        let counted = |counts: CountStats| {
            let mut per_bucket = counts.per_bucket;
            per_bucket.retain(|name, _| seen(name) == Seen::Counts);
            CountStats {
                total: per_bucket.values().sum(),
                per_bucket,
            }
        };
        let (mut defined, mut active_subscriptions) = (0, 0);
        for count in subscriptions {
            defined += 1;
            active_subscriptions += count;
        }
        PartialStats {
            name: self.name,
            buckets: BucketStats { count: names.len(), names },
            records: counted(self.records),
            indexes: counted(self.indexes),
            queries: QueryStats {
                defined,
                active_subscriptions,
            },
            persistence: self.persistence,
            ttl: self.ttl,
        }
    }

    pub(super) fn of(shared: &Shared, state: &State) -> Self {
        let count = |of: &dyn Fn(&super::state::Bucket) -> usize| {
            let per_bucket: IndexMap<_, _> = state.buckets().map(|(name, bucket)| (name.clone(), of(bucket))).collect();
            CountStats {
                total: per_bucket.values().sum(),
                per_bucket,
            }
        };
        let views = shared.view_counters();
        Self {
            name: shared.name.clone(),
            buckets: BucketStats {
                count: state.bucket_names().len(),
                names: state.bucket_names().cloned().collect(),
            },
            records: count(&|bucket| bucket.row_count()),
            indexes: count(&|bucket| bucket.definition().index_count()),
            queries: QueryStats {
                defined: state.queries().len(),
                active_subscriptions: state.queries().map(|(_, entry)| entry.active_subscriptions()).sum(),
            },
            persistence: PersistenceStats {
                enabled: shared.persistent,
            },
            ttl: TtlStats {
                enabled: true,
                check_interval_ms: shared.limits.ttl_check_interval.as_millis() as u64,
            },
            views: ViewStats {
                live: views.views,
                maintenance: views.maintenance,
                evaluated: views.builds + views.reevaluations,
                reevaluated: views.reevaluations,
                offered: views.offered,
            },
            pending_commands: shared.inbox.len(),
            request_keys: RequestKeyStats {
                count: state.requests().count(),
                bytes: state.requests().bytes(),
            },
        }
    }
}
