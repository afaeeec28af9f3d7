//! The fields of requests about users, roles and rights, each with the complaint that clients know.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::protocol::{Fields, Tier};
use crate::server::access::{Grant, Secret};
use crate::server::handlers::failure::Failure;
use crate::server::handlers::{deny_reserved, fields};
use crate::server::identity::{PERMISSIONS_MAX, Profile, Resource, ResourceKind, Setting, Subject, parse_right};

/// The longest name that somebody is shown by, the longest address, and the longest description, in bytes.
const DISPLAY_NAME_MAX: usize = 256;
const EMAIL_MAX: usize = 254;
const DESCRIPTION_MAX: usize = 1_024;
/// The most bytes that a user's metadata take as JSON.
const METADATA_MAX: usize = 16 << 10;
/// The longest name of something that rights are given on, and the longest id, in bytes.
const NAME_MAX: usize = 256;

/// A text that is not empty.
pub(super) fn text(fields: &Fields<'_>, name: &str) -> Result<Arc<str>, Failure> {
    let text = fields::text(fields, name)?;
    if text.len() > NAME_MAX {
        return Err(Failure::validation(format!(
            "Invalid \"{name}\": at most {NAME_MAX} bytes are allowed"
        )));
    }
    Ok(text.as_ref().into())
}

/// A text that nobody is to see.
pub(super) fn secret(fields: &Fields<'_>, name: &str) -> Result<Secret, Failure> {
    fields::text(fields, name).map(|text| Secret::from(text.into_owned()))
}

/// A field of a user or role that may be absent.
fn setting<T>(fields: &Fields<'_>, name: &str, kind: &str, read: impl FnOnce(Value) -> Option<T>) -> Result<Setting<T>, Failure> {
    if fields.get(name).is_none() {
        return Ok(Setting::Keep);
    }
    let value = fields::value(fields, name)?;
    if value.is_null() {
        return Ok(Setting::Clear);
    }
    read(value)
        .map(Setting::Set)
        .ok_or_else(|| Failure::validation(format!("Invalid \"{name}\": expected {kind}")))
}

fn short_text(value: Value, max: usize) -> Option<String> {
    match value {
        Value::String(text) if text.len() <= max => Some(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

pub(super) fn profile(fields: &Fields<'_>) -> Result<Profile, Failure> {
    let name_kind = format!("string of at most {DISPLAY_NAME_MAX} bytes");
    let metadata_kind = format!("object of at most {METADATA_MAX} bytes");
    Ok(Profile {
        display_name: setting(fields, "displayName", &name_kind, |value| short_text(value, DISPLAY_NAME_MAX))?,
        email: setting(fields, "email", "e-mail address", |value| {
            short_text(value, EMAIL_MAX).filter(|email| is_email(email))
        })?,
        metadata: setting(fields, "metadata", &metadata_kind, |value| match value {
            Value::Object(metadata) => (fields.get("metadata")?.len() <= METADATA_MAX).then_some(metadata),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => None,
        })?,
    })
}

/// Whether a text looks like `x@y.z`.
fn is_email(text: &str) -> bool {
    let is_plain = !text.chars().any(|c| c.is_whitespace() || c.is_control());
    let Some((user, domain)) = text.split_once('@') else { return false };
    let has_dot = domain
        .split_once('.')
        .is_some_and(|(name, rest)| !name.is_empty() && !rest.is_empty());
    is_plain && !user.is_empty() && !domain.contains('@') && has_dot
}

pub(super) fn description(fields: &Fields<'_>) -> Result<Setting<String>, Failure> {
    let kind = format!("string of at most {DESCRIPTION_MAX} bytes");
    setting(fields, "description", &kind, |value| short_text(value, DESCRIPTION_MAX))
}

/// Yes or no, where the field is there.
pub(super) fn flag(fields: &Fields<'_>, name: &str) -> Result<Option<bool>, Failure> {
    match setting(fields, name, "boolean", |value| value.as_bool())? {
        Setting::Keep | Setting::Clear => Ok(None),
        Setting::Set(flag) => Ok(Some(flag)),
    }
}

/// What a role is to allow, where the field is there.
pub(super) fn permissions(fields: &Fields<'_>) -> Result<Option<Vec<Value>>, Failure> {
    let complaint = || Failure::validation("Invalid \"permissions\": expected array of permission objects");
    let permissions = match setting(fields, "permissions", "array of permission objects", Some)? {
        Setting::Keep | Setting::Clear => return Ok(None),
        Setting::Set(Value::Array(permissions)) => permissions,
        Setting::Set(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => return Err(complaint()),
    };
    if permissions.len() > PERMISSIONS_MAX {
        return Err(Failure::validation(format!(
            "Invalid \"permissions\": {} objects, at most {PERMISSIONS_MAX} are allowed",
            permissions.len()
        )));
    }
    for (at, permission) in permissions.iter().enumerate() {
        check_permission(at, permission.as_object().ok_or_else(complaint)?)?;
    }
    Ok(Some(permissions))
}

fn check_permission(at: usize, permission: &Map<String, Value>) -> Result<(), Failure> {
    let mut faults = Grant::parse(permission, &[]).err().unwrap_or_default();
    faults.extend(Grant::slips(permission));
    if faults.is_empty() {
        return Ok(());
    }
    let problems: Vec<_> = faults.iter().map(|fault| format!("{}: {}", fault.member, fault.message)).collect();
    Err(Failure::validation(format!(
        "Invalid \"permissions[{at}]\": {}",
        problems.join("; ")
    )))
}

pub(super) fn subject(kind: &str, id: &str) -> Result<Subject, Failure> {
    Subject::parse(kind, id).ok_or_else(|| Failure::validation(format!("Invalid subject type \"{kind}\". Must be \"user\" or \"role\"")))
}

/// What `resourceType` and `resourceName` name.
pub(super) fn resource(fields: &Fields<'_>) -> Result<Resource, Failure> {
    let (kind, name) = (text(fields, "resourceType")?, text(fields, "resourceName")?);
    resource_of(&kind, name)
}

pub(super) fn resource_of(kind: &str, name: Arc<str>) -> Result<Resource, Failure> {
    let kind = ResourceKind::parse(kind).ok_or_else(|| {
        Failure::validation(format!(
            "Invalid resource type \"{kind}\". Must be \"bucket\", \"topic\", \"procedure\" or \"query\""
        ))
    })?;
    match kind {
        ResourceKind::Bucket | ResourceKind::Query => deny_reserved(&name)?,
        ResourceKind::Topic | ResourceKind::Procedure => {}
    }
    Ok(Resource { kind, name })
}

/// The rights that `operations` names.
pub(super) fn rights(fields: &Fields<'_>) -> Result<Vec<Tier>, Failure> {
    let Value::Array(names) = fields::value(fields, "operations")? else {
        return Err(Failure::validation("Missing or invalid \"operations\": expected non-empty array"));
    };
    if names.is_empty() {
        return Err(Failure::validation("Operations must be a non-empty array"));
    }
    let mut rights = Vec::new();
    for name in &names {
        let right = name.as_str().and_then(parse_right).ok_or_else(|| {
            let shown: String = name
                .as_str()
                .map_or_else(|| name.to_string(), str::to_owned)
                .chars()
                .take(64)
                .collect();
            Failure::validation(format!("Invalid ACL operation \"{shown}\". Valid operations: read, write, admin"))
        })?;
        if !rights.contains(&right) {
            rights.push(right);
        }
    }
    Ok(rights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_at_sign_and_a_dot_behind_it() {
        for good in ["mira@example.org", "a@b.c", "a.b+c@d.e.f"] {
            assert!(is_email(good), "{good}");
        }
        for bad in ["", "no-address", "@b.c", "a@b", "a@.c", "a@b.", "a@b@c.d", "a b@c.d", "a@b.c\n"] {
            assert!(!is_email(bad), "{bad}");
        }
    }
}
