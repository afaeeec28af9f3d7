//! One live result, shared by all who watch the same query with the same parameters.

use std::sync::Arc;

use serde_json::Value;

use super::delta::Delta;
use super::groups::GroupsView;
use super::number::NumberView;
use super::result::{Content, ViewResult};
use super::rows::{Effect, RowsView, Versions, has_key};
use crate::protocol::{BucketName, FieldName, Issue};
use crate::store::StoreError;
use crate::store::closure::{ClosureQuery, Dependencies};
use crate::store::query::{Reader, ResolvedQuery};
use crate::store::state::{Bucket, Change, State, Timestamp};
use crate::store::stats::MaintenanceStats;

/// What a view computes.
#[derive(Clone, Debug)]
pub(super) enum Plan {
    /// A query over one bucket, its parameters in place.
    Query(Arc<ResolvedQuery>),
    /// A function of the embedding program with its parameters.
    Closure(ClosureQuery, Arc<Value>),
}

impl Plan {
    /// Whether the bucket has the key field for which a guard was put in place, where there is one.
    ///
    /// # Errors
    /// Where the bucket is not there.
    pub(super) fn is_guarded_by(&self, key: Option<&FieldName>, state: &State) -> Result<bool, StoreError> {
        match (self, key) {
            (Self::Query(query), Some(key)) => Ok(state.bucket(query.bucket.as_str())?.key_field() == key),
            (Self::Query(_) | Self::Closure(..), _) => Ok(true),
        }
    }

    /// Checks that changes of the result can be told as deltas. A list needs records that hold their keys.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for groups, and for projections without the key; where the bucket is not there.
    pub(super) fn check_delta(&self, state: &State) -> Result<(), StoreError> {
        let Self::Query(query) = self else { return Ok(()) };
        let key = state.bucket(query.bucket.as_str())?.key_field();
        let fault = match &query.aggregate {
            Some(aggregate) if !aggregate.group_by.is_empty() => "The groups of an aggregate have no key".to_owned(),
            None if !has_key(query, key) => format!("The fields of the query leave out the key \"{}\"", key.as_str()),
            Some(_) | None => return Ok(()),
        };
        let issue = Issue::new("mode", "unsupported", format!("{fault}, so there are no deltas"));
        Err(StoreError::invalid("subscription", issue))
    }
}

/// How a view follows changes.
#[derive(Debug)]
enum Maintenance {
    /// A list: row by row.
    Rows(RowsView),
    /// An aggregate: value by value.
    Number(NumberView),
    /// An aggregate for each group: group by group.
    Groups(GroupsView),
    /// Anything else: evaluated anew.
    Reevaluated,
}

/// A live result with all it needs to follow the bucket.
#[derive(Debug)]
pub(super) struct LiveView {
    plan: Plan,
    maintenance: Maintenance,
    latest: Arc<ViewResult>,
    dependencies: Dependencies,
    /// The last evaluation failed, and the subscribers were told: the next result is news, whatever it is.
    failed: bool,
}

/// What became of a view after a commit group.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Followed {
    /// The result is the same.
    Unchanged,
    /// There is a new result.
    Changed,
    /// The evaluation failed; the view keeps its last result.
    Failed(StoreError),
}

impl LiveView {
    /// Evaluates a view on a state.
    ///
    /// # Errors
    /// Where the bucket is not there, or the closure fails.
    pub(super) fn evaluate(plan: Plan, state: &State) -> Result<Self, StoreError> {
        let seq = state.seq();
        match &plan {
            Plan::Query(query) => {
                let (maintenance, content) = start(query, state.bucket(query.bucket.as_str())?, state.now());
                let latest = Arc::new(ViewResult::new(seq, content));
                Ok(Self {
                    plan,
                    maintenance,
                    latest,
                    dependencies: Dependencies::default(),
                    failed: false,
                })
            }
            Plan::Closure(closure, params) => {
                let (result, dependencies) = closure.run(state, state.now(), params);
                let latest = Arc::new(ViewResult::new(seq, Content::Value(result?)));
                Ok(Self {
                    plan,
                    maintenance: Maintenance::Reevaluated,
                    latest,
                    dependencies,
                    failed: false,
                })
            }
        }
    }

    /// How many rows an evaluation will look at.
    pub(super) fn cost(plan: &Plan, state: &State) -> usize {
        match plan {
            Plan::Query(query) => state
                .bucket(query.bucket.as_str())
                .map_or(0, |bucket| Reader::new(bucket, state.now()).query_cost(query)),
            // What a closure reads is not known before it has run.
            Plan::Closure(..) => 0,
        }
    }

    /// Where the view is counted, by how it follows changes.
    pub(super) fn count_in<'c>(&self, counts: &'c mut MaintenanceStats) -> &'c mut u64 {
        match &self.maintenance {
            Maintenance::Rows(_) => &mut counts.by_row,
            Maintenance::Number(_) => &mut counts.by_value,
            Maintenance::Groups(_) => &mut counts.by_group,
            Maintenance::Reevaluated => &mut counts.anew,
        }
    }

    pub(super) fn latest(&self) -> &Arc<ViewResult> {
        &self.latest
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(super) fn dependencies(&self) -> &Dependencies {
        &self.dependencies
    }

    /// Whether the view reads from a bucket.
    pub(super) fn reads(&self, bucket: &BucketName) -> bool {
        match &self.plan {
            Plan::Query(query) => query.bucket == *bucket,
            Plan::Closure(..) => {
                self.dependencies.buckets.contains(bucket) || self.dependencies.keys.iter().any(|(other, _)| other == bucket)
            }
        }
    }

    /// How many rows of a list are held; 0 for anything else.
    pub(super) fn rows_held(&self) -> usize {
        match &self.maintenance {
            Maintenance::Rows(view) => view.len(),
            Maintenance::Number(_) | Maintenance::Groups(_) | Maintenance::Reevaluated => 0,
        }
    }

    /// What turned the result that there was at an earlier commit into the latest one. `before` has each row of the
    /// bucket that has changed since, as it was visible at that commit; none where it was not. `state` is the one up
    /// to which the view has followed. Evaluates nothing but a window that lost rows it does not hold.
    pub(super) fn delta_since(&self, before: &Versions, state: &State) -> Delta {
        let (Plan::Query(query), Maintenance::Rows(view)) = (&self.plan, &self.maintenance) else {
            return self.latest.as_delta();
        };
        let delta = state.bucket(query.bucket.as_str()).ok().and_then(|bucket| {
            let earlier = view.earlier(query, before, bucket, state.now())?;
            Delta::between(&earlier, &view.rows())
        });
        delta.unwrap_or_else(|| self.latest.as_delta())
    }

    /// Follows the rows of its bucket that changed; `state` is the state after all of them. `reevaluations` counts
    /// what could not be followed.
    pub(super) fn follow(&mut self, changes: &[&Change], state: &State, reevaluations: &mut u64) -> Followed {
        let Plan::Query(query) = &self.plan else {
            return self.reevaluate(state, reevaluations);
        };
        match &mut self.maintenance {
            Maintenance::Reevaluated => self.reevaluate(state, reevaluations),
            Maintenance::Rows(view) => {
                let mut effect = Effect::None;
                for change in changes {
                    effect = effect.max(view.follow(query, change));
                }
                if view.needs_refill() {
                    return self.reevaluate(state, reevaluations);
                }
                let content = Content::Rows(view.rows());
                // Of several changes one may undo what another did: a record goes and an equal one comes.
                if changes.len() > 1 && effect == Effect::Changed {
                    effect = Effect::Perhaps;
                }
                match effect {
                    Effect::None => Followed::Unchanged,
                    Effect::Perhaps => self.replace_if_different(state.seq(), content),
                    Effect::Changed => self.replace(state.seq(), content),
                }
            }
            Maintenance::Number(view) => {
                let touched = changes.iter().filter(|change| view.follow(query, change)).count() > 0;
                if !touched {
                    return Followed::Unchanged;
                }
                if !view.settle() {
                    return self.reevaluate(state, reevaluations);
                }
                let content = Content::Number(view.result());
                self.replace_if_different(state.seq(), content)
            }
            Maintenance::Groups(view) => {
                let touched = changes.iter().filter(|change| view.follow(query, change)).count() > 0;
                let Ok(bucket) = state.bucket(query.bucket.as_str()) else {
                    return self.reevaluate(state, reevaluations);
                };
                if !touched {
                    return Followed::Unchanged;
                }
                view.settle(bucket);
                let content = Content::Groups(view.result());
                self.replace_if_different(state.seq(), content)
            }
        }
    }

    /// Evaluates anew, keeping the old result where the new one is equal.
    pub(super) fn reevaluate(&mut self, state: &State, reevaluations: &mut u64) -> Followed {
        *reevaluations += 1;
        match &self.plan {
            Plan::Query(query) => {
                let bucket = match state.bucket(query.bucket.as_str()) {
                    Ok(bucket) => bucket,
                    Err(error) => return Followed::Failed(error),
                };
                let (maintenance, content) = start(query, bucket, state.now());
                self.maintenance = maintenance;
                self.replace_if_different(state.seq(), content)
            }
            Plan::Closure(closure, params) => {
                let (result, dependencies) = closure.run(state, state.now(), params);
                match result {
                    Ok(value) => {
                        self.dependencies = dependencies;
                        self.replace_if_different(state.seq(), Content::Value(value))
                    }
                    Err(error) => {
                        self.failed = true;
                        Followed::Failed(error)
                    }
                }
            }
        }
    }

    fn replace(&mut self, seq: u64, content: Content) -> Followed {
        self.latest = Arc::new(ViewResult::new(seq, content));
        Followed::Changed
    }

    fn replace_if_different(&mut self, seq: u64, content: Content) -> Followed {
        if !std::mem::take(&mut self.failed) && same(self.latest.content(), &content) {
            Followed::Unchanged
        } else {
            self.replace(seq, content)
        }
    }
}

/// Evaluates a query in the form in which it can be followed.
fn start(query: &ResolvedQuery, bucket: &Bucket, now: Timestamp) -> (Maintenance, Content) {
    let reader = &Reader::new(bucket, now);
    match &query.aggregate {
        None => {
            let Some(view) = RowsView::evaluate(query, bucket, now) else {
                return (Maintenance::Reevaluated, Content::Number(None));
            };
            let rows = view.rows();
            (Maintenance::Rows(view), Content::Rows(rows))
        }
        Some(aggregate) if aggregate.group_by.is_empty() => {
            let view = NumberView::new(query, aggregate, reader);
            let number = view.result();
            (Maintenance::Number(view), Content::Number(number))
        }
        Some(aggregate) => {
            let view = GroupsView::new(query, aggregate, reader, bucket);
            let groups = view.result();
            (Maintenance::Groups(view), Content::Groups(groups))
        }
    }
}

/// Whether two results of one view are equal.
fn same(a: &Content, b: &Content) -> bool {
    match (a, b) {
        (Content::Rows(a), Content::Rows(b)) => a.same(b),
        (Content::Number(a), Content::Number(b)) => a == b,
        (Content::Groups(a), Content::Groups(b)) => a == b,
        (Content::Value(a), Content::Value(b)) => a == b,
        (Content::Rows(_) | Content::Number(_) | Content::Groups(_) | Content::Value(_), _) => false,
    }
}
