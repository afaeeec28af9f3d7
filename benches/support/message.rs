//! Messages from the server, read no further than a client needs to.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Any message.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message<'a> {
    #[serde(rename = "type", borrow)]
    pub kind: Cow<'a, str>,
    pub id: Option<u64>,
    #[serde(borrow)]
    pub subscription_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub cursor: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
    #[serde(borrow)]
    pub delta: Option<Delta<'a>>,
    /// Changes of a feed that were left out.
    pub missed: Option<u64>,
    #[serde(borrow)]
    pub code: Option<Cow<'a, str>>,
    /// Of a ping.
    pub timestamp: Option<u64>,
    /// Of a welcome.
    #[serde(default)]
    pub features: Vec<String>,
}

impl<'a> Message<'a> {
    /// Takes a message apart.
    pub fn parse(text: &'a str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| format!("{error}: {}", brief(text)))
    }
}

/// What changed in a result.
#[derive(Debug, Deserialize)]
pub struct Delta<'a> {
    #[serde(borrow)]
    pub removed: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    pub upserted: Option<Vec<(usize, &'a RawValue)>>,
    #[serde(borrow)]
    pub value: Option<&'a RawValue>,
}

/// The data of the answer to `store.subscribe` or `store.changes`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Begun<'a> {
    #[serde(borrow)]
    pub subscription_id: Cow<'a, str>,
    #[serde(borrow)]
    pub cursor: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
    #[serde(borrow)]
    pub delta: Option<Delta<'a>>,
    #[serde(default)]
    pub resumed: bool,
}

/// One change of a feed.
#[derive(Debug, Deserialize)]
pub struct Change<'a> {
    #[serde(borrow)]
    pub op: Cow<'a, str>,
    #[serde(borrow)]
    pub key: &'a RawValue,
    #[serde(borrow)]
    pub record: Option<&'a RawValue>,
}

/// The beginning of a text.
pub fn brief(text: &str) -> &str {
    const LONGEST: usize = 300;
    let end = text.char_indices().nth(LONGEST).map_or(text.len(), |(end, _)| end);
    &text[..end]
}
