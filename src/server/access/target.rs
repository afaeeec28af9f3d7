//! What a request touches.

use std::borrow::Cow;
use std::fmt;

use crate::protocol::{BucketName, Fields, Operation, Touches, decode_text};
use crate::store::state::{QueryKind, State};

/// What a request touches, as far as permissions go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    /// A bucket.
    Bucket(&'a str),
    /// A query and the bucket behind it; none where the query is a function of the embedding program, which may read
    /// any, or is not there.
    Query { name: &'a str, bucket: Option<&'a str> },
    /// The subject of events or facts.
    Topic(&'a str),
    /// A stored procedure.
    Procedure(&'a str),
    /// No single thing.
    Server,
}

impl Target<'_> {
    /// The bucket whose records are touched, where it is one.
    pub(crate) fn bucket(&self) -> Option<&str> {
        match self {
            Self::Bucket(name) => Some(name),
            Self::Query { bucket, .. } => *bucket,
            Self::Topic(_) | Self::Procedure(_) | Self::Server => None,
        }
    }
}

impl fmt::Display for Target<'_> {
    /// As whoever asks has named it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bucket(name) | Self::Query { name, .. } | Self::Topic(name) | Self::Procedure(name) => f.write_str(name),
            Self::Server => f.write_str("*"),
        }
    }
}

/// The texts of a request that name its target, read as its handler reads them.
pub(crate) struct Named<'a> {
    bucket: Option<Cow<'a, str>>,
    query: Option<Cow<'a, str>>,
}

impl<'a> Named<'a> {
    /// Reads what a request names. A field that is missing or malformed names nothing; its handler will complain.
    pub(crate) fn read(operation: Operation, fields: &Fields<'a>) -> Self {
        let text = |field: &str| fields.get(field).and_then(read_text);
        let (bucket, query) = match operation.touches() {
            Touches::Bucket => (text("bucket"), None),
            Touches::NamedBucket => (text("name"), None),
            Touches::Query => (None, text("query")),
            Touches::QueryOrBucket if fields.get("query").is_some_and(|json| json != "null") => (None, text("query")),
            Touches::QueryOrBucket => (text("bucket"), None),
            Touches::NamedQuery => (None, text("name")),
            Touches::NewQuery => (config_bucket(fields).or_else(|| text("name")), None),
            Touches::Steps | Touches::Visible | Touches::Server | Touches::Own | Touches::Session | Touches::Identity => (None, None),
        };
        Self { bucket, query }
    }

    /// The target that is named.
    pub(crate) fn target<'s>(&'s self, state: &'s State) -> Target<'s> {
        match (&self.bucket, &self.query) {
            (Some(bucket), _) => Target::Bucket(bucket),
            (None, Some(query)) => query_target(state, query),
            (None, None) => Target::Server,
        }
    }
}

/// Which bucket was judged where a request names a query: nothing but that may be read in its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// Nothing depends on it.
    Whatever,
    /// The bucket behind the query; none where the query was a function, or not there.
    Query(Option<BucketName>),
}

/// The target of whatever reads a query.
pub(crate) fn query_target<'s>(state: &'s State, name: &'s str) -> Target<'s> {
    let bucket = state.query(name).ok().and_then(|entry| match &entry.kind {
        QueryKind::Declarative(definition) => Some(definition.bucket().as_str()),
        QueryKind::Programmatic(_) => None,
    });
    Target::Query { name, bucket }
}

/// Events, facts and procedures of servers that have them: whoever may not touch one is told so, also by a server that
/// has none.
pub(crate) fn absent_target<'a>(name: &str, fields: &'a AbsentName<'a>) -> Target<'a> {
    match (&fields.0, name.split_once('.').map(|(family, _)| family)) {
        (Some(subject), Some("rules")) => Target::Topic(subject),
        (Some(subject), Some("procedures")) => Target::Procedure(subject),
        _ => Target::Server,
    }
}

/// The name in a request for an operation that this server lacks.
pub(crate) struct AbsentName<'a>(Option<Cow<'a, str>>);

impl<'a> AbsentName<'a> {
    pub(crate) fn read(name: &str, fields: &Fields<'a>) -> Self {
        let field = match name {
            "rules.emit" => "topic",
            "rules.subscribe" | "rules.queryFacts" => "pattern",
            "rules.setFact" | "rules.getFact" | "rules.deleteFact" => "key",
            "procedures.call" | "procedures.get" | "procedures.unregister" | "procedures.update" => "name",
            _ => return Self(None),
        };
        Self(fields.get(field).and_then(read_text))
    }
}

fn read_text(json: &str) -> Option<Cow<'_, str>> {
    let text = json.starts_with('"').then(|| decode_text(json)).flatten()?;
    (!text.is_empty()).then_some(text)
}

fn config_bucket<'a>(fields: &Fields<'a>) -> Option<Cow<'a, str>> {
    let config = Fields::parse(fields.get("config")?).ok()?;
    config.get("bucket").and_then(read_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(operation: Operation, json: &str) -> String {
        let fields = Fields::parse(json).expect("tests give objects");
        let named = Named::read(operation, &fields);
        named.target(&State::default()).to_string()
    }

    #[test]
    fn a_target_is_read_from_the_field_that_the_operation_uses_and_from_no_other() {
        let decoys = r#"{"bucket":"b","name":"n","query":"q","config":{"bucket":"c"},"topic":"t","key":"k"}"#;
        let table = [
            (Operation::StoreGet, "b"),
            (Operation::StoreDropBucket, "n"),
            (Operation::StoreSubscribe, "q"),
            (Operation::StoreUndefineQuery, "n"),
            (Operation::StoreDefineQuery, "c"),
            (Operation::StoreExplain, "q"),
            (Operation::StoreTransaction, "*"),
            (Operation::ServerStats, "*"),
        ];
        for (operation, target) in table {
            assert_eq!(named(operation, decoys), target, "{operation}");
        }
        assert_eq!(named(Operation::StoreExplain, r#"{"query":null,"bucket":"b"}"#), "b");
    }

    #[test]
    fn what_is_malformed_names_nothing() {
        for json in [
            "{}",
            r#"{"bucket":5}"#,
            r#"{"bucket":""}"#,
            r#"{"bucket":["b"]}"#,
            r#"{"bucket":"\ud800"}"#,
        ] {
            assert_eq!(named(Operation::StoreGet, json), "*", "{json}");
        }
    }
}
