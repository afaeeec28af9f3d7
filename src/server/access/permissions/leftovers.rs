//! What rules for rows and fields do not bound, where the default allows what no rule names.

use super::grant::Grant;
use super::policy::{DefaultPermission, PermissionsConfig, level};
use crate::protocol::{Operation, Tier, Touches};

/// A rule for rows or fields, and what its role may do on the same buckets without these bounds.
#[derive(Debug, PartialEq)]
pub(crate) struct Leftover {
    /// The place of the rule among all.
    pub(crate) rule: usize,
    pub(crate) role: String,
    /// Whether the role is a built-in one. The default helps others only beside such a one.
    pub(crate) is_built_in: bool,
    pub(crate) operations: Vec<Operation>,
}

impl PermissionsConfig {
    /// What the default leaves of the operations on records, for each rule for rows or fields that bounds only some.
    pub(crate) fn leftovers(&self) -> Vec<Leftover> {
        if self.default_permission() == DefaultPermission::Deny {
            return Vec::new();
        }
        let rules = self.rules.as_deref().unwrap_or_default();
        let of_rule = |(at, rule): (usize, &super::PermissionRule)| {
            let of_role: Vec<&Grant> = rules.iter().filter(|it| it.role() == rule.role()).map(|it| it.grant()).collect();
            let tier = level(rule.role()).unwrap_or(Tier::Read);
            let operations: Vec<_> = on_records(tier)
                .filter(|operation| rule.grant().leaves(*operation, &of_role))
                .collect();
            (rule.grant().is_partial() && !operations.is_empty()).then(|| Leftover {
                rule: at,
                role: rule.role().to_owned(),
                is_built_in: level(rule.role()).is_some(),
                operations,
            })
        };
        rules.iter().enumerate().filter_map(of_rule).collect()
    }
}

/// The operations on records that a tier reaches. Administration knows no records, and the steps of transactions count as
/// the operations that they stand for.
fn on_records(tier: Tier) -> impl Iterator<Item = Operation> {
    let is_on_records = move |operation: &Operation| match operation.touches() {
        Touches::Bucket | Touches::Query | Touches::QueryOrBucket => operation.tier().is_some_and(|needed| needed <= tier),
        Touches::NamedBucket
        | Touches::NamedQuery
        | Touches::NewQuery
        | Touches::Steps
        | Touches::Visible
        | Touches::Server
        | Touches::Own
        | Touches::Session
        | Touches::Identity => false,
    };
    Operation::ALL.iter().copied().filter(is_on_records)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::server::access::permissions::rule;

    fn leftovers(default: Option<DefaultPermission>, rules: &[Value]) -> Vec<Leftover> {
        let config = PermissionsConfig {
            default,
            rules: Some(rules.iter().cloned().map(rule).collect()),
            check: None,
        };
        config.leftovers()
    }

    #[test]
    fn what_a_rule_for_rows_does_not_name_is_left_to_a_default_of_allow() {
        let own = json!({ "owner": "{{ session.userId }}" });
        let some = json!({ "role": "reader", "allow": ["store.get", "store.all"], "buckets": ["orders"], "where": own });
        let found = leftovers(
            Some(DefaultPermission::Allow),
            &[json!({ "role": "admin", "allow": "*" }), some.clone()],
        );
        assert_eq!(
            (found.len(), found[0].rule, found[0].role.as_str(), found[0].is_built_in),
            (1, 1, "reader", true)
        );
        let left = &found[0].operations;
        for operation in [
            Operation::StoreWhere,
            Operation::StoreSubscribe,
            Operation::StoreChanges,
            Operation::StoreExplain,
        ] {
            assert!(left.contains(&operation), "{operation}");
        }
        for operation in [
            Operation::StoreGet,
            Operation::StoreInsert,
            Operation::StoreStats,
            Operation::StoreUnsubscribe,
        ] {
            assert!(!left.contains(&operation), "{operation}");
        }
        assert_eq!(leftovers(None, std::slice::from_ref(&some)), []);
        assert_eq!(leftovers(Some(DefaultPermission::Deny), &[some]), []);
    }

    #[test]
    fn whoever_writes_is_left_writes_as_well_and_other_roles_need_a_built_in_one_beside_them() {
        let reads = |role: &str| {
            let reads: Vec<_> = on_records(Tier::Read).map(Operation::name).collect();
            json!({ "role": role, "allow": reads, "fields": ["item"] })
        };
        let allow = Some(DefaultPermission::Allow);
        assert_eq!(leftovers(allow, &[reads("reader")]), []);
        assert_eq!(leftovers(allow, &[reads("clerk")]), []);
        assert!(leftovers(allow, &[reads("writer")])[0].operations.contains(&Operation::StoreUpdate));
        let one = leftovers(allow, &[json!({ "role": "clerk", "allow": "store.get", "fields": ["item"] })]);
        assert!(!one[0].is_built_in && !one[0].operations.contains(&Operation::StoreUpdate));
    }

    #[test]
    fn rules_of_one_role_bound_together_what_each_of_them_bounds() {
        let rule = |allow: &str, buckets: Value| json!({ "role": "reader", "allow": allow, "buckets": buckets, "where": { "a": 1 } });
        let allow = Some(DefaultPermission::Allow);
        let all = rule("store.*", json!(["orders", "tasks"]));
        assert_eq!(leftovers(allow, &[rule("store.get", json!(["orders"])), all.clone()]), []);
        let more = leftovers(allow, &[rule("store.get", json!(["orders", "notes"])), all.clone()]);
        assert_eq!((more.len(), more[0].rule), (1, 0));
        let everywhere = json!({ "role": "reader", "allow": "store.get", "where": { "a": 1 } });
        assert_eq!(leftovers(allow, &[everywhere, all])[0].rule, 0);
    }
}
