//! What a change of a role has done: what it allowed before, and what it allows now.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::entry::bounded;

/// The most bytes of permissions that an entry shows, as JSON. Of more it tells how many they are, and their digest.
const PERMISSIONS_BYTES_MAX: usize = 4 << 10;

/// The details of a change of a role: its name, and the permissions that there were before and are now, as far as there
/// are any.
pub(crate) fn role_change(name: &str, before: Option<&[Value]>, after: Option<&[Value]>) -> Map<String, Value> {
    let mut details = Map::new();
    details.insert("roleName".to_owned(), Value::String(bounded(name)));
    for (member, permissions) in [("permissionsBefore", before), ("permissionsAfter", after)] {
        if let Some(permissions) = permissions {
            details.insert(member.to_owned(), shown(permissions));
        }
    }
    details
}

fn shown(permissions: &[Value]) -> Value {
    let json = json!(permissions);
    let text = json.to_string();
    if text.len() <= PERMISSIONS_BYTES_MAX {
        return json;
    }
    let digest: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    json!({ "objects": permissions.len(), "bytes": text.len(), "sha256": digest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_shown_as_they_are_up_to_a_size_and_by_their_digest_beyond() {
        let few = vec![json!({ "allow": ["store.get"], "buckets": ["orders"] })];
        let many = vec![json!({ "allow": ["x".repeat(250)] }); 20];
        let details = role_change("clerk", Some(&few), Some(&many));
        assert_eq!(details["roleName"], "clerk");
        assert_eq!(details["permissionsBefore"], json!(few));
        let after = &details["permissionsAfter"];
        assert_eq!(
            (&after["objects"], &after["bytes"]),
            (&json!(20), &json!(json!(many).to_string().len()))
        );
        assert_eq!(after["sha256"].as_str().map(str::len), Some(64));
        let others = vec![json!({ "allow": ["y".repeat(250)] }); 20];
        let of_others = role_change("clerk", None, Some(&others));
        assert_ne!(of_others["permissionsAfter"]["sha256"], after["sha256"]);
        assert!(!of_others.contains_key("permissionsBefore"));
        assert!(json!(details).to_string().len() < 2 * PERMISSIONS_BYTES_MAX + 512);
    }
}
