//! What turns one result of a query into another: as little as a client needs that has the older one.

use std::collections::HashMap;

use bytes::Bytes;

use super::rows::Rows;
use super::sequence::Difference;
use crate::protocol::{FieldName, Record};

/// What turns one result of a query into another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// For lists whose records hold the key of their bucket. To apply it, take the records with these keys out, the
    /// removed and the upserted ones, then insert the upserted ones in ascending order of their positions.
    List {
        /// The keys, as JSON, of records that are in the result no more.
        removed: Vec<Box<[u8]>>,
        /// Records that are new, look different or stand elsewhere, with their positions in the newer result.
        upserted: Vec<(usize, Record)>,
    },
    /// For all else the newer result as a whole, as JSON; none where the query yields no value.
    Value(Option<Bytes>),
}

/// A record that is not where it was.
struct Gone<'a> {
    /// Its place among those that are gone or stay.
    before: usize,
    /// How many records that keep their places stand before it.
    kept: usize,
    record: &'a Record,
}

impl Delta {
    /// The difference of two lists; none where their records cannot be told apart by a key.
    pub(super) fn between(older: &Rows, newer: &Rows) -> Option<Self> {
        let key = newer.key_shared_with(older)?;
        let window = newer.window();
        let (mut gone, mut came) = (Vec::new(), Vec::new());
        let mut lose = |before: usize, record| {
            let kept = before - window.start - gone.len();
            gone.push(Gone { before, kept, record });
        };
        let mut gain = |after: usize, record| {
            let at = after - window.start;
            let kept = at - came.len();
            came.push((at, kept, record));
        };
        for difference in newer.differences(older) {
            match difference {
                Difference::Both { before, after, old, new } => {
                    let (was, is) = (window.contains(&before), window.contains(&after));
                    if was && is && old == new {
                        continue;
                    }
                    if was {
                        lose(before, old);
                    }
                    if is {
                        gain(after, new);
                    }
                }
                Difference::Gone { before, old } if window.contains(&before) => lose(before, old),
                Difference::Came { after, new, .. } if window.contains(&after) => gain(after, new),
                Difference::Gone { .. } | Difference::Came { .. } => {}
            }
        }
        Self::settle(key, gone, came)
    }

    /// Pairs what is gone with what came under the same key. A record that came as it was, and stands where it stood
    /// among those that keep their places, is one of those.
    fn settle(key: &FieldName, gone: Vec<Gone<'_>>, came: Vec<(usize, usize, &Record)>) -> Option<Self> {
        let mut left = HashMap::with_capacity(gone.len());
        for gone in &gone {
            left.insert(gone.record.token(key)?, gone);
        }
        let mut upserted = Vec::with_capacity(came.len());
        let mut last_kept = None;
        for (at, kept, record) in came {
            match left.remove(record.token(key)?) {
                Some(gone) if gone.record == record && gone.kept == kept && last_kept < Some(gone.before) => {
                    last_kept = Some(gone.before);
                }
                Some(_) | None => upserted.push((at, record.clone())),
            }
        }
        let mut left: Vec<_> = left.into_iter().collect();
        left.sort_unstable_by_key(|(_, gone)| gone.before);
        let removed = left.into_iter().map(|(key, _)| key.into()).collect();
        Some(Self::List { removed, upserted })
    }

    /// Whether the two results are the same, as far as a delta can tell: that of a whole value never is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::List { removed, upserted } => removed.is_empty() && upserted.is_empty(),
            Self::Value(_) => false,
        }
    }

    /// A list's delta without anything in it, as clients would see it.
    pub const NOTHING: &[u8] = br#"{"removed":[],"upserted":[]}"#;

    /// What the delta of all but a list begins with, as clients see it, where there is a value.
    pub const VALUE: &[u8] = b"{\"value\":";

    /// The delta as clients see it: `{"removed":["a"],"upserted":[[0,{"id":"b"}]]}`, or `{"value":12}`.
    #[must_use]
    pub fn to_json(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Self::List { removed, upserted } => {
                let keys: usize = removed.iter().map(|key| key.len() + 1).sum();
                let records: usize = upserted.iter().map(|(_, record)| record.json().len() + 24).sum();
                out.reserve_exact(keys + records + 32);
                out.extend_from_slice(b"{\"removed\":");
                write_list(&mut out, removed, |out, key| out.extend_from_slice(key));
                out.extend_from_slice(b",\"upserted\":");
                write_list(&mut out, upserted, |out, (at, record)| {
                    out.push(b'[');
                    out.extend_from_slice(itoa::Buffer::new().format(*at).as_bytes());
                    out.push(b',');
                    out.extend_from_slice(record.json());
                    out.push(b']');
                });
                out.push(b'}');
            }
            Self::Value(Some(value)) => {
                out.reserve_exact(value.len() + 10);
                out.extend_from_slice(Self::VALUE);
                out.extend_from_slice(value);
                out.push(b'}');
            }
            Self::Value(None) => out.extend_from_slice(b"{}"),
        }
        out.into()
    }
}

fn write_list<T>(out: &mut Vec<u8>, items: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}
