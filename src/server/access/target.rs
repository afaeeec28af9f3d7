//! What a request touches.

use std::borrow::Cow;
use std::fmt;

use serde_json::value::RawValue;

use crate::protocol::{BucketName, Fields, Operation, Request, Touches, decode_text};
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

/// What a request names as its target, read as its handler reads it. A field that is missing or malformed names nothing;
/// the handler will complain.
pub(crate) enum Named<'a> {
    Bucket(Cow<'a, str>),
    Query(Cow<'a, str>),
    Topic(Cow<'a, str>),
    Procedure(Cow<'a, str>),
    Nothing,
}

impl<'a> Named<'a> {
    /// What a request names.
    pub(crate) fn of(request: &Request<'a>) -> Self {
        match request.operation() {
            Some(operation) => Self::read(operation, request.fields()),
            None => Self::read_absent(request.name(), request.fields()),
        }
    }

    fn read(operation: Operation, fields: &Fields<'a>) -> Self {
        let bucket = |field: &str| fields.get(field).and_then(read_text).map(Self::Bucket);
        let query = |field: &str| fields.get(field).and_then(read_text).map(Self::Query);
        let named = match operation.touches() {
            Touches::Bucket => bucket("bucket"),
            Touches::NamedBucket => bucket("name"),
            Touches::Query => query("query"),
            Touches::QueryOrBucket if fields.get("query").is_some_and(|json| json != "null") => query("query"),
            Touches::QueryOrBucket => bucket("bucket"),
            Touches::NamedQuery => query("name"),
            Touches::NewQuery => config_bucket(fields).map(Self::Bucket).or_else(|| bucket("name")),
            Touches::Steps | Touches::Visible | Touches::Server | Touches::Own | Touches::Session | Touches::Identity => None,
        };
        named.unwrap_or(Self::Nothing)
    }

    /// Events, facts and procedures of servers that have them: whoever may not touch one is told so, also by a server
    /// that has none.
    fn read_absent(name: &str, fields: &Fields<'a>) -> Self {
        let text = |field: &str| fields.get(field).and_then(read_text);
        let named = match name {
            "rules.emit" => text("topic").map(Self::Topic),
            "rules.subscribe" | "rules.queryFacts" => text("pattern").map(Self::Topic),
            "rules.setFact" | "rules.getFact" | "rules.deleteFact" => text("key").map(Self::Topic),
            "procedures.call" | "procedures.get" | "procedures.unregister" | "procedures.update" => text("name").map(Self::Procedure),
            _ => None,
        };
        named.unwrap_or(Self::Nothing)
    }

    /// The target that is named.
    pub(crate) fn target<'s>(&'s self, state: &'s State) -> Target<'s> {
        match self {
            Self::Bucket(name) => Target::Bucket(name),
            Self::Query(name) => query_target(state, name),
            Self::Topic(name) => Target::Topic(name),
            Self::Procedure(name) => Target::Procedure(name),
            Self::Nothing => Target::Server,
        }
    }
}

/// What a request needs a right to.
pub(crate) enum Need<'t, 'a> {
    /// Nothing, not even a login: it logs in, or it is not there in any case.
    Nothing,
    /// A login, where one is required.
    Login,
    /// A part of all buckets.
    Visible,
    /// What the elements of a transaction touch.
    Steps(&'t Fields<'a>),
    /// This.
    Target(Target<'t>),
}

impl<'t, 'a> Need<'t, 'a> {
    /// What a request needs that names this.
    pub(crate) fn of(request: &'t Request<'a>, named: &'t Named<'a>, state: &'t State) -> Self {
        let touches = match request.operation() {
            Some(operation) => operation.touches(),
            None if request.name() == "ping" || request.name().starts_with("auth.") => return Self::Nothing,
            None => return Self::Target(named.target(state)),
        };
        match touches {
            Touches::Session => Self::Nothing,
            Touches::Own => Self::Login,
            Touches::Visible => Self::Visible,
            Touches::Steps => Self::Steps(request.fields()),
            Touches::Bucket
            | Touches::NamedBucket
            | Touches::Query
            | Touches::QueryOrBucket
            | Touches::NamedQuery
            | Touches::NewQuery
            | Touches::Server
            | Touches::Identity => Self::Target(named.target(state)),
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

impl Judged {
    /// What a request with this target is judged by.
    pub(crate) fn of(operation: Option<Operation>, target: &Target<'_>) -> Self {
        if matches!(operation.map(Operation::touches), Some(Touches::Query | Touches::QueryOrBucket)) {
            Self::Query(target.bucket().map(BucketName::from))
        } else {
            Self::Whatever
        }
    }
}

/// The target of whatever reads a query.
pub(crate) fn query_target<'s>(state: &'s State, name: &'s str) -> Target<'s> {
    let bucket = state.query(name).ok().and_then(|entry| match &entry.kind {
        QueryKind::Declarative(definition) => Some(definition.bucket().as_str()),
        QueryKind::Programmatic(_) => None,
    });
    Target::Query { name, bucket }
}

/// What the elements of a transaction do, and on which buckets, as far as they can be read.
pub(crate) fn read_steps<'a>(fields: &Fields<'a>) -> Vec<(Operation, Cow<'a, str>)> {
    let elements: Vec<&RawValue> = fields
        .get("operations")
        .and_then(|json| serde_json::from_str(json).ok())
        .unwrap_or_default();
    let read = |element: &'a RawValue| {
        let fields = Fields::parse(element.get()).ok()?;
        let operation = step_operation(&decode_text(fields.get("op")?)?)?;
        Some((operation, decode_text(fields.get("bucket")?)?))
    };
    elements.into_iter().filter_map(read).collect()
}

/// What elements of transactions do: their `op`, and the operation that it stands for.
pub(crate) const STEPS: [(&str, Operation); 7] = [
    ("get", Operation::StoreGet),
    ("insert", Operation::StoreInsert),
    ("update", Operation::StoreUpdate),
    ("delete", Operation::StoreDelete),
    ("where", Operation::StoreWhere),
    ("findOne", Operation::StoreFindOne),
    ("count", Operation::StoreCount),
];

/// The operation that an element of a transaction stands for, by its `op`.
fn step_operation(op: &str) -> Option<Operation> {
    STEPS.iter().find(|(name, _)| *name == op).map(|(_, operation)| *operation)
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
