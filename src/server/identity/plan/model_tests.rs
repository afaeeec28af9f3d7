//! Random orders by random people, against a naive model of who may do what.
//!
//! The model knows nothing of patterns, plans or maps: it lists, for everybody, what they may do with which bucket, and
//! decides by that. Orders are planned on a directory that has no store behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::protocol::{Datum, Record, Tier};
use crate::server::access::{Scope, Target};
use crate::server::identity::directory::{ResourceKind, Subject};
use crate::server::identity::order::{AclAddress, NewUser, Profile, Setting};
use crate::server::identity::seed::system_roles;
use crate::store::Action;

const USERS: [&str; 5] = ["u0", "u1", "u2", "u3", "u4"];
const ROLES: [&str; 6] = ["superadmin", "admin", "writer", "reader", "clerk", "helper"];
const BUCKETS: [&str; 2] = ["b0", "b1"];
/// One operation on a bucket of each tier, and a bucket that nobody ever names.
const PROBES: [(Operation, Tier); 3] = [
    (Operation::StoreGet, Tier::Read),
    (Operation::StoreInsert, Tier::Write),
    (Operation::StoreDropBucket, Tier::Admin),
];
const RIGHTS: [Tier; 3] = [Tier::Read, Tier::Write, Tier::Admin];

/// A directory, and the records that a store would have.
struct Kept {
    directory: Directory,
    records: BTreeMap<(&'static str, String), Map<String, Value>>,
}

impl Kept {
    fn new() -> Self {
        let mut kept = Self {
            directory: Directory::default(),
            records: BTreeMap::new(),
        };
        let custom = [
            ("clerk", "", json!([{ "allow": ["store.get", "store.insert"], "buckets": ["b0"] }])),
            (
                "helper",
                "",
                json!([{ "allow": ["identity.assignRole", "identity.removeRole", "identity.disableUser", "identity.enableUser", "store.get", "store.insert"] }]),
            ),
        ];
        for (name, _, permissions) in system_roles().into_iter().chain(custom) {
            let permissions = permissions.as_array().cloned().unwrap_or_default();
            let record = role_record(name, name, None, ROLES[..4].contains(&name), &permissions);
            kept.carry_out(&[Table::Roles.insert(&record)]);
        }
        kept
    }

    /// Does what a store would do.
    fn carry_out(&mut self, steps: &[Step]) {
        for step in steps {
            let table = Table::of(&step.bucket).expect("plans write nothing else");
            match &step.action {
                Action::Insert { record } => {
                    let record = as_object(record);
                    let key = record["id"].as_str().expect("keys are texts").to_owned();
                    assert!(
                        self.records.insert((table.name(), key.clone()), record).is_none(),
                        "{key} is there already"
                    );
                    self.follow(table, &key);
                }
                Action::Update { key, changes, .. } => {
                    let key = text_of(key);
                    let record = self
                        .records
                        .get_mut(&(table.name(), key.clone()))
                        .expect("plans update what is there");
                    record.extend(as_object(changes));
                    self.follow(table, &key);
                }
                Action::Delete { key, .. } => {
                    let key = text_of(key);
                    assert!(self.records.remove(&(table.name(), key.clone())).is_some(), "{key} is there");
                    self.directory.remove(table, &key);
                }
                Action::Get { .. } | Action::Where { .. } | Action::FindOne { .. } | Action::Count { .. } => panic!("plans read nothing"),
            }
        }
    }

    fn follow(&mut self, table: Table, key: &str) {
        let mut record = self.records[&(table.name(), key.to_owned())].clone();
        record.insert("_createdAt".to_owned(), json!(1));
        record.insert("_updatedAt".to_owned(), json!(1));
        self.directory
            .put(table, &Record::from_object(&record), 1)
            .expect("plans write what makes sense");
    }

    /// The same directory as it would be read at the next start.
    fn reread(&self) -> Directory {
        let mut directory = Directory::default();
        for table in Table::ALL {
            for ((_, _), record) in self.records.iter().filter(|((name, _), _)| *name == table.name()) {
                let mut record = record.clone();
                record.insert("_createdAt".to_owned(), json!(1));
                record.insert("_updatedAt".to_owned(), json!(1));
                directory.put(table, &Record::from_object(&record), 1).expect("it makes sense");
            }
        }
        directory
    }
}

fn as_object(record: &Record) -> Map<String, Value> {
    record.to_value().as_object().cloned().expect("a record is an object")
}

fn text_of(key: &Datum) -> String {
    let key = key.to_value().expect("keys are there");
    key.as_str().expect("keys are texts").to_owned()
}

/// What somebody wants.
#[derive(Clone, Debug)]
enum Wish {
    Create { user: usize },
    Delete { user: usize },
    Enable { user: usize, enabled: bool },
    Assign { user: usize, role: usize },
    Remove { user: usize, role: usize },
    Grant { to: To, bucket: usize, right: usize },
    Revoke { to: To, bucket: usize, right: Option<usize> },
    Define { bucket: usize },
    Drop { bucket: usize },
    Transfer { bucket: usize, user: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum To {
    User(usize),
    Role(usize),
}

fn wishes() -> impl Strategy<Value = Vec<(usize, Wish)>> {
    let user = || 0..USERS.len();
    let role = || 0..ROLES.len();
    let bucket = || 0..BUCKETS.len();
    let to = || prop_oneof![user().prop_map(To::User), role().prop_map(To::Role)];
    let wish = prop_oneof![
        3 => user().prop_map(|user| Wish::Create { user }),
        1 => user().prop_map(|user| Wish::Delete { user }),
        2 => (user(), any::<bool>()).prop_map(|(user, enabled)| Wish::Enable { user, enabled }),
        6 => (user(), role()).prop_map(|(user, role)| Wish::Assign { user, role }),
        2 => (user(), role()).prop_map(|(user, role)| Wish::Remove { user, role }),
        4 => (to(), bucket(), 0..3_usize).prop_map(|(to, bucket, right)| Wish::Grant { to, bucket, right }),
        2 => (to(), bucket(), prop::option::of(0..3_usize)).prop_map(|(to, bucket, right)| Wish::Revoke { to, bucket, right }),
        1 => bucket().prop_map(|bucket| Wish::Define { bucket }),
        1 => bucket().prop_map(|bucket| Wish::Drop { bucket }),
        1 => (bucket(), user()).prop_map(|(bucket, user)| Wish::Transfer { bucket, user }),
    ];
    // Every other wish is the superadmin's: else little ever happens.
    let by = prop_oneof![1 => Just(USERS.len()), 1 => user()];
    prop::collection::vec((by, wish), 1..40)
}

/// Who there is, what they hold and what they own.
#[derive(Default)]
struct Model {
    users: BTreeMap<usize, (bool, BTreeSet<usize>)>,
    acl: BTreeMap<(To, usize), BTreeSet<usize>>,
    owners: BTreeMap<usize, usize>,
}

/// What the model says of a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Yes,
    No,
    /// A helper may, unless somebody looks closer than the model does.
    Perhaps,
}

impl Model {
    fn holds(&self, user: usize, role: &str) -> bool {
        let of_role = |role_id: &usize| ROLES[*role_id] == role;
        user == USERS.len() && role == "superadmin" || self.users.get(&user).is_some_and(|(_, roles)| roles.iter().any(of_role))
    }

    fn is_live(&self, user: usize) -> bool {
        user == USERS.len() || self.users.get(&user).is_some_and(|(enabled, _)| *enabled)
    }

    /// Whether the list has a right for somebody, or a greater one.
    fn is_listed(&self, user: usize, bucket: usize, right: usize) -> bool {
        let roles = self.users.get(&user).map(|(_, roles)| roles.clone()).unwrap_or_default();
        let mut subjects = std::iter::once(To::User(user)).chain(roles.into_iter().map(To::Role));
        subjects.any(|to| {
            self.acl
                .get(&(to, bucket))
                .is_some_and(|rights| rights.iter().any(|it| *it >= right))
        })
    }

    /// Whether somebody may do what one of the probes does, with a bucket; `None` is one that nobody names.
    fn may(&self, user: usize, probe: usize, bucket: Option<usize>) -> bool {
        if self.holds(user, "superadmin") || self.holds(user, "admin") {
            return true;
        }
        let by_role = (self.holds(user, "writer") && probe <= 1)
            || (self.holds(user, "reader") && probe == 0)
            || (self.holds(user, "helper") && probe <= 1)
            || (self.holds(user, "clerk") && probe <= 1 && bucket == Some(0));
        let by_list = bucket.is_some_and(|bucket| self.is_listed(user, bucket, probe));
        let by_owning = bucket.is_some_and(|bucket| self.owners.get(&bucket) == Some(&user));
        by_role || by_list || by_owning
    }

    /// Whether all that a right on a bucket allows is theirs. A clerk's and a helper's roles allow single operations only.
    fn has_right(&self, user: usize, bucket: usize, right: usize) -> bool {
        let manages = self.holds(user, "superadmin") || self.holds(user, "admin") || self.owners.get(&bucket) == Some(&user);
        let by_role = (self.holds(user, "writer") && right <= 1) || (self.holds(user, "reader") && right == 0);
        manages || by_role || self.is_listed(user, bucket, right)
    }

    fn manages(&self, user: usize, bucket: usize) -> bool {
        self.holds(user, "superadmin")
            || self.holds(user, "admin")
            || self.owners.get(&bucket) == Some(&user)
            || self.is_listed(user, bucket, 2)
    }

    /// Whether somebody may deal with a user's account, or give and take a role.
    fn deals_with(&self, by: usize, user: usize, role: Option<&str>) -> Says {
        let is_privileged = role.is_some_and(|role| role == "superadmin" || role == "admin");
        if self.holds(by, "superadmin") {
            Says::Yes
        } else if is_privileged || self.holds(user, "superadmin") || self.holds(user, "admin") {
            Says::No
        } else if self.holds(by, "admin") {
            // All but what only a superadmin may hand out: the helper's rights on users are an administrator's too.
            Says::Yes
        } else if self.holds(by, "helper") {
            Says::Perhaps
        } else {
            Says::No
        }
    }

    fn is_last_superadmin(&self, user: usize) -> bool {
        let is_one = |user: usize| self.is_live(user) && self.holds(user, "superadmin");
        is_one(user) && !self.users.keys().any(|other| *other != user && is_one(*other))
    }

    fn judge(&self, by: usize, wish: &Wish) -> Says {
        let says = |yes: bool| if yes { Says::Yes } else { Says::No };
        let both = |one: Says, yes: bool| if yes { one } else { Says::No };
        let is_manager = self.holds(by, "superadmin") || self.holds(by, "admin");
        let is_there = |user: &usize| self.users.contains_key(user);
        if !self.is_live(by) && !matches!(wish, Wish::Define { .. } | Wish::Drop { .. }) {
            return Says::No;
        }
        match wish {
            Wish::Create { user } => says(is_manager && !is_there(user)),
            Wish::Delete { user } => both(
                self.deals_with(by, *user, None),
                is_manager && is_there(user) && !self.is_last_superadmin(*user),
            ),
            Wish::Enable { user, enabled } => both(
                self.deals_with(by, *user, None),
                is_there(user) && (*enabled || !self.is_last_superadmin(*user)),
            ),
            Wish::Assign { user, role } => {
                let is_new = self.users.get(user).is_some_and(|(_, roles)| !roles.contains(role));
                both(self.deals_with(by, *user, Some(ROLES[*role])), is_new)
            }
            Wish::Remove { user, role } => {
                let is_held = self.users.get(user).is_some_and(|(_, roles)| roles.contains(role));
                let is_last = ROLES[*role] == "superadmin" && self.is_last_superadmin(*user);
                both(self.deals_with(by, *user, Some(ROLES[*role])), is_held && !is_last)
            }
            Wish::Grant { to, bucket, right } => {
                let is_subject = match to {
                    To::User(user) => is_there(user),
                    To::Role(_) => true,
                };
                says(is_subject && self.manages(by, *bucket) && self.has_right(by, *bucket, *right))
            }
            Wish::Revoke { to, bucket, .. } => says(self.manages(by, *bucket) && self.acl.contains_key(&(*to, *bucket))),
            // Whether they may is asked before.
            Wish::Define { .. } | Wish::Drop { .. } => Says::Yes,
            Wish::Transfer { bucket, user } => {
                let owner = self.owners.get(bucket);
                says(is_there(user) && owner.is_some() && (self.holds(by, "superadmin") || owner == Some(&by)))
            }
        }
    }

    fn apply(&mut self, by: usize, wish: &Wish) {
        match wish {
            Wish::Create { user } => drop(self.users.insert(*user, (true, BTreeSet::new()))),
            Wish::Delete { user } => {
                self.users.remove(user);
                self.acl.retain(|(to, _), _| *to != To::User(*user));
                self.owners.retain(|_, owner| owner != user);
            }
            Wish::Enable { user, enabled } => self.users.entry(*user).or_default().0 = *enabled,
            Wish::Assign { user, role } => drop(self.users.entry(*user).or_default().1.insert(*role)),
            Wish::Remove { user, role } => drop(self.users.entry(*user).or_default().1.remove(role)),
            Wish::Grant { to, bucket, right } => drop(self.acl.entry((*to, *bucket)).or_default().insert(*right)),
            Wish::Revoke { to, bucket, right } => {
                let rights = self.acl.entry((*to, *bucket)).or_default();
                rights.retain(|it| right.is_some_and(|right| right != *it));
                if rights.is_empty() {
                    self.acl.remove(&(*to, *bucket));
                }
            }
            Wish::Define { bucket } => drop(self.owners.insert(*bucket, by)),
            Wish::Drop { bucket } => {
                self.owners.remove(bucket);
                self.acl.retain(|(_, it), _| it != bucket);
            }
            Wish::Transfer { bucket, user } => drop(self.owners.insert(*bucket, *user)),
        }
    }
}

fn id_of(user: usize) -> Arc<str> {
    USERS.get(user).copied().unwrap_or(VIRTUAL_SUPERADMIN).into()
}

fn change_of(wish: &Wish) -> Change {
    let bucket = |at: &usize| Resource::new(ResourceKind::Bucket, BUCKETS[*at]);
    let address = |to: &To, at: &usize| AclAddress {
        subject: match to {
            To::User(user) => Subject::User(id_of(*user)),
            To::Role(role) => Subject::Role(ROLES[*role].into()),
        },
        resource: bucket(at),
    };
    let nothing = crate::store::Operation::Expire;
    match wish {
        Wish::Create { user } => Change::CreateUser(NewUser {
            id: id_of(*user),
            name: format!("user-{user}"),
            hash: "$".into(),
            is_enabled: true,
            profile: Profile {
                display_name: Setting::Set("x".to_owned()),
                email: Setting::Keep,
                metadata: Setting::Keep,
            },
        }),
        Wish::Delete { user } => Change::DeleteUser { user: id_of(*user) },
        Wish::Enable { user, enabled } => Change::SetEnabled {
            user: id_of(*user),
            enabled: *enabled,
        },
        Wish::Assign { user, role } => Change::AssignRole {
            user: id_of(*user),
            role: ROLES[*role].to_owned(),
        },
        Wish::Remove { user, role } => Change::RemoveRole {
            user: id_of(*user),
            role: ROLES[*role].to_owned(),
        },
        Wish::Grant { to, bucket: at, right } => Change::Grant {
            entry: address(to, at),
            rights: vec![RIGHTS[*right]],
        },
        Wish::Revoke { to, bucket: at, right } => Change::Revoke {
            entry: address(to, at),
            rights: right.map(|right| vec![RIGHTS[right]]),
        },
        Wish::Define { bucket: at } => Change::Define {
            operation: nothing,
            resource: bucket(at),
            incarnation: 1,
        },
        Wish::Drop { bucket: at } => Change::Remove {
            operation: nothing,
            resource: bucket(at),
        },
        Wish::Transfer { bucket: at, user } => Change::TransferOwner {
            resource: bucket(at),
            to: id_of(*user),
        },
    }
}

/// What everybody may do, as the directory says.
fn powers(directory: &Directory) -> Vec<(usize, usize, Option<usize>, bool)> {
    let mut powers = Vec::new();
    for user in 0..=USERS.len() {
        let rights = UserRights::of(directory, &id_of(user));
        for (probe, (operation, _)) in PROBES.iter().enumerate() {
            for bucket in [Some(0), Some(1), None] {
                let target = Target::Bucket(bucket.map_or("fresh", |at: usize| BUCKETS[at]));
                let may = rights.scope(directory, (*operation).into(), &target) == Some(Scope::Everything);
                powers.push((user, probe, bucket, may));
            }
        }
    }
    powers
}

proptest! {
    #[test]
    fn nobody_does_or_gains_what_a_naive_model_does_not_allow(wishes in wishes()) {
        let (mut kept, mut model) = (Kept::new(), Model::default());
        let mut defined = BTreeSet::new();
        for (by, wish) in &wishes {
            // The store refuses to define what is there, and to remove what is not.
            if let Wish::Define { bucket } = wish
                && !defined.insert(*bucket)
            {
                continue;
            }
            if let Wish::Drop { bucket } = wish
                && !defined.remove(bucket)
            {
                continue;
            }
            let exists = |resource: &Resource| defined.iter().any(|at: &usize| *resource.name == *BUCKETS[*at]);
            let incarnation_of = |resource: &Resource| exists(resource).then_some(1);
            let circumstances = Circumstances {
                now: 1,
                session_ttl_ms: 1,
                session_idle_ms: 1,
                max_sessions_per_user: 1,
                keeps_bootstrap_secret: true,
                incarnation_of: &incarnation_of,
            };
            let order = Order { by: id_of(*by), connection: None, change: change_of(wish) };
            let planned = plan(&kept.directory, &order, circumstances);
            match (model.judge(*by, wish), &planned) {
                (Says::Yes, Err(failure)) => prop_assert!(false, "{by} {wish:?} is refused: {failure:?}"),
                (Says::No, Ok(_)) => prop_assert!(false, "{by} {wish:?} is done"),
                (Says::Yes | Says::Perhaps, Ok(_)) | (Says::No | Says::Perhaps, Err(_)) => {}
            }
            if let Ok(planned) = planned {
                if let (Wish::Assign { user, .. }, false) = (wish, model.holds(*by, "superadmin")) {
                    // Whoever gives a role ends no worse than whoever gets it, as far as buckets nobody names tell.
                    let mut after = Model { users: model.users.clone(), ..Model::default() };
                    after.apply(*by, wish);
                    for probe in 0..PROBES.len() {
                        prop_assert!(!after.may(*user, probe, None) || model.may(*user, probe, None) || model.may(*by, probe, None));
                    }
                }
                kept.carry_out(&planned.steps);
                model.apply(*by, wish);
            }
            for (user, probe, bucket, may) in powers(&kept.directory) {
                // Whoever is locked out or gone has no session to do anything with.
                if model.is_live(user) {
                    prop_assert_eq!(may, model.may(user, probe, bucket), "{} {} {:?} after {:?}", user, probe, bucket, wish);
                }
            }
        }
        prop_assert_eq!(powers(&kept.reread()), powers(&kept.directory));
    }
}
