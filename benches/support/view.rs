//! What a client has of a result: of each item no more than it takes to apply changes and to tell results apart, so
//! that thousands of clients with a thousand records each fit beside the server.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::message::{Change, Delta};

/// One item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Stands for its key.
    key: u64,
    /// Stands for all of it.
    digest: u64,
    /// Its version, 0 where it is not shown.
    version: u64,
}

/// The members of an item that matter here.
#[derive(Deserialize)]
struct Identified<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(default, rename = "_version")]
    version: u64,
}

impl Item {
    fn read(json: &RawValue) -> Result<Self, String> {
        let identified: Identified<'_> = serde_json::from_str(json.get()).map_err(|error| format!("{error}: {json}"))?;
        Ok(Self {
            key: digest(identified.id),
            digest: digest(json),
            version: identified.version,
        })
    }
}

fn digest(json: &RawValue) -> u64 {
    // Fixed keys: views of different clients are compared.
    BuildHasherDefault::<DefaultHasher>::default().hash_one(json.get())
}

/// What a result consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A list of records, each with its key.
    Records,
    /// Anything else: compared as a whole.
    Whole,
    /// The records of a change feed, by key.
    Feed,
}

/// What a client has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    Records(Vec<Item>),
    Whole(Option<u64>),
    Feed(HashMap<u64, Item>),
}

impl View {
    /// A view from a whole result.
    pub fn read(shape: Shape, data: Option<&RawValue>) -> Result<Self, String> {
        let items = || -> Result<Vec<Item>, String> {
            let list: Vec<&RawValue> = serde_json::from_str(data.map_or("null", RawValue::get)).map_err(|error| error.to_string())?;
            list.into_iter().map(Item::read).collect()
        };
        match shape {
            Shape::Records => Ok(Self::Records(items()?)),
            Shape::Whole => Ok(Self::Whole(data.map(digest))),
            Shape::Feed => Ok(Self::Feed(items()?.into_iter().map(|item| (item.key, item)).collect())),
        }
    }

    /// Applies a delta as clients are told to. Gives the number of items that came no newer than they were, which
    /// is what a delta does that is applied twice.
    pub fn apply(&mut self, delta: &Delta<'_>) -> Result<usize, String> {
        match self {
            Self::Whole(value) => {
                *value = delta.value.map(digest);
                Ok(0)
            }
            Self::Records(items) => apply_to_list(items, delta),
            Self::Feed(_) => Err("a delta for a change feed".to_owned()),
        }
    }

    /// Applies the changes of one commit to the records of a feed.
    pub fn change(&mut self, changes: &RawValue) -> Result<(), String> {
        let Self::Feed(records) = self else {
            return Err("changes for what is no feed".to_owned());
        };
        let changes: Vec<Change<'_>> = serde_json::from_str(changes.get()).map_err(|error| error.to_string())?;
        for change in changes {
            match (&*change.op, change.record) {
                ("inserted" | "updated", Some(record)) => {
                    let item = Item::read(record)?;
                    records.insert(item.key, item);
                }
                ("deleted", None) => {
                    records.remove(&digest(change.key));
                }
                _ => return Err(format!("a malformed change: {change:?}")),
            }
        }
        Ok(())
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Records(items) => items.len(),
            Self::Whole(value) => usize::from(value.is_some()),
            Self::Feed(records) => records.len(),
        }
    }
}

fn apply_to_list(items: &mut Vec<Item>, delta: &Delta<'_>) -> Result<usize, String> {
    let upserted = delta.upserted.as_deref().ok_or("a delta without what is upserted")?;
    let removed = delta.removed.as_deref().ok_or("a delta without what is removed")?;
    let mut arrived = Vec::with_capacity(upserted.len());
    for (position, json) in upserted {
        arrived.push((*position, Item::read(json)?));
    }
    let mut gone: HashMap<u64, u64> = removed.iter().map(|key| (digest(key), u64::MAX)).collect();
    gone.extend(arrived.iter().map(|(_, item)| (item.key, item.version)));
    let mut not_newer = 0;
    items.retain(|item| match gone.get(&item.key) {
        Some(version) => {
            not_newer += usize::from(item.version > 0 && *version <= item.version);
            false
        }
        None => true,
    });
    for (position, item) in arrived {
        if position > items.len() {
            return Err(format!("position {position} in a list of {}", items.len()));
        }
        items.insert(position, item);
    }
    Ok(not_newer)
}
