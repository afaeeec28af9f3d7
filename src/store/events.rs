//! What happened to records, for the embedding program: one event a record, after it is durable.

use std::sync::Arc;

use tokio::sync::broadcast;

use super::state::{Change, State};
use crate::protocol::{BucketName, Datum, Record};

/// Events that a slow listener may fall behind before it is told of a gap.
const BACKLOG_MAX: usize = 4_096;

/// One change of one record.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The bucket.
    pub bucket: BucketName,
    /// The record's key.
    pub key: Datum,
    /// The number of the commit group's last commit.
    pub seq: u64,
    /// What happened.
    pub kind: EventKind,
}

/// What happened to a record.
#[derive(Clone, Debug, PartialEq)]
pub enum EventKind {
    /// It is new.
    Inserted {
        /// The record.
        record: Record,
    },
    /// It changed.
    Updated {
        /// As it was.
        old: Record,
        /// As it is.
        new: Record,
    },
    /// It is gone: deleted, expired, evicted or cleared.
    Deleted {
        /// As it was.
        record: Record,
    },
}

impl Event {
    /// `bucket.<name>.inserted`, `.updated` or `.deleted`.
    #[must_use]
    pub fn topic(&self) -> String {
        let kind = match self.kind {
            EventKind::Inserted { .. } => "inserted",
            EventKind::Updated { .. } => "updated",
            EventKind::Deleted { .. } => "deleted",
        };
        format!("bucket.{}.{kind}", self.bucket)
    }
}

/// What a listener hears.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// An event.
    Event(Arc<Event>),
    /// So many events were missed because the listener was too slow, whether or not they matched its pattern.
    Missed(u64),
}

/// The events of a store that match a pattern.
pub struct Events {
    pattern: String,
    receiver: broadcast::Receiver<Arc<Event>>,
}

impl Events {
    /// The next event; none when the store is closed.
    pub async fn next(&mut self) -> Option<Heard> {
        loop {
            match self.receiver.recv().await {
                Ok(event) if topic_matches(&self.pattern, &event.topic()) => return Some(Heard::Event(event)),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(missed)) => return Some(Heard::Missed(missed)),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// Where events go out.
pub(super) struct Announcer(broadcast::Sender<Arc<Event>>);

impl Announcer {
    pub(super) fn new() -> Self {
        Self(broadcast::Sender::new(BACKLOG_MAX))
    }

    pub(super) fn listen(&self, pattern: &str) -> Events {
        Events {
            pattern: pattern.to_owned(),
            receiver: self.0.subscribe(),
        }
    }

    /// Tells of every changed row, in order. Costs nothing where nobody listens.
    pub(super) fn announce(&self, changes: &[Change], before: &State, after: &State) {
        if self.0.receiver_count() == 0 {
            return;
        }
        for change in changes {
            let Some(bucket) = after.bucket_by_id(change.bucket).or_else(|| before.bucket_by_id(change.bucket)) else {
                continue;
            };
            let kind = match (&change.old, &change.new) {
                (None, Some(record)) => EventKind::Inserted { record: record.clone() },
                (Some(old), Some(new)) => EventKind::Updated {
                    old: old.clone(),
                    new: new.clone(),
                },
                (Some(record), None) => EventKind::Deleted { record: record.clone() },
                (None, None) => continue,
            };
            let Some(record) = change.new.as_ref().or(change.old.as_ref()) else {
                continue;
            };
            let event = Event {
                bucket: bucket.name().clone(),
                key: record.datum(bucket.key_field()),
                seq: after.seq(),
                kind,
            };
            // Without a listener there is nobody to miss it.
            let _ = self.0.send(Arc::new(event));
        }
    }

    /// Whether anybody listens.
    pub(super) fn has_listeners(&self) -> bool {
        self.0.receiver_count() > 0
    }
}

/// Whether a topic matches a pattern: equal text; `*` alone for everything; `*` for one segment where the numbers
/// of segments agree; a last `*` for all remaining segments behind literally equal ones.
#[must_use]
pub fn topic_matches(pattern: &str, topic: &str) -> bool {
    if pattern == "*" || pattern == topic {
        return true;
    }
    let (pattern, topic): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), topic.split('.').collect());
    if pattern.len() == topic.len() {
        return pattern.iter().zip(&topic).all(|(want, have)| *want == "*" || want == have);
    }
    match pattern.split_last() {
        Some((&"*", before)) if pattern.len() < topic.len() => before.iter().zip(&topic).all(|(want, have)| want == have),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::topic_matches;

    #[test]
    fn patterns_match_as_the_reference_matches_them() {
        for (pattern, topic, matches) in [
            ("*", "bucket.a.inserted", true),
            ("bucket.a.inserted", "bucket.a.inserted", true),
            ("bucket.*.inserted", "bucket.a.inserted", true),
            ("bucket.a.*", "bucket.a.deleted", true),
            ("bucket.*", "bucket.a.inserted", true),
            ("*.a.inserted", "bucket.a.inserted", true),
            ("*.*", "bucket.a.inserted", false),
            ("bucket.*.*", "bucket.a.b.inserted", false),
            ("bucket.a.*", "bucket.a.b.inserted", true),
            ("bucket.a", "bucket.a.inserted", false),
            ("bucket.a.inserted.*", "bucket.a.inserted", false),
            ("bucket.**", "bucket.a.inserted", false),
        ] {
            assert_eq!(topic_matches(pattern, topic), matches, "{pattern} against {topic}");
        }
    }
}
