//! The guarded buckets that users, roles and rights are kept in. Clients cannot name them: their names begin with an
//! underscore. The program that embeds the server reaches them through the store; what it changes there takes effect
//! with the next start.

use serde_json::{Map, Value, json};

use crate::protocol::{BucketName, Record};
use crate::store::{Action, BucketDefinition, Step, StoreError};

/// One of the buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Users,
    Roles,
    Assignments,
    Acl,
    Sessions,
    Owners,
}

impl Table {
    pub(crate) const ALL: [Self; 6] = [Self::Users, Self::Roles, Self::Assignments, Self::Acl, Self::Sessions, Self::Owners];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Users => "_users",
            Self::Roles => "_roles",
            Self::Assignments => "_user_roles",
            Self::Acl => "_acl",
            Self::Sessions => "_sessions",
            Self::Owners => "_resource_owners",
        }
    }

    /// The table of a bucket.
    pub(crate) fn of(bucket: &BucketName) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == bucket.as_str())
    }

    /// How its bucket is defined; one that was defined before may lack a field or two. What is unique is so by the key where it is made of several things: then the key is
    /// the JSON of all of them.
    pub(crate) fn definition(self) -> Result<BucketDefinition, StoreError> {
        let id = json!({ "type": "string", "required": true });
        let text = json!({ "type": "string", "required": true });
        let number = json!({ "type": "number" });
        let schema = match self {
            Self::Users => json!({
                "id": id,
                "username": text,
                "usernameKey": { "type": "string", "required": true, "unique": true },
                "passwordHash": text,
                "displayName": { "type": "string" },
                "email": { "type": "string" },
                "enabled": { "type": "boolean", "required": true },
                "metadata": { "type": "object" },
                "hasProvenPassword": { "type": "boolean" },
            }),
            Self::Roles => json!({
                "id": id,
                "name": { "type": "string", "required": true, "unique": true },
                "description": { "type": "string" },
                "system": { "type": "boolean", "required": true },
                "permissions": { "type": "array", "required": true },
            }),
            Self::Assignments => json!({ "id": id, "userId": text, "roleId": text, "grantedBy": { "type": "string" } }),
            Self::Acl => json!({
                "id": id,
                "subjectType": text,
                "subjectId": text,
                "resourceType": text,
                "resourceName": text,
                "operations": { "type": "array", "required": true },
                "incarnation": number,
                "grantedBy": { "type": "string" },
            }),
            Self::Sessions => json!({
                "id": id,
                "userId": text,
                "tokenHash": { "type": "string", "required": true, "unique": true },
                "loggedInAt": number,
                "expiresAt": number,
                "ip": { "type": "string" },
            }),
            Self::Owners => {
                json!({ "id": id, "userId": text, "resourceType": text, "resourceName": text, "incarnation": number })
            }
        };
        BucketDefinition::from_value(&json!({ "key": "id", "schema": schema }))
    }

    /// The key that a record has where it is unique by several things together; none where it has any.
    pub(crate) fn own_key(self, record: &Map<String, Value>) -> Option<String> {
        let parts: &[&str] = match self {
            Self::Users | Self::Roles | Self::Sessions => return None,
            Self::Assignments => &["userId", "roleId"],
            Self::Acl => &["subjectType", "subjectId", "resourceType", "resourceName"],
            Self::Owners => &["resourceType", "resourceName"],
        };
        let texts: Option<Vec<&str>> = parts.iter().map(|name| record.get(*name)?.as_str()).collect();
        Some(joint_key(&texts?))
    }

    pub(crate) fn insert(self, record: &Map<String, Value>) -> Step {
        self.step(Action::Insert {
            record: Record::from_object(record),
        })
    }

    pub(crate) fn update(self, key: &str, changes: &Map<String, Value>) -> Step {
        self.step(Action::Update {
            key: key.into(),
            changes: Record::from_object(changes),
            expect_version: None,
        })
    }

    pub(crate) fn delete(self, key: &str) -> Step {
        self.step(Action::Delete {
            key: key.into(),
            expect_version: None,
        })
    }

    fn step(self, action: Action) -> Step {
        Step {
            bucket: self.name().into(),
            guard: None,
            action,
        }
    }
}

/// The members of an object that is written down as one.
pub(crate) fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}

/// The key of a record that several texts identify together.
pub(crate) fn joint_key(parts: &[&str]) -> String {
    json!(parts).to_string()
}
