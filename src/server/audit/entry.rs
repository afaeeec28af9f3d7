//! One entry of the log.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::rings::Ring;
use crate::protocol::{ConnectionId, ErrorCode};
use crate::server::admission::Identity;

/// The most bytes of a text in an entry, as they stand in the file, where some characters are escaped: whoever is recorded
/// chooses what to be recorded with.
pub(super) const TEXT_BYTES_MAX: usize = 256;

/// What a text ends with that was longer.
const MARKER: &str = "…";

/// What an entry takes beside its texts: itself, its place in a ring, and what allocations cost.
const OVERHEAD_BYTES: usize = size_of::<Entry>() + 128;

/// The most bytes that a line has beside its texts, with one about those that are missing before it.
const FRAME_BYTES: usize = 640;

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
    /// What it may take of the file.
    #[serde(skip)]
    pub(super) line: Line,
    /// Whether it is shown to whoever does not ask for anything in particular.
    #[serde(skip)]
    pub(super) is_plain: bool,
    /// Whether its answer waits until it is on disk.
    #[serde(skip)]
    pub(super) must_be_durable: bool,
}

/// What an entry may take of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// It has a line in any case: an administrator did it, or the room for it was taken before it was done.
    Sure,
    /// It has one as long as there is room for its class, and for whoever did it.
    Limited,
    /// It is about data, and goes to the file of those.
    Data,
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

    /// No fewer bytes than its line in the file has.
    pub(super) fn line_bytes(&self) -> u64 {
        let texts = [
            self.user_id.as_deref(),
            self.error.as_deref(),
            self.actor.as_deref(),
            self.session.as_deref(),
            Some(&*self.operation),
            Some(&*self.resource),
        ];
        line_bytes(texts.into_iter().flatten(), &self.details)
    }

    /// Who has caused it: a user, or, where nobody is logged in, an address.
    pub(super) fn source(&self) -> Identity {
        source(self.actor.as_deref().or(self.user_id.as_deref()), self.remote_address)
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

/// Who has caused an entry.
pub(super) fn source(user: Option<&str>, address: IpAddr) -> Identity {
    user.map_or_else(|| Identity::from(address), Identity::of_user)
}

/// No fewer bytes than a line with these texts and details has in the file.
pub(super) fn line_bytes<'t>(texts: impl Iterator<Item = &'t str>, details: &Map<String, Value>) -> u64 {
    let texts: usize = texts.map(escaped_bytes).sum();
    (FRAME_BYTES + texts + members_line_bytes(details)) as u64
}

fn members_line_bytes(members: &Map<String, Value>) -> usize {
    members
        .iter()
        .map(|(name, value)| escaped_bytes(name) + 6 + value_line_bytes(value))
        .sum()
}

fn value_line_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(number) => number.to_string().len(),
        Value::String(text) => 2 + escaped_bytes(text),
        Value::Array(items) => 2 + items.iter().map(|item| 1 + value_line_bytes(item)).sum::<usize>(),
        Value::Object(members) => 2 + members_line_bytes(members),
    }
}

/// A text as it may stand in an entry: no longer in the file than [`TEXT_BYTES_MAX`], and marked where it was.
pub(super) fn bounded(text: &str) -> String {
    if escaped_bytes(text) <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let mut room = TEXT_BYTES_MAX - MARKER.len();
    let fits = |character: &char| {
        let left = room.checked_sub(escaped_length(*character));
        room = left.unwrap_or(0);
        left.is_some()
    };
    let mut cut: String = text.chars().take_while(fits).collect();
    cut.push_str(MARKER);
    cut
}

/// How long a text is in the file.
fn escaped_bytes(text: &str) -> usize {
    text.chars().map(escaped_length).sum()
}

/// How long a character of a text is in the file.
const fn escaped_length(character: char) -> usize {
    match character {
        '"' | '\\' | '\u{8}' | '\t' | '\n' | '\u{c}' | '\r' => 2,
        '\0'..='\u{1f}' => 6,
        _ if misleads(character) => 6,
        _ => character.len_utf8(),
    }
}

/// What the file escapes beyond what JSON does: further control characters, ends of lines and paragraphs, and what turns
/// the direction of text.
pub(super) const fn misleads(character: char) -> bool {
    matches!(character, '\u{7f}'..='\u{9f}' | '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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
