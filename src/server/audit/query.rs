//! Reading the log: what is asked for, and the answer.

use std::sync::Arc;

use super::entry::{Entry, Verdict};

/// What entries are wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Filter {
    pub(crate) user_id: Option<String>,
    pub(crate) operation: Option<String>,
    /// What the operation's name begins with.
    pub(crate) operation_prefix: Option<String>,
    pub(crate) verdict: Option<Verdict>,
    /// Milliseconds since 1970, this one included.
    pub(crate) from: Option<f64>,
    /// Milliseconds since 1970, this one included.
    pub(crate) to: Option<f64>,
    /// What it is about, or one of the buckets that it touches.
    pub(crate) resource: Option<String>,
    pub(crate) code: Option<String>,
    pub(crate) remote_address: Option<String>,
    /// Also what is shown only on demand.
    pub(crate) all: bool,
}

impl Filter {
    /// Whether an entry is wanted.
    pub(super) fn matches(&self, entry: &Entry) -> bool {
        let equals = |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|wanted| found == Some(wanted));
        // Whoever names operations wants to see them.
        let is_shown = entry.is_plain || self.all || self.operation.is_some() || self.operation_prefix.is_some();
        is_shown
            && equals(&self.user_id, entry.user_id.as_deref())
            && equals(&self.operation, Some(&entry.operation))
            && self
                .operation_prefix
                .as_ref()
                .is_none_or(|prefix| entry.operation.starts_with(&**prefix))
            && self.verdict.is_none_or(|verdict| entry.result == verdict)
            && self.is_in_time(entry)
            && self.resource.as_ref().is_none_or(|resource| is_about(entry, resource))
            && equals(&self.code, entry.code.map(crate::protocol::ErrorCode::as_str))
            && self
                .remote_address
                .as_ref()
                .is_none_or(|address| entry.remote_address.to_string() == *address)
    }

    /// Whether it, or one of its repeats, may have been in the time that is wanted.
    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds since 1970 are exact in a double for 285,000 years"
    )]
    fn is_in_time(&self, entry: &Entry) -> bool {
        self.from.is_none_or(|from| entry.last_timestamp() as f64 >= from) && self.to.is_none_or(|to| entry.timestamp as f64 <= to)
    }
}

fn is_about(entry: &Entry, resource: &str) -> bool {
    let buckets = entry.details.get("buckets").and_then(serde_json::Value::as_array);
    entry.resource == resource || buckets.is_some_and(|buckets| buckets.iter().any(|bucket| bucket == resource))
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Query {
    pub(crate) filter: Filter,
    /// The most entries.
    pub(crate) limit: usize,
    /// Only entries with lower ids.
    pub(crate) before: u64,
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The entries as a JSON list, and the id below which there are more that match.
    Entries { json: Vec<u8>, more_before: Option<u64> },
    /// Not even the newest one fits.
    TooLarge,
}

impl Query {
    /// Collects what matches, newest first, in no more than `max_bytes`. `look` looks through some entries below an id,
    /// and tells where to go on.
    pub(super) fn run(&self, max_bytes: usize, look: impl Fn(u64, &Filter) -> (Vec<Arc<Entry>>, Option<u64>)) -> Answer {
        let mut json = vec![b'['];
        let mut count = 0;
        let mut last = self.before;
        let mut rest = Some(self.before);
        while let Some(before) = rest {
            let (found, next) = look(before, &self.filter);
            for entry in found {
                let start = json.len();
                if count > 0 {
                    json.push(b',');
                }
                let is_written = count < self.limit && serde_json::to_writer(&mut json, &*entry).is_ok();
                if !is_written || json.len() >= max_bytes {
                    json.truncate(start);
                    json.push(b']');
                    return if count == 0 {
                        Answer::TooLarge
                    } else {
                        Answer::Entries {
                            json,
                            more_before: Some(last),
                        }
                    };
                }
                count += 1;
                last = entry.id;
            }
            rest = next;
        }
        json.push(b']');
        Answer::Entries { json, more_before: None }
    }
}
