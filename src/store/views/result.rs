//! One version of a live view's result: shared by all who watch it, encoded once, by whoever needs it first, as a
//! whole and as a delta from an older version.

use std::sync::OnceLock;

use bytes::Bytes;

use super::delta::Delta;
use super::rows::Rows;
use crate::protocol::{Number, json};
use crate::store::query::{Group, QueryResult};

/// Deltas that a result keeps encoded, for those who come from the same older versions. Nearly all come from the last
/// one; slow ones come from a few before.
const DELTAS_KEPT: usize = 4;

/// The result of a query at one commit.
#[derive(Debug)]
pub struct ViewResult {
    seq: u64,
    content: Content,
    encoded: OnceLock<Option<Bytes>>,
    fingerprint: OnceLock<u128>,
    deltas: [OnceLock<EncodedDelta>; DELTAS_KEPT],
}

/// The delta from the version of one commit, once it has been asked for.
#[derive(Debug)]
struct EncodedDelta {
    older_seq: u64,
    json: OnceLock<Bytes>,
}

/// What a result consists of. Cloning rows shares them.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// Records in order.
    Rows(Rows),
    /// An aggregate; none is "no value".
    Number(Option<Number>),
    /// An aggregate for each group.
    Groups(Vec<Group>),
    /// What a closure computed.
    Value(serde_json::Value),
}

impl ViewResult {
    pub(super) fn new(seq: u64, content: Content) -> Self {
        Self {
            seq,
            content,
            encoded: OnceLock::new(),
            fingerprint: OnceLock::new(),
            deltas: Default::default(),
        }
    }

    /// The number of the commit at which this was the result.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The result as JSON; none where the query yields no value. Encoded at the first call, shared afterwards.
    #[must_use]
    pub fn data(&self) -> Option<Bytes> {
        self.encoded.get_or_init(|| self.content.encode()).clone()
    }

    /// What tells results of a view apart without keeping them: equal for results whose JSON is the same.
    #[must_use]
    pub fn fingerprint(&self) -> u128 {
        *self
            .fingerprint
            .get_or_init(|| xxhash_rust::xxh3::xxh3_128(&self.data().unwrap_or_default()))
    }

    /// What turns an older result of the same view into this one, as JSON: see [`Delta`]. Encoded at the first call
    /// for that version, shared afterwards by all who come from it, unless they come from many different ones.
    #[must_use]
    pub fn delta_from(&self, older: &Self) -> Bytes {
        let encode = || self.compare(older).to_json();
        for slot in &self.deltas {
            let delta = slot.get_or_init(|| EncodedDelta {
                older_seq: older.seq,
                json: OnceLock::new(),
            });
            if delta.older_seq == older.seq {
                return delta.json.get_or_init(encode).clone();
            }
        }
        encode()
    }

    /// What turns an older result of the same view into this one.
    #[must_use]
    pub fn compare(&self, older: &Self) -> Delta {
        match (&older.content, &self.content) {
            (Content::Rows(older), Content::Rows(newer)) => Delta::between(older, newer).unwrap_or_else(|| self.as_delta()),
            (Content::Rows(_) | Content::Number(_) | Content::Groups(_) | Content::Value(_), _) => self.as_delta(),
        }
    }

    /// The whole result as a delta, whatever there was before.
    pub(super) fn as_delta(&self) -> Delta {
        Delta::Value(self.data())
    }

    pub(super) fn content(&self) -> &Content {
        &self.content
    }
}

impl Content {
    fn encode(&self) -> Option<Bytes> {
        match self {
            Self::Rows(rows) => Some(rows.to_json().into()),
            Self::Number(number) => QueryResult::Number(*number).to_json().map(Bytes::from),
            Self::Groups(groups) => QueryResult::Groups(groups.clone()).to_json().map(Bytes::from),
            Self::Value(value) => Some(json::to_vec(value).into()),
        }
    }
}
