//! The roles that are there from the start. Each is made once; what a superadmin changes about it stays.

use serde_json::{Value, json};

/// Name, description and permissions.
pub(crate) fn system_roles() -> [(&'static str, &'static str, Value); 4] {
    [
        ("superadmin", "Everything, users and roles included", json!([{ "allow": ["*"] }])),
        ("admin", "Structure, data, and users of lesser rights", admin()),
        ("writer", "Changes and reads data", writer()),
        ("reader", "Reads data", reader()),
    ]
}

fn admin() -> Value {
    json!([
        { "allow": ["store.*", "rules.*", "procedures.*", "server.*", "audit.*"] },
        { "allow": [
            "identity.createUser", "identity.getUser", "identity.updateUser", "identity.deleteUser", "identity.listUsers",
        ] },
        { "allow": ["identity.enableUser", "identity.disableUser", "identity.resetPassword"] },
        { "allow": ["identity.listRoles", "identity.assignRole", "identity.removeRole", "identity.getUserRoles"] },
        { "allow": ["identity.grant", "identity.revoke", "identity.getAcl"] },
    ])
}

fn writer() -> Value {
    let mut permissions = vec![json!({ "allow": [
        "store.insert", "store.insertMany", "store.update", "store.updateMany", "store.upsert", "store.delete", "store.deleteMany",
        "store.clear", "store.transaction",
    ] })];
    permissions.extend(reading());
    permissions.push(json!({ "allow": ["rules.emit", "rules.setFact", "rules.deleteFact"] }));
    permissions.extend(reading_rules());
    permissions.push(json!({ "allow": ["procedures.call", "procedures.get"] }));
    Value::Array(permissions)
}

fn reader() -> Value {
    let mut permissions = Vec::from(reading());
    permissions.extend(reading_rules());
    permissions.push(json!({ "allow": ["procedures.get"] }));
    Value::Array(permissions)
}

fn reading() -> [Value; 4] {
    [
        json!({ "allow": ["store.get", "store.all", "store.where", "store.findOne", "store.count"] }),
        json!({ "allow": ["store.first", "store.last", "store.paginate"] }),
        json!({ "allow": [
            "store.sum", "store.avg", "store.min", "store.max", "store.groupBy", "store.runQuery", "store.explain",
        ] }),
        json!({ "allow": ["store.subscribe", "store.changes", "store.unsubscribe", "store.buckets", "store.stats"] }),
    ]
}

fn reading_rules() -> [Value; 2] {
    [
        json!({ "allow": ["rules.getFact", "rules.queryFacts", "rules.getAllFacts"] }),
        json!({ "allow": ["rules.subscribe", "rules.unsubscribe", "rules.stats"] }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Operation, Tier};
    use crate::server::access::{Asked, Grant, Principal, Scope, Target, best};

    #[test]
    fn the_roles_name_nothing_that_there_is_not() {
        for (name, _, permissions) in system_roles() {
            for permission in permissions.as_array().expect("a list") {
                assert!(
                    Grant::slips(permission.as_object().expect("an object")).is_empty(),
                    "{name}: {permission}"
                );
            }
        }
    }

    #[test]
    fn writer_and_reader_may_do_just_what_their_tiers_say() {
        let roles = system_roles();
        for (name, tier) in [("writer", Tier::Write), ("reader", Tier::Read)] {
            let (_, _, permissions) = roles.iter().find(|role| role.0 == name).expect("it is there");
            let principal = Principal::new("ida", [name]);
            let grant = |permission: &Value| {
                let grant = Grant::parse(permission.as_object().expect("an object"), &[]).expect("it is well formed");
                std::sync::Arc::new(grant)
                    .for_principal(&principal)
                    .expect("it needs nothing of the session")
            };
            let allowances: Vec<_> = permissions.as_array().expect("a list").iter().map(grant).collect();
            for operation in Operation::ALL.iter().filter(|operation| operation.name().starts_with("store.")) {
                let allowed = best::scope(&allowances, Asked::from(*operation), &Target::Bucket("b"));
                let expected = (operation.tier() <= Some(tier)).then_some(Scope::Everything);
                assert_eq!(allowed, expected, "{name} {operation}");
            }
        }
    }
}
