//! Rules for rows and fields, from outside: whatever is asked, followed and changed, and whoever changes it, nothing that
//! a session may not see is in any message to it.
//!
//! Every value that could be secret is a text that occurs once: a mark. What a session is sent is searched for marks,
//! and each must be in a version of a record, and in a field, that the session's rule lets through, unless the session
//! said it itself. `NOEX_ROW_RULES_SEED` repeats a run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use noex_server::server::NoexServer;
use noex_server::server::config::{AuthConfig, Config, PermissionRule, PermissionsConfig, Secret, StaticToken, Storage};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::support::TestClient;

const STEPS: usize = 120;
const USERS: usize = 4;

/// Numbers that follow from a seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        // A linear congruential generator, whose upper bits are good enough.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    fn percent(&mut self, part: usize) -> bool {
        self.below(100) < part
    }
}

/// A record as it was at some time.
#[derive(Clone, Debug, PartialEq)]
struct Version {
    id: String,
    owner: String,
    team: String,
    level: i64,
    public: bool,
    a: String,
    b: String,
}

impl Version {
    fn field(&self, name: &str) -> Value {
        match name {
            "id" => json!(self.id),
            "owner" => json!(self.owner),
            "team" => json!(self.team),
            "level" => json!(self.level),
            "public" => json!(self.public),
            "a" => json!(self.a),
            "b" => json!(self.b),
            _ => unreachable!("no such field"),
        }
    }

    fn json(&self) -> Value {
        FIELDS
            .iter()
            .map(|name| ((*name).to_owned(), self.field(name)))
            .collect::<Map<_, _>>()
            .into()
    }
}

const FIELDS: [&str; 7] = ["id", "owner", "team", "level", "public", "a", "b"];

/// What a rule asks of rows.
#[derive(Clone, Copy, Debug)]
enum Rows {
    Own,
    Team,
    UpToLevel,
    OwnOrPublic,
}

/// A user with a rule.
#[derive(Clone, Debug)]
struct User {
    name: String,
    team: String,
    level: i64,
    rows: Rows,
    /// Besides the key.
    fields: Option<Vec<&'static str>>,
}

impl User {
    fn random(dice: &mut Dice, number: usize) -> Self {
        let fields = dice.percent(60).then(|| {
            let mut fields: Vec<_> = FIELDS[1..].iter().copied().filter(|_| dice.percent(55)).collect();
            if fields.is_empty() {
                fields.push("a");
            }
            fields
        });
        Self {
            name: format!("u{number}"),
            team: format!("t{}", dice.below(2)),
            level: dice.below(4) as i64,
            rows: dice.one_of(&[Rows::Own, Rows::Team, Rows::UpToLevel, Rows::OwnOrPublic]),
            fields,
        }
    }

    fn rule(&self) -> PermissionRule {
        let filter = match self.rows {
            Rows::Own => json!({ "owner": "{{ session.userId }}" }),
            Rows::Team => json!({ "team": "{{ session.metadata.team }}" }),
            Rows::UpToLevel => json!({ "level": { "$lte": "{{ session.metadata.level }}" } }),
            Rows::OwnOrPublic => json!({ "$or": [{ "owner": "{{ session.userId }}" }, { "public": true }] }),
        };
        let mut rule = json!({ "role": self.name, "allow": "store.*", "buckets": ["items"], "where": filter });
        if let Some(fields) = &self.fields {
            rule["fields"] = json!(fields);
        }
        PermissionRule::parse(&rule).unwrap()
    }

    fn token(&self) -> StaticToken {
        StaticToken {
            token: Secret::from(format!("token-of-{}", self.name)),
            user_id: self.name.clone(),
            roles: vec![self.name.clone()],
            metadata: json!({ "team": self.team, "level": self.level }).as_object().unwrap().clone(),
            expires_at: None,
        }
    }

    fn sees_row(&self, version: &Version) -> bool {
        match self.rows {
            Rows::Own => version.owner == self.name,
            Rows::Team => version.team == self.team,
            Rows::UpToLevel => version.level <= self.level,
            Rows::OwnOrPublic => version.owner == self.name || version.public,
        }
    }

    fn sees_field(&self, name: &str) -> bool {
        name == "id" || self.fields.as_ref().is_none_or(|fields| fields.contains(&name))
    }

    /// What they are shown of a record, without metadata.
    fn shown(&self, version: &Version) -> Value {
        let visible = FIELDS.iter().filter(|name| self.sees_field(name));
        visible
            .map(|name| ((*name).to_owned(), version.field(name)))
            .collect::<Map<_, _>>()
            .into()
    }
}

/// What there is, and what there was.
#[derive(Default)]
struct Model {
    live: BTreeMap<String, Version>,
    /// All versions in which a mark occurs.
    versions: BTreeMap<String, Vec<Version>>,
    marks: usize,
    /// Records that must not be removed, since others refer to them. Whose marks nobody but the administrator may see.
    pinned: BTreeSet<String>,
    /// Whether records of other buckets refer to these.
    with_references: bool,
    /// Who has had what carried out under a key.
    done: Option<(String, Value)>,
}

impl Model {
    /// A text that occurs nowhere else.
    fn mark(&mut self) -> String {
        self.marks += 1;
        format!("mark{}k", self.marks)
    }

    fn note(&mut self, version: &Version) {
        for mark in [&version.id, &version.a, &version.b] {
            self.versions.entry(mark.clone()).or_default().push(version.clone());
        }
    }

    fn put(&mut self, version: Version) {
        self.note(&version);
        self.live.insert(version.id.clone(), version);
    }

    fn random(&mut self, dice: &mut Dice) -> Version {
        Version {
            id: self.mark(),
            owner: format!("u{}", dice.below(USERS)),
            team: format!("t{}", dice.below(2)),
            level: dice.below(4) as i64,
            public: dice.percent(25),
            a: self.mark(),
            b: self.mark(),
        }
    }

    fn some_id(&self, dice: &mut Dice) -> Option<String> {
        (!self.live.is_empty()).then(|| self.live.keys().nth(dice.below(self.live.len())).unwrap().clone())
    }

    /// Whether a user may see a mark.
    fn may_see(&self, user: &User, mark: &str) -> bool {
        let versions = self.versions.get(mark).map_or(&[][..], Vec::as_slice);
        versions.iter().any(|version| {
            let field = if version.id == mark {
                "id"
            } else if version.a == mark {
                "a"
            } else {
                "b"
            };
            user.sees_row(version) && user.sees_field(field)
        })
    }
}

/// The marks in a text.
fn marks(text: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("mark") {
        let digits = text[at + 4..].bytes().take_while(u8::is_ascii_digit).count();
        let end = at + 4 + digits;
        if digits > 0 && text[end..].starts_with('k') {
            found.insert(&text[at..=end]);
        }
    }
    found
}

/// A user at work.
struct Actor {
    user: User,
    /// The same with the rule that held until a moment ago: messages by that may still be on their way.
    before: Option<User>,
    client: TestClient,
    /// What the user has said.
    said: BTreeSet<String>,
    cursors: Vec<(&'static str, Value, Value)>,
    /// The request keys that they have used.
    keys: BTreeSet<String>,
}

impl Actor {
    async fn connect(port: u16, user: User) -> Self {
        let mut client = TestClient::connect(port).await;
        client.take_texts();
        client
            .result("auth.login", json!({ "token": format!("token-of-{}", user.name) }))
            .await;
        Self {
            user,
            before: None,
            client,
            said: BTreeSet::new(),
            cursors: Vec::new(),
            keys: BTreeSet::new(),
        }
    }

    async fn call(&mut self, operation: &str, fields: Value) -> Value {
        self.said.extend(marks(&fields.to_string()).into_iter().map(str::to_owned));
        self.client.call(operation, fields).await
    }

    async fn follow(&mut self) {
        let subscriptions = [
            ("store.subscribe", json!({ "query": "all" })),
            ("store.subscribe", json!({ "query": "all", "mode": "delta" })),
            ("store.subscribe", json!({ "query": "by-level", "mode": "delta" })),
            ("store.subscribe", json!({ "query": "owned", "params": { "owner": "u1" } })),
            ("store.subscribe", json!({ "query": "levels" })),
            ("store.changes", json!({ "bucket": "items" })),
            ("store.changes", json!({ "bucket": "items", "filter": { "owner": "u0" } })),
        ];
        let before = std::mem::take(&mut self.cursors);
        for (at, (operation, fields)) in subscriptions.into_iter().enumerate() {
            let mut asked = fields.clone();
            if let Some((_, _, cursor)) = before.get(at).filter(|(.., cursor)| cursor.is_string()) {
                asked[if operation == "store.changes" { "since" } else { "resume" }] = cursor.clone();
            }
            let answer = self.call(operation, asked).await;
            self.cursors.push((operation, fields, answer["data"]["cursor"].clone()));
        }
    }

    async fn reconnect(&mut self, port: u16) {
        self.client = TestClient::connect(port).await;
        self.client.take_texts();
        self.client
            .result("auth.login", json!({ "token": format!("token-of-{}", self.user.name) }))
            .await;
        self.follow().await;
    }

    /// Has got another rule, which has ended what was followed: it is followed again, with the cursors of before.
    async fn adapt(&mut self, user: User, model: &Model, seed: u64) {
        self.check(model, seed);
        self.before = Some(std::mem::replace(&mut self.user, user));
        // What was sent by the rule of before comes before the answer to anything that is asked now.
        self.client.result("auth.whoami", json!({})).await;
        self.check(model, seed);
        self.before = None;
        self.follow().await;
    }

    /// Asks for something, whether it is allowed or not.
    async fn read(&mut self, dice: &mut Dice, model: &Model) {
        let field = dice.one_of(&FIELDS);
        let id = model.some_id(dice).unwrap_or_default();
        let filter = dice.one_of(&[
            json!({}),
            json!({ "owner": "u1" }),
            json!({ "level": { "$gte": 1 } }),
            json!({ "a": { "$gt": "" } }),
            json!({ "public": true }),
        ]);
        let bucket = |more: Value| {
            let mut fields = json!({ "bucket": "items" });
            fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            fields
        };
        let (operation, fields) = match dice.below(14) {
            0 => ("store.get", bucket(json!({ "key": id }))),
            1 => ("store.all", bucket(json!({}))),
            2 => ("store.where", bucket(json!({ "filter": filter }))),
            3 => ("store.findOne", bucket(json!({ "filter": filter }))),
            4 => ("store.count", bucket(json!({ "filter": filter }))),
            5 => ("store.first", bucket(json!({ "n": 3 }))),
            6 => ("store.last", bucket(json!({ "n": 3 }))),
            7 => ("store.paginate", bucket(json!({ "limit": 2, "after": id }))),
            8 => (
                dice.one_of(&["store.min", "store.max", "store.sum"]),
                bucket(json!({ "field": field, "filter": filter })),
            ),
            9 => (
                "store.groupBy",
                bucket(json!({ "field": field, "aggregate": { "function": "count" }, "filter": filter })),
            ),
            10 => (
                "store.runQuery",
                json!({ "query": dice.one_of(&["all", "by-level", "owned", "levels"]), "params": { "owner": "u1" } }),
            ),
            11 => ("store.explain", bucket(json!({ "filter": filter }))),
            12 => (dice.one_of(&["store.stats", "store.buckets", "server.stats"]), json!({})),
            _ => (
                "store.transaction",
                json!({ "operations": [
                    { "op": "get", "bucket": "items", "key": id },
                    { "op": "where", "bucket": "items", "filter": filter },
                    { "op": "findOne", "bucket": "items", "filter": filter },
                ] }),
            ),
        };
        self.call(operation, fields).await;
    }

    /// Changes something, and the model where it was allowed to.
    async fn write(&mut self, dice: &mut Dice, model: &mut Model) {
        match dice.below(11) {
            0 => {
                let version = model.random(dice);
                let whole = version.json();
                let answer = self.call("store.insert", json!({ "bucket": "items", "data": whole })).await;
                if answer["type"] == "result" {
                    model.put(version);
                }
            }
            1 | 2 => {
                let Some(id) = model.some_id(dice) else { return };
                let (name, value) = self.random_change(dice, model);
                let data = json!({ name.as_str(): value });
                let answer = self
                    .call("store.update", json!({ "bucket": "items", "key": id, "data": data }))
                    .await;
                if answer["type"] == "result" {
                    change(model, &id, &name, &value);
                }
            }
            3 => {
                let Some(id) = model.some_id(dice) else { return };
                let visible = self.user.sees_row(&model.live[&id]);
                let answer = self.call("store.delete", json!({ "bucket": "items", "key": id })).await;
                let is_refused = visible && model.pinned.contains(&id);
                assert_eq!(answer["code"].as_str(), is_refused.then_some("CONFLICT"), "{answer}");
                if visible && !is_refused {
                    model.live.remove(&id);
                }
            }
            4 => {
                let filter = json!({ "level": dice.below(4) });
                let level = filter["level"].as_i64();
                let answer = self.call("store.deleteMany", json!({ "bucket": "items", "filter": filter })).await;
                if answer["type"] == "result" {
                    let user = &self.user;
                    model
                        .live
                        .retain(|_, version| Some(version.level) != level || !user.sees_row(version));
                }
            }
            5 => self.upsert(dice, model).await,
            6 => self.update_many(dice, model).await,
            7 => self.write_several(dice, model).await,
            8 => self.update_once(dice, model).await,
            9 => self.repeat(model).await,
            _ => {
                let Some(id) = model.some_id(dice) else { return };
                let (name, value) = self.random_change(dice, model);
                let operations = json!([
                    { "op": "get", "bucket": "items", "key": id },
                    { "op": "update", "bucket": "items", "key": id, "data": { name.as_str(): value } },
                ]);
                let answer = self.call("store.transaction", json!({ "operations": operations })).await;
                if answer["type"] == "result" {
                    change(model, &id, &name, &value);
                }
            }
        }
    }

    /// A record of this key, which may be there for everybody but them.
    async fn upsert(&mut self, dice: &mut Dice, model: &mut Model) {
        let Some(id) = model.some_id(dice) else { return };
        let (name, value) = self.random_change(dice, model);
        let mut fields = json!({ "bucket": "items", "data": { "id": id, name.as_str(): value } });
        if dice.percent(30) {
            fields["expectVersion"] = json!(dice.below(2));
        }
        let visible = self.user.sees_row(&model.live[&id]);
        let answer = self.call("store.upsert", fields).await;
        assert!(visible || answer["type"] == "error", "{answer}");
        if answer["type"] == "result" {
            change(model, &id, &name, &value);
        }
    }

    async fn update_many(&mut self, dice: &mut Dice, model: &mut Model) {
        let level = dice.below(4);
        let (name, value) = self.random_change(dice, model);
        let fields = json!({ "bucket": "items", "filter": { "level": level }, "data": { name.as_str(): value } });
        let answer = self.call("store.updateMany", fields).await;
        if answer["type"] != "result" {
            return;
        }
        let matching = |version: &&Version| version.level == level as i64 && self.user.sees_row(version);
        let ids: Vec<_> = model.live.values().filter(matching).map(|version| version.id.clone()).collect();
        assert_eq!(answer["data"], ids.len(), "{:?}: {answer}", self.user);
        for id in ids {
            change(model, &id, &name, &value);
        }
    }

    /// All of it or nothing, and each step sees what those before it have done.
    async fn write_several(&mut self, dice: &mut Dice, model: &mut Model) {
        let (Some(first), Some(second)) = (model.some_id(dice), model.some_id(dice)) else {
            return;
        };
        let new = model.random(dice);
        let (name, value) = self.random_change(dice, model);
        let mut operations = vec![
            json!({ "op": "update", "bucket": "items", "key": first, "data": { name.as_str(): value } }),
            json!({ "op": "get", "bucket": "items", "key": first }),
            json!({ "op": "delete", "bucket": "items", "key": second }),
            json!({ "op": "where", "bucket": "items", "filter": {} }),
        ];
        let inserts = dice.percent(50);
        if inserts {
            operations.insert(dice.below(3), json!({ "op": "insert", "bucket": "items", "data": new.json() }));
        }
        let answer = self.call("store.transaction", json!({ "operations": operations })).await;
        if answer["type"] != "result" {
            return;
        }
        if inserts {
            model.put(new);
        }
        change(model, &first, &name, &value);
        if self.user.sees_row(&model.live[&second]) {
            model.live.remove(&second);
        }
    }

    /// Changes something under a key, to be asked for again.
    async fn update_once(&mut self, dice: &mut Dice, model: &mut Model) {
        let Some(id) = model.some_id(dice) else { return };
        let (name, value) = self.random_change(dice, model);
        let key = model.mark();
        self.keys.insert(key.clone());
        let request = json!({ "bucket": "items", "key": id, "data": { name.as_str(): value }, "requestKey": key });
        let answer = self.call("store.update", request.clone()).await;
        if answer["type"] == "result" {
            change(model, &id, &name, &value);
            model.done = Some((self.user.name.clone(), request));
        }
    }

    /// What was done once is not done again, whatever has become of the record and of the rule. Of somebody else, the
    /// same is another request.
    async fn repeat(&mut self, model: &mut Model) {
        let Some((user, request)) = model.done.clone() else { return };
        let is_own = user == self.user.name;
        if !is_own && !self.keys.insert(request["requestKey"].to_string()) {
            return;
        }
        let answer = self.call("store.update", request.clone()).await;
        if is_own {
            let is_known = answer["type"] == "result" || answer["code"] == "CONFLICT";
            assert!(is_known, "{request}: {answer}");
        } else if answer["type"] == "result" {
            let (name, value) = request["data"].as_object().unwrap().iter().next().unwrap();
            change(model, request["key"].as_str().unwrap(), name, value);
        }
    }

    fn random_change(&self, dice: &mut Dice, model: &mut Model) -> (String, Value) {
        let name = dice.one_of(&FIELDS[1..]);
        let value = match name {
            "owner" => json!(format!("u{}", dice.below(USERS))),
            "team" => json!(format!("t{}", dice.below(2))),
            "level" => json!(dice.below(4)),
            "public" => json!(dice.percent(50)),
            // Now and then one that is taken.
            "b" if dice.percent(20) && !model.live.is_empty() => {
                let id = model.some_id(dice).unwrap_or_default();
                json!(model.live[&id].b)
            }
            _ => json!(model.mark()),
        };
        (name.to_owned(), value)
    }

    /// Looks through everything that has arrived.
    fn check(&mut self, model: &Model, seed: u64) {
        for text in self.client.take_texts() {
            for mark in marks(&text) {
                assert!(
                    self.said.contains(mark)
                        || model.may_see(&self.user, mark)
                        || self.before.as_ref().is_some_and(|before| model.may_see(before, mark)),
                    "seed {seed}: {:?} is shown {mark}, of {:?}, in {text}",
                    self.user,
                    model.versions.get(mark),
                );
            }
        }
    }

    /// What they see is what the rule lets through, no less.
    async fn check_whole(&mut self, model: &Model, seed: u64) {
        let answer = self.client.result("store.all", json!({ "bucket": "items" })).await;
        let mut shown: Vec<Value> = answer.as_array().unwrap().iter().map(without_metadata).collect();
        let seen = model.live.values().filter(|version| self.user.sees_row(version));
        let mut expected: Vec<Value> = seen.map(|version| self.user.shown(version)).collect();
        let by_id = |record: &Value| record["id"].as_str().unwrap().to_owned();
        shown.sort_by_key(by_id);
        expected.sort_by_key(by_id);
        assert_eq!(shown, expected, "seed {seed}: {:?}", self.user);
        let count = self.client.result("store.count", json!({ "bucket": "items" })).await;
        assert_eq!(count, expected.len(), "seed {seed}: {:?}", self.user);
    }
}

fn change(model: &mut Model, id: &str, name: &str, value: &Value) {
    let mut version = model.live[id].clone();
    let text = || value.as_str().unwrap().to_owned();
    match name {
        "owner" => version.owner = text(),
        "team" => version.team = text(),
        "level" => version.level = value.as_i64().unwrap(),
        "public" => version.public = value.as_bool().unwrap(),
        "a" => version.a = text(),
        _ => version.b = text(),
    }
    model.put(version);
}

fn without_metadata(record: &Value) -> Value {
    let members = record.as_object().unwrap().iter().filter(|(name, _)| !name.starts_with('_'));
    members
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect::<Map<_, _>>()
        .into()
}

fn config(users: &[User], with_references: bool) -> Config {
    let admin = StaticToken {
        token: Secret::from("token-of-admin"),
        user_id: "admin".to_owned(),
        roles: vec!["admin".to_owned()],
        metadata: Map::new(),
        expires_at: None,
    };
    let rule_of_admin = PermissionRule::parse(&json!({ "role": "admin", "allow": "*" })).unwrap();
    let text = json!({ "type": "string" });
    let unique = json!({ "type": "string", "unique": true });
    let schema = json!({ "id": text, "owner": text, "team": text, "level": { "type": "number" }, "public": { "type": "boolean" }, "a": text, "b": unique });
    let bucket = json!({ "key": "id", "schema": schema, "indexes": ["owner", "level"] });
    let queries = json!({
        "all": { "bucket": "items" },
        "by-level": { "bucket": "items", "sort": { "level": "desc" }, "limit": 3 },
        "owned": { "bucket": "items", "filter": { "owner": "{{ params.owner }}" } },
        "levels": { "bucket": "items", "aggregate": { "function": "count", "groupBy": "level" } },
    });
    let mut buckets = vec![("items", bucket)];
    if with_references {
        for (name, on_delete) in [("pins", "restrict"), ("notes", "cascade")] {
            let to = json!({ "type": "string", "ref": "items", "onDelete": on_delete });
            buckets.push((name, json!({ "key": "id", "schema": { "id": text, "to": to } })));
        }
    }
    Config {
        port: 0,
        storage: Storage::Memory,
        buckets: buckets
            .iter()
            .map(|(name, bucket)| ((*name).into(), bucket.as_object().unwrap().clone()))
            .collect(),
        queries: queries
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, query)| (name.as_str().into(), query.as_object().unwrap().clone()))
            .collect(),
        auth: Some(AuthConfig {
            tokens: users.iter().map(User::token).chain([admin]).collect(),
            permissions: Some(PermissionsConfig {
                default: None,
                rules: Some(users.iter().map(User::rule).chain([rule_of_admin]).collect()),
                check: None,
            }),
            ..AuthConfig::default()
        }),
        ..Config::default()
    }
}

/// The administrator changes something.
async fn administrate(admin: &mut TestClient, dice: &mut Dice, model: &mut Model) {
    match (dice.below(10), model.some_id(dice)) {
        (0..=3, _) | (_, None) => {
            let version = model.random(dice);
            model.put(version.clone());
            admin
                .result("store.insert", json!({ "bucket": "items", "data": version.json() }))
                .await;
        }
        (4..=7, Some(id)) => {
            let next = Version {
                id: id.clone(),
                ..model.random(dice)
            };
            model.put(next.clone());
            let mut data = next.json();
            data.as_object_mut().unwrap().shift_remove("id");
            admin
                .result("store.update", json!({ "bucket": "items", "key": id, "data": data }))
                .await;
        }
        (8, Some(id)) if model.with_references && dice.percent(60) => {
            let bucket = dice.one_of(&["pins", "notes"]);
            let record = json!({ "id": model.mark(), "to": id });
            admin.result("store.insert", json!({ "bucket": bucket, "data": record })).await;
            if bucket == "pins" {
                model.pinned.insert(id);
            }
        }
        (8, Some(id)) if model.pinned.contains(&id) => {
            admin.result("store.clear", json!({ "bucket": "pins" })).await;
            model.pinned.clear();
        }
        (8, Some(id)) => {
            model.live.remove(&id);
            admin.result("store.delete", json!({ "bucket": "items", "key": id })).await;
        }
        (_, Some(_)) => {
            // Gone for those who see it, and never there for the others.
            if model.with_references {
                admin.result("store.clear", json!({ "bucket": "pins" })).await;
                model.pinned.clear();
            }
            model.live.clear();
            admin.result("store.clear", json!({ "bucket": "items" })).await;
        }
    }
}

/// Somebody gets another rule while they follow things.
async fn change_rule(server: &NoexServer, dice: &mut Dice, actors: &mut [Actor], model: &Model, seed: u64) {
    let chosen = dice.below(actors.len());
    let changed = User {
        // What they are does not change, but what that means.
        team: actors[chosen].user.team.clone(),
        level: actors[chosen].user.level,
        ..User::random(dice, chosen)
    };
    let rules: Vec<_> = actors.iter().map(|actor| actor.user.clone()).collect();
    let rules = [&rules[..chosen], std::slice::from_ref(&changed), &rules[chosen + 1..]].concat();
    server.reload(config(&rules, model.with_references)).unwrap();
    actors[chosen].adapt(changed, model, seed).await;
}

async fn run(seed: u64) {
    let dice = &mut Dice(seed);
    let users: Vec<_> = (0..USERS).map(|number| User::random(dice, number)).collect();
    let with_references = seed % 2 == 1;
    let server = NoexServer::start(config(&users, with_references)).await.unwrap();
    let port = server.local_addr().port();
    let mut admin = TestClient::connect(port).await;
    admin.result("auth.login", json!({ "token": "token-of-admin" })).await;
    let mut model = Model {
        with_references,
        ..Model::default()
    };
    let mut actors = Vec::new();
    for user in users {
        actors.push(Actor::connect(port, user).await);
    }
    for actor in &mut actors {
        actor.follow().await;
    }
    for _ in 0..STEPS {
        if dice.percent(4) {
            change_rule(&server, dice, &mut actors, &model, seed).await;
        }
        administrate(&mut admin, dice, &mut model).await;
        for actor in &mut actors {
            match dice.below(10) {
                0..=4 => actor.read(dice, &model).await,
                5 | 6 => actor.write(dice, &mut model).await,
                7 if dice.percent(20) => actor.reconnect(port).await,
                _ => {}
            }
            actor.check(&model, seed);
        }
    }
    for actor in &mut actors {
        actor.check_whole(&model, seed).await;
        // What is still on its way.
        let _ = actor
            .client
            .listen_until(Instant::now() + Duration::from_millis(20), |_| false)
            .await;
        actor.check(&model, seed);
    }
    server.stop_now().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_session_may_not_see_is_in_any_message_to_it() {
    let given = std::env::var("NOEX_ROW_RULES_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds: Vec<u64> = given.map_or_else(|| (1..=6).collect(), |seed| vec![seed]);
    for seed in seeds {
        run(seed).await;
    }
}

#[test]
fn marks_are_found_where_they_are() {
    let text = r#"{"a":"mark12k","b":["mark3k"],"c":"marks","d":"xmark45ky"}"#;
    assert_eq!(marks(text), BTreeSet::from(["mark12k", "mark3k", "mark45k"]));
}
