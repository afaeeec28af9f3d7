//! One entry of the log.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::rings::Ring;
use crate::protocol::{ConnectionId, ErrorCode};

/// The most bytes of a text in an entry: whoever is recorded chooses what to be recorded with.
pub(super) const TEXT_BYTES_MAX: usize = 256;

/// What a text ends with that was longer.
const MARKER: &str = "…";

/// What an entry takes beside its texts: itself, its place in a ring, and what allocations cost.
const OVERHEAD_BYTES: usize = size_of::<Entry>() + 128;

/// Entries of one millisecond that have an id of their own even after a restart. A power of two that keeps ids exact
/// in the numbers of all clients until the year 2248.
const IDS_PER_MILLISECOND: u64 = 1024;

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Success,
    Error,
}

/// One entry, with its names on the wire and in the file.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    /// Rises from entry to entry, also across restarts.
    pub(super) id: u64,
    /// Milliseconds since 1970; of repeats, when it was first.
    pub(super) timestamp: u64,
    /// Who was logged in afterwards.
    pub(super) user_id: Option<String>,
    pub(super) session_id: ConnectionId,
    pub(super) operation: Cow<'static, str>,
    pub(super) resource: String,
    pub(super) result: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "write_code")]
    pub(super) code: Option<ErrorCode>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(super) details: Map<String, Value>,
    pub(super) remote_address: IpAddr,
    /// Who was logged in before.
    pub(super) actor: Option<String>,
    /// The public name of the stored session, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) session: Option<Arc<str>>,
    /// What it took, where it was begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) duration_us: Option<u64>,
    #[serde(flatten)]
    pub(super) repeats: Option<Repeats>,
    /// Where it is kept in memory.
    #[serde(skip)]
    pub(super) ring: Ring,
    /// Whether it is shown to whoever does not ask for anything in particular.
    #[serde(skip)]
    pub(super) is_plain: bool,
    /// Whether its answer waits until it is on disk.
    #[serde(skip)]
    pub(super) must_be_durable: bool,
}

/// The same again, several times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Repeats {
    /// How often in all.
    pub(super) count: u64,
    /// When it was last.
    pub(super) last_timestamp: u64,
}

impl Entry {
    /// About how many bytes it takes in memory.
    pub(super) fn weight(&self) -> usize {
        let texts = [
            self.user_id.as_deref(),
            self.error.as_deref(),
            self.actor.as_deref(),
            Some(&*self.operation),
        ];
        let texts: usize = texts.into_iter().flatten().map(str::len).sum();
        OVERHEAD_BYTES + texts + self.resource.len() + members_bytes(&self.details)
    }

    /// When it was last.
    pub(super) fn last_timestamp(&self) -> u64 {
        self.repeats.map_or(self.timestamp, |repeats| repeats.last_timestamp)
    }
}

/// The lowest id of a server that starts now.
pub(super) fn first_id(now_ms: u64) -> u64 {
    now_ms.saturating_mul(IDS_PER_MILLISECOND)
}

/// A text as it may stand in an entry: no longer than [`TEXT_BYTES_MAX`], and marked where it was.
pub(super) fn bounded(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(TEXT_BYTES_MAX - MARKER.len());
    [&text[..end], MARKER].concat()
}

fn members_bytes(members: &Map<String, Value>) -> usize {
    members.iter().map(|(name, value)| name.len() + 64 + value_bytes(value)).sum()
}

fn value_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => size_of::<Value>(),
        Value::String(text) => size_of::<Value>() + text.len(),
        Value::Array(items) => size_of::<Value>() + items.iter().map(value_bytes).sum::<usize>(),
        Value::Object(members) => size_of::<Value>() + members_bytes(members),
    }
}

#[expect(clippy::ref_option, reason = "the shape that serde asks for")]
fn write_code<S: Serializer>(code: &Option<ErrorCode>, serializer: S) -> Result<S::Ok, S::Error> {
    code.map(ErrorCode::as_str).serialize(serializer)
}
