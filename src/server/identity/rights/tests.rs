//! Nobody raises anybody above themselves: random grants, with all that can be asked of them.

use proptest::prelude::*;
use proptest::sample::{Index, subsequence};
use serde_json::{Value, json};

use super::*;
use crate::protocol::Record;
use crate::server::access::STEPS;
use crate::server::identity::names::ADMIN;
use crate::server::identity::order::{Change, Order, Profile, Setting};
use crate::server::identity::plan::{Circumstances, Plan, plan};
use crate::server::identity::tables::{Table, joint_key};
use crate::store::Action;

const PATTERNS: [&str; 16] = [
    "*",
    "store.*",
    "store.get",
    "store.insert",
    "store.update",
    "store.delete",
    "store.where",
    "store.findOne",
    "store.count",
    "store.transaction",
    "store.stats",
    "store.dropBucket",
    "identity.*",
    "identity.listUsers",
    "rules.*",
    "rules.emit",
];
/// What is asked for beside what the server knows.
const ABSENT: [&str; 4] = ["rules.emit", "rules.getRules", "procedures.call", "no.such"];
/// The last one is named by nobody.
const BUCKETS: [&str; 3] = ["a", "b", "c"];
const CALLER: &str = "caller";
const PUPPET: &str = "puppet";

/// A grant, part by part.
#[derive(Clone, Debug)]
struct Parts {
    allow: Vec<&'static str>,
    buckets: Option<Vec<&'static str>>,
    topics: Option<Vec<&'static str>>,
    filter: Option<Value>,
    fields: Option<Vec<&'static str>>,
}

impl Parts {
    fn json(&self) -> Value {
        let mut grant = json!({ "allow": self.allow });
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                grant[name] = value;
            }
        };
        put("buckets", self.buckets.as_ref().map(|names| json!(names)));
        put("topics", self.topics.as_ref().map(|names| json!(names)));
        put("where", self.filter.clone());
        put("fields", self.fields.as_ref().map(|names| json!(names)));
        grant
    }

    /// The same but for one part, which is that of another grant.
    fn with_part_of(mut self, other: &Self, part: usize) -> Self {
        match part {
            0 => self.allow.clone_from(&other.allow),
            1 => self.buckets.clone_from(&other.buckets),
            2 => self.topics.clone_from(&other.topics),
            3 => self.filter.clone_from(&other.filter),
            4 => self.fields.clone_from(&other.fields),
            _ => {}
        }
        self
    }
}

fn grant() -> impl Strategy<Value = Parts> {
    let filters = [
        json!({ "team": "x" }),
        json!({ "team": { "$in": "{{ session.roles }}" } }),
        json!({ "team": { "$nin": "{{ session.roles }}" } }),
        json!({ "team": "{{ session.metadata.team }}" }),
        json!({ "owner": "{{ session.userId }}" }),
    ];
    let maybe = |names: &'static [&'static str]| prop::option::weighted(0.4, subsequence(names, 1..=names.len()));
    // Some mean more, or less, than their patterns say, by what stands beside them.
    let telling: [&[&str]; 5] = [
        &["*"],
        &["store.transaction"],
        &["store.transaction", "store.get"],
        &["identity.*"],
        &["*", "identity.listUsers"],
    ];
    let allow = prop_oneof![
        2 => subsequence(PATTERNS.to_vec(), 1..4),
        1 => prop::sample::select(telling.map(<[_]>::to_vec).to_vec()),
    ];
    let parts = (
        allow,
        maybe(&["a", "b"]),
        maybe(&["t.*", "u"]),
        prop::option::weighted(0.4, prop::sample::select(filters.to_vec())),
        maybe(&["f", "g"]),
    );
    parts.prop_map(|(allow, buckets, topics, filter, fields)| Parts {
        allow,
        buckets,
        topics,
        filter,
        fields,
    })
}

/// What somebody tries.
#[derive(Clone, Debug)]
enum Attempt {
    Assign(Index),
    Remove(Index),
    Describe(Option<&'static str>),
}

/// Who there is, what the roles allow, and who holds which.
#[derive(Clone, Debug)]
struct Scene {
    roles: Vec<Vec<Parts>>,
    of_caller: Vec<usize>,
    of_puppet: Vec<usize>,
    teams: [Option<&'static str>; 2],
    is_about_self: bool,
    attempt: Attempt,
}

fn scene() -> impl Strategy<Value = Scene> {
    let team = || prop::sample::select(vec![None, Some("x"), Some("role-1")]);
    let attempt = prop_oneof![
        3 => any::<Index>().prop_map(Attempt::Assign),
        1 => any::<Index>().prop_map(Attempt::Remove),
        1 => team().prop_map(Attempt::Describe),
    ];
    let own = prop::collection::vec(grant(), 0..3);
    // What others hold is much like what the caller holds: else nothing would ever pass.
    let change = (any::<Index>(), grant(), 0..10_usize);
    let others = prop::collection::vec(prop::collection::vec(change, 0..2), 3);
    let held = |roles: usize| subsequence((0..roles).collect::<Vec<_>>(), 0..=roles);
    (own, others, held(4), held(4), [team(), team()], any::<bool>(), attempt).prop_map(
        |(own, others, mut of_caller, of_puppet, teams, is_about_self, attempt)| {
            let like_own = |(at, other, part): (Index, Parts, usize)| match own.len() {
                0 => other,
                len => own[at.index(len)].clone().with_part_of(&other, part),
            };
            let mut roles: Vec<Vec<Parts>> = others
                .into_iter()
                .map(|grants| grants.into_iter().map(&like_own).collect())
                .collect();
            // Anywhere among the others: their order is what the first of several rules is found by.
            let own_at = usize::from(is_about_self) + usize::from(own.len() == 1);
            roles.insert(own_at, own);
            if !of_caller.contains(&own_at) {
                of_caller.push(own_at);
            }
            Scene {
                roles,
                of_caller,
                of_puppet,
                teams,
                is_about_self,
                attempt,
            }
        },
    )
}

fn put(directory: &mut Directory, table: Table, mut record: Value) {
    record["_createdAt"] = json!(1);
    record["_updatedAt"] = json!(1);
    let record = Record::from_object(record.as_object().expect("records are objects"));
    directory.put(table, &record, 1).expect("it makes sense");
}

fn put_role(directory: &mut Directory, name: &str, permissions: &[Value]) {
    put(
        directory,
        Table::Roles,
        json!({ "id": name, "name": name, "system": false, "permissions": permissions }),
    );
}

fn put_assignment(directory: &mut Directory, user: &str, role: &str) {
    let key = joint_key(&[user, role]);
    put(directory, Table::Assignments, json!({ "id": key, "userId": user, "roleId": role }));
}

impl Scene {
    fn directory(&self) -> Directory {
        let mut directory = Directory::default();
        let helps = json!({ "allow": ["identity.assignRole", "identity.removeRole", "identity.updateUser"] });
        put_role(&mut directory, "helper", &[helps]);
        // Its holders may tell of users what rules of rows see.
        put_role(&mut directory, ADMIN, &[]);
        for (at, grants) in self.roles.iter().enumerate() {
            let permissions: Vec<Value> = grants.iter().map(Parts::json).collect();
            put_role(&mut directory, &format!("role-{at}"), &permissions);
        }
        for (user, team, held) in [(CALLER, self.teams[0], &self.of_caller), (PUPPET, self.teams[1], &self.of_puppet)] {
            let mut row = json!({ "id": user, "username": user, "passwordHash": "$", "enabled": true });
            if let Some(team) = team {
                row["metadata"] = json!({ "team": team });
            }
            put(&mut directory, Table::Users, row);
            for at in held {
                put_assignment(&mut directory, user, &format!("role-{at}"));
            }
        }
        put_assignment(&mut directory, CALLER, "helper");
        if matches!(self.attempt, Attempt::Describe(_)) {
            put_assignment(&mut directory, CALLER, ADMIN);
        }
        directory
    }

    fn user(&self) -> &'static str {
        if self.is_about_self { CALLER } else { PUPPET }
    }

    fn plan(&self, directory: &Directory) -> Option<Plan> {
        let role = |at: &Index| format!("role-{}", at.index(self.roles.len()));
        let user = self.user().into();
        let change = match &self.attempt {
            Attempt::Assign(at) => Change::AssignRole { user, role: role(at) },
            Attempt::Remove(at) => Change::RemoveRole { user, role: role(at) },
            Attempt::Describe(team) => {
                let metadata = team.map_or(Setting::Clear, |team| {
                    Setting::Set(json!({ "team": team }).as_object().cloned().unwrap_or_default())
                });
                let profile = Profile {
                    display_name: Setting::Keep,
                    email: Setting::Keep,
                    metadata,
                };
                Change::UpdateUser { user, profile }
            }
        };
        let order = Order {
            by: CALLER.into(),
            connection: None,
            change,
        };
        let circumstances = Circumstances {
            now: 1,
            session_ttl_ms: 1,
            session_idle_ms: 1,
            max_sessions_per_user: 1,
            keeps_bootstrap_secret: false,
            incarnation_of: &|_| Some(1),
        };
        plan(directory, &order, circumstances).ok()
    }

    /// The directory after it.
    fn carried_out(&self, directory: &Directory, plan: &Plan) -> Directory {
        let mut after = directory.clone();
        for step in &plan.steps {
            match (&step.action, Table::of(&step.bucket).expect("plans write nothing else")) {
                (Action::Insert { record }, table) => put(&mut after, table, record.parse().expect("it is JSON")),
                (Action::Delete { key, .. }, table) => {
                    let crate::protocol::Datum::Text(key) = key else {
                        panic!("keys are texts")
                    };
                    after.remove(table, key.as_str());
                }
                (Action::Update { changes, .. }, table) => {
                    let changes: Map<String, Value> = changes.parse().expect("it is JSON");
                    let user = self.user();
                    let mut row = json!({ "id": user, "username": user, "passwordHash": "$", "enabled": true });
                    row.as_object_mut().expect("an object").extend(changes);
                    put(&mut after, table, row);
                }
                (Action::Get { .. } | Action::Where { .. } | Action::FindOne { .. } | Action::Count { .. }, _) => {
                    panic!("plans read nothing")
                }
            }
        }
        after
    }
}

/// Everything that can be asked, with how much of it is allowed by each allowance for itself.
fn answers(allowances: &[Allowance]) -> Vec<(String, Option<Scope>)> {
    let mut answers = Vec::new();
    let known = Operation::ALL.iter().map(|operation| operation.name());
    let targets: Vec<Target<'_>> = BUCKETS
        .iter()
        .map(|name| Target::Bucket(name))
        .chain([
            Target::Query { name: "q", bucket: None },
            Target::Query {
                name: "q",
                bucket: Some("a"),
            },
            Target::Topic("t.x"),
            Target::Topic("u"),
            Target::Topic("v"),
            Target::Procedure("p"),
            Target::Server,
        ])
        .collect();
    for asked in known.chain(ABSENT).map(Asked::named) {
        for target in &targets {
            answers.push((format!("{} {target:?}", asked.name), best::scope(allowances, asked, target)));
        }
        let shown = best::shows_some(allowances, asked).then_some(Scope::Everything);
        answers.push((format!("{} anywhere", asked.name), shown));
    }
    for bucket in BUCKETS {
        for (op, operation) in STEPS {
            let target = Target::Bucket(bucket);
            let step = best::scope(allowances, operation.into(), &target).or_else(|| best::steps(allowances, bucket));
            answers.push((format!("step {op} {bucket}"), step));
        }
    }
    answers
}

/// Whether one scope holds all of another.
fn holds(wider: &Scope, narrower: &Scope) -> bool {
    let (Scope::Guarded(wider), Scope::Guarded(narrower)) = (wider, narrower) else {
        return *wider == Scope::Everything;
    };
    let parts = |key: &[u8]| -> (Value, Option<Vec<String>>) { serde_json::from_slice(key).expect("a filter and fields") };
    let ((rows, fields), (other_rows, other_fields)) = (parts(wider.key()), parts(narrower.key()));
    let holds_fields = match (fields, other_fields) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(fields), Some(others)) => others.iter().all(|field| fields.contains(field)),
    };
    (rows == json!({}) || rows == other_rows) && holds_fields
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// The comparison of grants by itself, where next to nothing passes by having nothing to compare.
    #[test]
    fn what_is_within_others_allows_no_more_than_they_do(
        others in prop::collection::vec(grant(), 1..3),
        (at, part_of, part) in (any::<Index>(), grant(), 0..6_usize),
    ) {
        let inner = others[at.index(others.len())].clone().with_part_of(&part_of, part);
        let principal = Principal::new(CALLER, ["role-1"]);
        let allowed = |parts: &Parts| {
            let grant = Grant::parse(parts.json().as_object().expect("an object"), &[]).expect("it is well formed");
            Arc::new(grant).for_principal(&principal)
        };
        let others: Vec<_> = others.iter().filter_map(allowed).collect();
        let Some(inner) = allowed(&inner).filter(|inner| inner.as_ref().is_within(&others)) else { return Ok(()) };
        let theirs: Vec<_> = others.iter().map(|other| answers(std::slice::from_ref(other))).chain([answers(&others)]).collect();
        for (at, (asked, scope)) in answers(&[inner]).iter().enumerate() {
            let Some(scope) = scope else { continue };
            let is_theirs = theirs.iter().filter_map(|answers| answers[at].1.as_ref()).any(|wider| holds(wider, scope));
            prop_assert!(is_theirs, "{} is allowed: {:?}", asked, scope);
        }
    }

    #[test]
    fn nobody_brings_about_rights_that_they_lack(scene in scene()) {
        let before = scene.directory();
        let Some(plan) = scene.plan(&before) else { return Ok(()) };
        let after = scene.carried_out(&before, &plan);
        let caller = UserRights::of(&before, CALLER);
        // Of several rules the first counts, and which it is may change: whatever one of them allows is theirs.
        let own: Vec<_> = caller.allowances.iter().map(|allowance| answers(std::slice::from_ref(allowance))).collect();
        let together = answers(&caller.allowances);
        let then = answers(&UserRights::of(&after, scene.user()).allowances);
        for (at, (asked, scope)) in then.iter().enumerate() {
            let Some(scope) = scope else { continue };
            let by_one = own.iter().map(|answers| &answers[at]).chain([&together[at]]);
            let is_theirs = by_one.filter_map(|(_, scope)| scope.as_ref()).any(|wider| holds(wider, scope));
            prop_assert!(is_theirs, "{} is allowed afterwards: {:?}", asked, scope);
        }
    }
}
