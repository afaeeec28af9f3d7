//! What a request is about, read from the fields that its handler reads, and from no others.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::entry::bounded;
use crate::protocol::{Fields, Number, Operation, Request, Touches, decode_text};
use crate::server::identity::check_user_name;

/// The most buckets, or granted operations, that one entry names.
const NAMES_MAX: usize = 16;

/// What a request is about.
#[derive(Debug, PartialEq)]
pub(super) struct Subject {
    pub(super) resource: String,
    pub(super) details: Map<String, Value>,
}

/// Reads what a request is about. Where a field is missing or malformed, it is about nothing in particular; its handler
/// complains of it. Passwords, secrets, tokens and the data of records are not looked at.
pub(super) fn subject(request: &Request<'_>) -> Subject {
    let fields = request.fields();
    let mut subject = Subject {
        resource: "*".to_owned(),
        details: Map::new(),
    };
    let resource = match request.operation() {
        Some(operation) => resource(operation, fields),
        None => absent_resource(request.name(), fields),
    };
    if let Some(resource) = resource {
        subject.resource = resource;
    }
    if let Some(operation) = request.operation() {
        describe(&mut subject, operation, fields);
    }
    leave_out_no_name(&mut subject.details);
    subject
}

/// Leaves out a name that no user can have: the resource has it already, and strangers choose it.
fn leave_out_no_name(details: &mut Map<String, Value>) {
    let name = details.get("username").and_then(Value::as_str);
    if name.is_some_and(|name| check_user_name(name).is_err()) {
        details.remove("username");
    }
}

fn resource(operation: Operation, fields: &Fields<'_>) -> Option<String> {
    match operation.touches() {
        Touches::Bucket => text(fields, "bucket"),
        Touches::NamedBucket | Touches::NamedQuery | Touches::NewQuery => text(fields, "name"),
        Touches::Query => text(fields, "query"),
        Touches::QueryOrBucket if fields.get("query").is_some_and(|json| json != "null") => text(fields, "query"),
        Touches::QueryOrBucket => text(fields, "bucket"),
        Touches::Steps | Touches::Visible | Touches::Server | Touches::Own => None,
        Touches::Session | Touches::Identity => identity_resource(operation, fields),
    }
}

/// What users, roles and rights are changed, or asked for.
fn identity_resource(operation: Operation, fields: &Fields<'_>) -> Option<String> {
    let prefixed = |prefix: &str, field: &str| text(fields, field).map(|name| bounded(&format!("{prefix}:{name}")));
    #[expect(clippy::wildcard_enum_match_arm, reason = "of all other operations there is nothing to say")]
    match operation {
        Operation::IdentityLogin | Operation::IdentityCreateUser => prefixed("user", "username"),
        Operation::IdentityGetUser
        | Operation::IdentityUpdateUser
        | Operation::IdentityDeleteUser
        | Operation::IdentityEnableUser
        | Operation::IdentityDisableUser
        | Operation::IdentityChangePassword
        | Operation::IdentityResetPassword
        | Operation::IdentityAssignRole
        | Operation::IdentityRemoveRole
        | Operation::IdentityGetUserRoles => prefixed("user", "userId"),
        Operation::IdentityCreateRole => text(fields, "name"),
        Operation::IdentityUpdateRole | Operation::IdentityDeleteRole => prefixed("role", "roleId"),
        Operation::IdentityGrant
        | Operation::IdentityRevoke
        | Operation::IdentityGetAcl
        | Operation::IdentityGetOwner
        | Operation::IdentityTransferOwner => {
            let (kind, name) = (text(fields, "resourceType")?, text(fields, "resourceName")?);
            Some(bounded(&format!("{kind}:{name}")))
        }
        _ => None,
    }
}

/// What is asked for of parts that this server does not have.
fn absent_resource(name: &str, fields: &Fields<'_>) -> Option<String> {
    let field = match name {
        "rules.emit" => "topic",
        "rules.subscribe" | "rules.queryFacts" => "pattern",
        "rules.setFact" | "rules.getFact" | "rules.deleteFact" => "key",
        "rules.unregisterRule" | "rules.updateRule" | "rules.enableRule" | "rules.disableRule" | "rules.getRule" => "ruleId",
        "procedures.call" | "procedures.get" | "procedures.unregister" | "procedures.update" => "name",
        "procedures.register" => return member(fields, "procedure", "name"),
        "rules.registerRule" | "rules.validateRule" => return member(fields, "rule", "id"),
        _ => return None,
    };
    text(fields, field)
}

/// Adds what is to be said beside the resource.
fn describe(subject: &mut Subject, operation: Operation, fields: &Fields<'_>) {
    let details = &mut subject.details;
    let mut add_texts = |names: &[&str]| {
        for name in names {
            if let Some(text) = text(fields, name) {
                details.insert((*name).to_owned(), Value::String(text));
            }
        }
    };
    #[expect(clippy::wildcard_enum_match_arm, reason = "of all other operations there is no more to say")]
    match operation {
        Operation::IdentityLogin | Operation::IdentityCreateUser => add_texts(&["username"]),
        Operation::IdentityAssignRole | Operation::IdentityRemoveRole => add_texts(&["userId", "roleName"]),
        Operation::IdentityGrant | Operation::IdentityRevoke => {
            add_texts(&["subjectType", "subjectId", "resourceType", "resourceName"]);
            if let Some(operations) = texts(fields, "operations") {
                details.insert("operations".to_owned(), Value::Array(operations));
            }
        }
        Operation::IdentityUpdateUser => {
            details.insert("changed".to_owned(), named(fields, &["displayName", "email", "metadata"]));
        }
        Operation::IdentityUpdateRole => {
            details.insert("changed".to_owned(), named(fields, &["description", "permissions"]));
        }
        Operation::IdentityTransferOwner => add_texts(&["resourceType", "resourceName", "newOwnerId"]),
        Operation::StoreUpdate | Operation::StoreDelete => {
            if let Some(key) = key(fields) {
                details.insert("key".to_owned(), key);
            }
        }
        Operation::StoreDefineQuery => {
            if let Some(bucket) = member(fields, "config", "bucket") {
                details.insert("bucket".to_owned(), Value::String(bucket));
            }
        }
        Operation::StoreTransaction => {
            let buckets = step_buckets(fields);
            if let [Value::String(bucket)] = &buckets[..] {
                subject.resource.clone_from(bucket);
            }
            details.insert("buckets".to_owned(), Value::Array(buckets));
        }
        _ => {}
    }
}

/// Which of some fields are there. What users tell of themselves is nobody's concern who reads the log.
fn named(fields: &Fields<'_>, names: &[&str]) -> Value {
    let named = names.iter().filter(|name| fields.get(name).is_some());
    named.map(|name| Value::from(*name)).collect()
}

/// The buckets of a transaction, each once, in the order in which they come.
fn step_buckets(fields: &Fields<'_>) -> Vec<Value> {
    let elements: Vec<&RawValue> = fields
        .get("operations")
        .and_then(|json| serde_json::from_str(json).ok())
        .unwrap_or_default();
    let mut buckets = Vec::new();
    for element in elements {
        let bucket = Fields::parse(element.get()).ok().and_then(|fields| text(&fields, "bucket"));
        if let Some(bucket) = bucket.map(Value::String)
            && !buckets.contains(&bucket)
        {
            if buckets.len() == NAMES_MAX {
                buckets.push(Value::String("…".to_owned()));
                break;
            }
            buckets.push(bucket);
        }
    }
    buckets
}

/// A text that is not empty.
fn text(fields: &Fields<'_>, name: &str) -> Option<String> {
    read_text(fields.get(name)?)
}

fn read_text(json: &str) -> Option<String> {
    let text = json.starts_with('"').then(|| decode_text(json)).flatten()?;
    (!text.is_empty()).then(|| bounded(&text))
}

/// A text in an object.
fn member(fields: &Fields<'_>, object: &str, name: &str) -> Option<String> {
    let members = Fields::parse(fields.get(object)?).ok()?;
    text(&members, name)
}

/// A list of texts.
fn texts(fields: &Fields<'_>, name: &str) -> Option<Vec<Value>> {
    let items: Vec<&RawValue> = serde_json::from_str(fields.get(name)?).ok()?;
    let texts = items.into_iter().take(NAMES_MAX).filter_map(|item| read_text(item.get()));
    Some(texts.map(Value::String).collect())
}

/// The key of a record: a text or a number.
fn key(fields: &Fields<'_>) -> Option<Value> {
    let json = fields.get("key")?;
    if json.starts_with('"') {
        return read_text(json).map(Value::String);
    }
    let number = Number::parse(json.as_bytes())?;
    Some(Value::Number(number.to_string().parse().ok()?))
}
