//! Commit groups: what was applied together, goes to disk together and is answered together.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::StoreError;
use super::command::Outcome;
use super::durability::{Batch, Catalog, HistoryUpdate, Progress, RecordChange, StoredBucket, StoredQuery};
use super::state::{BucketId, Change, Effects, QueryKind, State};

/// Where the outcome of one operation goes.
pub(super) type Reply = oneshot::Sender<Result<Outcome, StoreError>>;

/// Commands that were applied but are not durable yet, with the answers that wait for it.
#[derive(Default)]
pub(super) struct CommitGroup {
    effects: Effects,
    answers: Vec<(Reply, Result<Outcome, StoreError>)>,
}

impl CommitGroup {
    /// What the commands did, for [`super::state::apply`] to add to.
    pub(super) fn effects_mut(&mut self) -> &mut Effects {
        &mut self.effects
    }

    /// Keeps an answer until the group is durable. Also a refusal waits: it may rest on a record that a crash
    /// could still take back.
    pub(super) fn answer_later(&mut self, reply: Reply, answer: Result<Outcome, StoreError>) {
        self.answers.push((reply, answer));
    }

    /// The number of answers that wait.
    pub(super) fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether there is nothing to answer and nothing to keep.
    pub(super) fn is_empty(&self) -> bool {
        self.answers.is_empty() && !self.has_effects()
    }

    /// Whether anything changed, be it only what is remembered of requests.
    pub(super) fn has_effects(&self) -> bool {
        !self.effects.changes.is_empty() || self.effects.catalog_changed || !self.effects.requests.is_empty()
    }

    pub(super) fn effects(&self) -> &Effects {
        &self.effects
    }

    /// What goes to disk, `state` being the state after the group and `changes` its changed rows, each once.
    pub(super) fn to_batch(&self, state: &State, changes: &[Change], history: HistoryUpdate) -> Batch {
        let persistent = |id: BucketId| state.bucket_by_id(id).filter(|bucket| bucket.definition().is_persistent());
        let mut batch = Batch {
            seq: state.seq(),
            now: state.now(),
            history,
            requests: self.effects.requests.clone(),
            ..Batch::default()
        };
        let mut grown: Vec<BucketId> = Vec::new();
        // Rows of a bucket that was dropped or emptied later in the group go with it.
        for change in changes.iter().filter(|change| persistent(change.bucket).is_some()) {
            batch.records.push(RecordChange {
                bucket: change.bucket,
                row: change.row,
                record: change.new.clone(),
            });
        }
        // Also a record that came and went within the group took its row and its number.
        for change in self.effects.changes.iter().filter(|change| change.old.is_none()) {
            if grown.last() != Some(&change.bucket) && !grown.contains(&change.bucket) {
                grown.push(change.bucket);
            }
        }
        if self.effects.catalog_changed {
            batch.catalog = Some(catalog_of(state));
            grown.extend(
                self.effects
                    .emptied
                    .iter()
                    .map(|(_, _, new)| *new)
                    .filter(|id| !grown.contains(id))
                    .collect::<Vec<_>>(),
            );
        }
        let progress = |id: BucketId| persistent(id).map(|bucket| (id, bucket.progress()));
        batch.progress = grown
            .into_iter()
            .filter_map(progress)
            .map(|(id, (next_row, counter))| (id, Progress { next_row, counter }))
            .collect();
        batch.dropped.extend(self.effects.dropped.iter().map(|(_, id)| *id));
        batch.dropped.extend(self.effects.emptied.iter().map(|(_, old, _)| *old));
        batch
    }

    /// Gives every answer.
    pub(super) fn answer(&mut self) {
        for (reply, answer) in self.answers.drain(..) {
            // Whoever asked may be gone: what was asked for is done all the same.
            let _ = reply.send(answer);
        }
    }

    /// Tells everybody that nothing of this was kept.
    pub(super) fn refuse(self, error: &StoreError) {
        for (reply, _) in self.answers {
            let _ = reply.send(Err(error.clone()));
        }
    }
}

fn catalog_of(state: &State) -> Catalog {
    let bucket = |(name, bucket): (&crate::protocol::BucketName, &Arc<super::state::Bucket>)| StoredBucket {
        id: bucket.id().0,
        name: name.to_string(),
        config: Arc::clone(bucket.definition().shared_config()),
        incarnation: bucket.incarnation(),
    };
    let query = |(name, entry): (&crate::protocol::QueryName, &super::state::QueryEntry)| match &entry.kind {
        QueryKind::Declarative(definition) => Some(StoredQuery {
            name: name.to_string(),
            config: Arc::clone(definition.shared_config()),
            incarnation: entry.incarnation(),
        }),
        // A function of the embedding program cannot be stored: the program registers it again.
        QueryKind::Programmatic(_) => None,
    };
    Catalog {
        next_bucket: state.next_bucket(),
        buckets: state.buckets().map(bucket).collect(),
        queries: state.queries().filter_map(query).collect(),
    }
}
