//! One version of a live view's result: shared by all who watch it, encoded once, by whoever needs it first.

use std::sync::OnceLock;

use bytes::Bytes;

use super::rows::Rows;
use crate::protocol::{Number, json};
use crate::store::query::{Group, QueryResult};

/// The result of a query at one commit.
#[derive(Debug)]
pub struct ViewResult {
    seq: u64,
    content: Content,
    encoded: OnceLock<Option<Bytes>>,
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
