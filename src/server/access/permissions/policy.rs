//! What the configuration allows to whom: tiers of the built-in roles, rules, and a function of the embedding program.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::grant::{Allowance, Grant, GrantFault, best};
use crate::protocol::{Operation, Tier};
use crate::server::access::{Asked, Principal, Rights, Scope, Target, Work};

/// What `default` of the permissions says: what becomes of what no rule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultPermission {
    /// It is allowed to sessions with a built-in role, as far as the tier of that goes.
    Allow,
    /// It is refused.
    Deny,
}

/// A rule: what sessions with a role may do.
#[derive(Clone, Debug, PartialEq)]
pub struct PermissionRule {
    role: String,
    grant: Arc<Grant>,
}

impl PermissionRule {
    /// Reads `{ role, allow, buckets?, topics?, where?, fields? }`.
    ///
    /// ```
    /// use noex_server::server::config::PermissionRule;
    /// use serde_json::json;
    ///
    /// let own_orders = json!({
    ///     "role": "clerk", "allow": "store.*", "buckets": ["orders"],
    ///     "where": { "owner": "{{ session.userId }}" }, "fields": ["item", "owner"],
    /// });
    /// assert!(PermissionRule::parse(&own_orders).is_ok());
    /// assert!(PermissionRule::parse(&json!({ "role": "clerk" })).is_err());
    /// ```
    ///
    /// # Errors
    /// All that is wrong with it, each with the member that it is wrong with.
    pub fn parse(rule: &Value) -> Result<Self, Vec<(String, String)>> {
        let pair = |fault: GrantFault| (fault.member, fault.message);
        let members = rule
            .as_object()
            .ok_or_else(|| vec![(String::new(), "expected an object".to_owned())])?;
        let role = members.get("role").and_then(Value::as_str).filter(|role| !role.is_empty());
        let grant = Grant::parse(members, &["role"]);
        let slips = Grant::slips(members);
        match (role, grant) {
            (Some(role), Ok(grant)) if slips.is_empty() => Ok(Self {
                role: role.to_owned(),
                grant: Arc::new(grant),
            }),
            (role, grant) => {
                let slips = slips.into_iter().map(pair);
                let mut faults: Vec<_> = grant.err().unwrap_or_default().into_iter().map(pair).chain(slips).collect();
                if role.is_none() {
                    faults.insert(0, ("role".to_owned(), "expected the name of a role".to_owned()));
                }
                Err(faults)
            }
        }
    }

    pub(super) fn role(&self) -> &str {
        &self.role
    }

    pub(super) fn grant(&self) -> &Grant {
        &self.grant
    }
}

/// Decides about an operation and the name of what it touches (`*` where that is no single thing); `None` leaves it to
/// the rules.
type Check = dyn Fn(Arc<Principal>, String, String) -> Work<Option<bool>> + Send + Sync;

/// A function of the embedding program that is asked before the rules are.
#[derive(Clone)]
pub struct PermissionCheck(Arc<Check>);

impl PermissionCheck {
    /// A function that is given the principal, the operation and the name of what it touches: the bucket, also the one
    /// behind a query; `*` where that is no single thing. Each element of a transaction is asked about as the operation
    /// that it stands for. While it takes its time the connection's other requests wait. Where it panics nothing is
    /// allowed. It cannot allow what the tier of a built-in role forbids, and is not asked about who is not logged in.
    ///
    /// A subscription that it has allowed goes on until the user or the configuration changes.
    ///
    /// ```
    /// use noex_server::server::config::PermissionCheck;
    ///
    /// // Nobody but the owner touches a bucket that is named after somebody; rules decide about the others.
    /// let check = PermissionCheck::new(|principal, _operation, target| async move {
    ///     let owner = target.strip_prefix("of-")?;
    ///     Some(owner == principal.user_id)
    /// });
    /// ```
    pub fn new<F, W>(check: F) -> Self
    where
        F: Fn(Arc<Principal>, String, String) -> W + Send + Sync + 'static,
        W: Future<Output = Option<bool>> + Send + 'static,
    {
        Self(Arc::new(move |principal, operation, target| {
            Box::pin(check(principal, operation, target))
        }))
    }

    pub(crate) fn ask(&self, principal: Arc<Principal>, operation: String, target: String) -> Work<Option<bool>> {
        (self.0)(principal, operation, target)
    }
}

impl fmt::Debug for PermissionCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PermissionCheck")
    }
}

impl PartialEq for PermissionCheck {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What the configuration says of permissions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PermissionsConfig {
    /// What becomes of what no rule allows. Default: refused where rules are given, an empty list included, allowed where
    /// they are not.
    pub default: Option<DefaultPermission>,
    /// What sessions may do by their roles. Default `None`: no rules are given.
    pub rules: Option<Vec<PermissionRule>>,
    /// A function that is asked first.
    pub check: Option<PermissionCheck>,
}

impl PermissionsConfig {
    /// What becomes of what no rule allows.
    pub(super) fn default_permission(&self) -> DefaultPermission {
        match (self.default, &self.rules) {
            (Some(default), _) => default,
            (None, None) => DefaultPermission::Allow,
            // Whoever removes the last rule does not mean to allow what no rule has allowed.
            (None, Some(_)) => DefaultPermission::Deny,
        }
    }
}

/// Permissions at work.
#[derive(Debug, Default)]
pub struct Permissions {
    config: Option<PermissionsConfig>,
}

impl Permissions {
    /// The permissions of a configuration; without one, built-in roles decide alone.
    #[must_use]
    pub fn new(config: Option<PermissionsConfig>) -> Self {
        Self { config }
    }

    /// What somebody may do.
    pub(crate) fn rights(&self, principal: &Principal) -> TierRights {
        let level = principal.roles.iter().filter_map(|role| level(role)).max();
        let Some(config) = &self.config else {
            return TierRights {
                level,
                default: DefaultPermission::Allow,
                allowances: Vec::new(),
                check: None,
            };
        };
        let held = |rule: &&PermissionRule| principal.roles.contains(&rule.role);
        TierRights {
            level,
            default: config.default_permission(),
            check: config.check.clone(),
            allowances: config
                .rules
                .iter()
                .flatten()
                .filter(held)
                .filter_map(|rule| rule.grant.for_principal(principal))
                .collect(),
        }
    }
}

/// The tier that a built-in role reaches.
pub(super) fn level(role: &str) -> Option<Tier> {
    match role {
        "reader" => Some(Tier::Read),
        "writer" => Some(Tier::Write),
        "admin" => Some(Tier::Admin),
        _ => None,
    }
}

/// The rights of somebody with a token.
#[derive(Debug)]
pub(crate) struct TierRights {
    /// The highest tier that a built-in role of theirs reaches.
    level: Option<Tier>,
    default: DefaultPermission,
    allowances: Vec<Allowance>,
    check: Option<PermissionCheck>,
}

impl TierRights {
    fn check_tier(&self, asked: Asked<'_>) -> Result<(), String> {
        match (self.level, asked.tier()) {
            (Some(level), Some(tier)) if level < tier => Err(format!("Role level insufficient for {} (requires {tier})", asked.name)),
            _ => Ok(()),
        }
    }

    /// What holds where no rule says anything.
    fn otherwise(&self, asked: Asked<'_>, target: &Target<'_>) -> Result<Scope, String> {
        // A function may read any bucket, that of the rule for rows too.
        let evades_rule = matches!(target, Target::Query { bucket: None, .. }) && best::bounds_some(&self.allowances, asked);
        match (self.default, self.level) {
            (DefaultPermission::Allow, Some(_)) if !evades_rule => Ok(Scope::Everything),
            (DefaultPermission::Allow | DefaultPermission::Deny, _) => Err(format!("No permission for {} on {target}", asked.name)),
        }
    }
}

impl Rights for TierRights {
    fn judge(&self, asked: Asked<'_>, target: &Target<'_>) -> Result<Scope, String> {
        self.check_tier(asked)?;
        best::scope(&self.allowances, asked, target).map_or_else(|| self.otherwise(asked, target), Ok)
    }

    fn judge_visible(&self, asked: Asked<'_>) -> Result<(), String> {
        self.check_tier(asked)?;
        if best::shows_some(&self.allowances, asked) {
            return Ok(());
        }
        self.otherwise(asked, &Target::Server).map(drop)
    }

    fn judge_tier(&self, asked: Asked<'_>) -> Result<(), String> {
        self.check_tier(asked)
    }

    fn check(&self) -> Option<&PermissionCheck> {
        self.check.as_ref()
    }

    /// What a transaction does is judged by its steps. The tier is that of writes even for one that only reads, as
    /// clients of the reference know it.
    fn judge_transaction(&self, _reads_only: bool) -> Result<(), String> {
        self.check_tier(Operation::StoreTransaction.into())
    }

    fn judge_step(&self, operation: Operation, bucket: &str) -> Result<Scope, String> {
        let (asked, target) = (Asked::from(operation), Target::Bucket(bucket));
        self.check_tier(asked)?;
        best::scope(&self.allowances, asked, &target)
            .or_else(|| best::steps(&self.allowances, bucket))
            .map_or_else(|| self.otherwise(asked, &target), Ok)
    }
}

/// A rule from its parts, for tests.
#[cfg(test)]
pub(crate) fn rule(rule: Value) -> PermissionRule {
    PermissionRule::parse(&rule).unwrap_or_else(|faults| panic!("{rule}: {faults:?}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rights(config: Option<PermissionsConfig>, roles: &[&str]) -> TierRights {
        Permissions::new(config).rights(&Principal::new("ida", roles.iter().copied()))
    }

    fn ruled(default: Option<DefaultPermission>, rules: Value) -> Option<PermissionsConfig> {
        Some(PermissionsConfig {
            default,
            rules: Some(rules.as_array().expect("a list").iter().cloned().map(rule).collect()),
            check: None,
        })
    }

    fn judged(rights: &TierRights, name: &str, target: &Target<'_>) -> Result<Scope, String> {
        rights.judge(Asked::named(name), target)
    }

    #[test]
    fn without_rules_the_built_in_roles_decide_by_tier_and_others_may_nothing() {
        let bucket = Target::Bucket("orders");
        let table: [(&[&str], &str, bool); 12] = [
            (&["reader"], "store.get", true),
            (&["reader"], "store.insert", false),
            (&["writer"], "store.insert", true),
            (&["writer"], "store.dropBucket", false),
            (&["admin"], "store.dropBucket", true),
            (&["reader", "admin"], "store.dropBucket", true),
            (&["clerk"], "store.get", false),
            (&[], "store.get", false),
            (&["Admin", " admin", "ADMIN"], "store.get", false),
            (&["superadmin"], "store.get", false),
            (&["reader"], "no.such", true),
            (&["clerk"], "no.such", false),
        ];
        for (roles, name, allowed) in table {
            assert_eq!(judged(&rights(None, roles), name, &bucket).is_ok(), allowed, "{roles:?} {name}");
        }
        assert_eq!(
            judged(&rights(None, &["reader"]), "store.insert", &Target::Server),
            Err("Role level insufficient for store.insert (requires write)".to_owned())
        );
    }

    #[test]
    fn a_rule_allows_its_operations_on_its_buckets_and_lifts_nobody_above_a_tier() {
        let config = ruled(
            None,
            json!([
                { "role": "root", "allow": "*" },
                { "role": "clerk", "allow": ["store.get", "store.where", "store.buckets"], "buckets": ["orders"] },
                { "role": "clerk", "allow": "rules.emit", "topics": ["orders.*"] },
            ]),
        );
        let table: [(&[&str], &str, Target<'_>, bool); 12] = [
            (&["clerk"], "store.get", Target::Bucket("orders"), true),
            (&["clerk"], "store.get", Target::Bucket("Orders"), false),
            (&["clerk"], "store.get", Target::Bucket("users"), false),
            (&["clerk"], "store.all", Target::Bucket("orders"), false),
            (&["clerk"], "store.get", Target::Server, false),
            (&["clerk"], "rules.emit", Target::Topic("orders.paid"), true),
            (&["clerk"], "rules.emit", Target::Topic("payroll"), false),
            (&["clerk", "reader"], "rules.emit", Target::Topic("orders.paid"), false),
            (&["root"], "server.stats", Target::Server, true),
            (&["root", "reader"], "server.stats", Target::Server, false),
            (&["admin"], "server.stats", Target::Server, false),
            (&["root"], "frobnicate", Target::Server, true),
        ];
        for (roles, name, target, allowed) in table {
            let judged = judged(&rights(config.clone(), roles), name, &target);
            assert_eq!(judged.is_ok(), allowed, "{roles:?} {name} {target}");
        }
        let clerk = rights(config.clone(), &["clerk"]);
        assert_eq!(clerk.judge_visible(Asked::named("store.buckets")), Ok(()));
        assert!(clerk.judge_visible(Asked::named("store.stats")).is_err());
        assert_eq!(
            judged(&clerk, "store.get", &Target::Bucket("users")),
            Err("No permission for store.get on users".to_owned())
        );
    }

    #[test]
    fn the_default_is_to_deny_where_rules_are_given_also_where_none_is_left() {
        let bucket = Target::Bucket("orders");
        let may = |config| judged(&rights(Some(config), &["admin"]), "store.get", &bucket).is_ok();
        let without = |default| PermissionsConfig {
            default,
            ..PermissionsConfig::default()
        };
        assert!(may(without(None)));
        assert!(!may(without(Some(DefaultPermission::Deny))));
        assert!(!may(ruled(None, json!([])).expect("it is there")));
        assert!(may(ruled(Some(DefaultPermission::Allow), json!([])).expect("it is there")));
    }

    #[test]
    fn a_default_of_allow_helps_nobody_without_a_built_in_role() {
        let config = ruled(Some(DefaultPermission::Allow), json!([]));
        let bucket = Target::Bucket("orders");
        assert!(judged(&rights(config.clone(), &["reader"]), "store.get", &bucket).is_ok());
        assert!(judged(&rights(config, &["clerk"]), "store.get", &bucket).is_err());
    }

    #[test]
    fn a_rule_for_rows_holds_also_where_the_default_would_allow_more() {
        let rules = json!([{ "role": "reader", "allow": "store.*", "buckets": ["orders"], "where": { "owner": "{{ session.userId }}" } }]);
        let rights = rights(ruled(Some(DefaultPermission::Allow), rules), &["reader"]);
        let Ok(Scope::Guarded(guard)) = judged(&rights, "store.get", &Target::Bucket("orders")) else {
            panic!("it is guarded");
        };
        assert_eq!(String::from_utf8_lossy(guard.key()), r#"[{"owner":"ida"},null]"#);
        assert_eq!(judged(&rights, "store.get", &Target::Bucket("users")), Ok(Scope::Everything));
        let function = Target::Query { name: "q", bucket: None };
        assert!(judged(&rights, "store.runQuery", &function).is_err(), "it may read any bucket");
    }

    #[test]
    fn a_rule_without_bounds_wins_over_those_with_bounds() {
        let rules = json!([
            { "role": "clerk", "allow": "store.*", "where": { "owner": "ida" } },
            { "role": "clerk", "allow": "store.get", "buckets": ["orders"] },
        ]);
        let rights = rights(ruled(None, rules), &["clerk"]);
        assert_eq!(judged(&rights, "store.get", &Target::Bucket("orders")), Ok(Scope::Everything));
        assert!(matches!(
            judged(&rights, "store.get", &Target::Bucket("users")),
            Ok(Scope::Guarded(_))
        ));
    }

    #[test]
    fn whoever_may_touch_a_part_may_neither_define_nor_run_what_reads_anything() {
        let rules = json!([{ "role": "clerk", "allow": "*", "fields": ["item"] }]);
        let rights = rights(ruled(None, rules), &["clerk"]);
        for (name, target) in [
            ("store.dropBucket", Target::Bucket("orders")),
            ("store.defineQuery", Target::Bucket("orders")),
            ("server.stats", Target::Server),
            ("rules.emit", Target::Topic("x")),
            ("store.subscribe", Target::Query { name: "q", bucket: None }),
        ] {
            assert!(judged(&rights, name, &target).is_err(), "{name}");
        }
        assert!(judged(&rights, "store.get", &Target::Bucket("orders")).is_ok());
    }

    #[test]
    fn a_rule_whose_references_the_session_lacks_allows_nothing() {
        let rules = json!([{ "role": "clerk", "allow": "store.*", "where": { "team": "{{ session.metadata.team }}" } }]);
        let rights = rights(ruled(None, rules), &["clerk"]);
        assert!(judged(&rights, "store.get", &Target::Bucket("orders")).is_err());
    }

    #[test]
    fn a_list_of_the_session_where_one_value_is_meant_allows_nothing() {
        let rules = json!([{ "role": "clerk", "allow": "store.*", "where": { "owner": { "$neq": "{{ session.metadata.banned }}" } } }]);
        let permissions = Permissions::new(ruled(None, rules));
        let allows = |banned: Value| {
            let mut principal = Principal::new("ida", ["clerk"]);
            principal.metadata.insert("banned".to_owned(), banned);
            judged(&permissions.rights(&principal), "store.all", &Target::Bucket("orders")).is_ok()
        };
        assert!(allows(json!("bob")));
        assert!(!allows(json!(["bob"])));
    }

    #[test]
    fn a_rule_may_refer_to_values_of_several_types() {
        let rule = |filter: Value| PermissionRule::parse(&json!({ "role": "clerk", "allow": "store.*", "where": filter }));
        let several = json!({
            "n": { "$gt": "{{ session.metadata.n }}" }, "a": { "$in": "{{ session.roles }}" },
            "b": { "$between": "{{ session.metadata.span }}" }, "c": { "$startsWith": "{{ session.userId }}" },
        });
        assert!(rule(several).is_ok());
        for idle in [
            json!({ "$neq": ["bob"] }),
            json!({ "$nin": ["ann", ["bob"]] }),
            json!({ "$neq": {} }),
        ] {
            let faults = rule(json!({ "$or": [{ "owner": idle }] })).unwrap_err();
            assert_eq!(faults[0].0, "where.owner", "{faults:?}");
        }
    }

    #[test]
    fn steps_are_judged_one_by_one_unless_a_rule_names_transactions_alone() {
        let of = |allow: Value| {
            rights(
                ruled(None, json!([{ "role": "clerk", "allow": allow, "buckets": ["orders"] }])),
                &["clerk"],
            )
        };
        let named = of(json!(["store.transaction", "store.get", "store.insert"]));
        assert!(named.judge_step(Operation::StoreInsert, "orders").is_ok());
        assert!(named.judge_step(Operation::StoreDelete, "orders").is_err());
        let alone = of(json!(["store.transaction"]));
        assert!(alone.judge_step(Operation::StoreDelete, "orders").is_ok());
        assert!(alone.judge_step(Operation::StoreDelete, "salaries").is_err());
        assert!(of(json!("store.get")).judge_step(Operation::StoreGet, "orders").is_ok());
    }

    #[test]
    fn malformed_rules_are_refused_with_all_that_is_wrong() {
        let faults = PermissionRule::parse(&json!({
            "role": "", "allow": [], "buckets": "orders", "fields": [""], "were": {}, "where": { "a": { "$bad": 1 }, "b": "{{ user }}" },
        }))
        .unwrap_err();
        let members: Vec<_> = faults.iter().map(|(member, _)| member.as_str()).collect();
        assert_eq!(members, ["role", "were", "allow", "buckets", "fields[0]", "where", "where.a"]);
    }
}
