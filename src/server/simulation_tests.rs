//! Seeded runs of the real store and the real connection code, with streams in memory in the place of sockets.
//!
//! Writers commit, clients read slowly, stall, vanish and resume, all in an order that one number decides. What a
//! client makes of the pushes it applies must always equal a fresh evaluation at the push's cursor. A run that
//! fails prints its seed; `NOEX_SIMULATION_SEED=<seed>` runs that one alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{FutureExt, SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::Config;
use super::connection::registry::Registry;
use super::connection::{Limits, simulated};
use super::handlers::HandlerContext;
use crate::protocol::Cursor;
use crate::store::query::{Filter, QueryDefinition};
use crate::store::{BucketDefinition, Store};

/// Runs of the test, each with a seed of its own.
const RUNS: u64 = 60;
const STEPS: usize = 150;
const CLIENTS: usize = 4;

/// What the stream between a client and the server holds: little, so that pushes are held back often.
const STREAM_BYTES: usize = 1_500;

/// Numbers that look random and follow from a seed: splitmix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[usize::try_from(self.below(from.len() as u64)).expect("it is small")]
    }
}

/// What can be followed.
#[derive(Clone, Debug)]
enum Subject {
    Query { name: &'static str, params: Value },
    Feed { bucket: &'static str, filter: Value },
}

impl Subject {
    /// What it is at present, as a client that follows it should have it.
    fn evaluate(&self, store: &Store) -> Option<Value> {
        let snapshot = store.snapshot();
        match self {
            Self::Query { name, params } => {
                let json = snapshot.run_query(name, params, snapshot.now()).expect("the query is sound");
                json.map(|json| serde_json::from_slice(&json).expect("it is JSON"))
            }
            Self::Feed { bucket, filter } => {
                let filter = Filter::from_value(filter).expect("the filter is sound");
                let records = snapshot.bucket(bucket).expect("it is defined");
                let reader = crate::store::query::Reader::new(records, snapshot.now());
                let found = reader.select(&filter);
                let by_key = found
                    .into_iter()
                    .map(|record| {
                        let record: Value = serde_json::from_slice(record.json()).expect("it is JSON");
                        (record["id"].as_str().expect("keys are texts here").to_owned(), record)
                    })
                    .collect();
                Some(Value::Object(by_key))
            }
        }
    }
}

fn subjects() -> Vec<Subject> {
    let query = |name, params| Subject::Query { name, params };
    let feed = |bucket, filter| Subject::Feed { bucket, filter };
    vec![
        query("all", Value::Null),
        query("low", Value::Null),
        query("top", Value::Null),
        query("names", Value::Null),
        query("count", Value::Null),
        query("mortal", Value::Null),
        query("of-group", json!({ "g": "a" })),
        query("of-group", json!({ "g": "b" })),
        feed("t", json!({})),
        feed("t", json!({ "n": { "$lt": 50 } })),
        feed("m", json!({})),
    ]
}

/// How a client follows a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Full,
    Delta,
    Feed,
}

/// What a client follows, and what it makes of it.
struct Follow {
    subject: usize,
    mode: Mode,
    /// Its name on the wire, while the connection lasts.
    id: Option<String>,
    /// How far the client is.
    cursor: Option<Cursor>,
    value: Option<Value>,
    /// Changes were left out: the client asks for them anew.
    gap: bool,
}

struct SimClient {
    socket: Option<WebSocketStream<DuplexStream>>,
    follows: Vec<Follow>,
    /// Which follow a request is about.
    asked: BTreeMap<u64, usize>,
    requests: u64,
    /// It does not read for so many steps.
    stalled: u64,
}

struct World {
    dice: Dice,
    store: Store,
    context: Arc<HandlerContext>,
    limits: Limits,
    clock: Arc<AtomicU64>,
    subjects: Vec<Subject>,
    /// What each subject was after each commit that was published.
    known: BTreeMap<u64, Vec<Option<Value>>>,
    clients: Vec<SimClient>,
    applied: usize,
    resumed: usize,
}

impl World {
    async fn new(seed: u64) -> Self {
        let clock = Arc::new(AtomicU64::new(1_000_000));
        let time = Arc::clone(&clock);
        let store = Store::builder()
            .in_memory()
            .clock(move || time.load(Ordering::Relaxed))
            .open()
            .await
            .expect("a store in memory opens");
        define(&store).await;
        let config = config();
        let registry = Registry::new(CLIENTS, None);
        let context = Arc::new(super::handler_context(store.clone(), &config, &registry, 0, None));
        let clients = (0..CLIENTS)
            .map(|_| SimClient {
                socket: None,
                follows: Vec::new(),
                asked: BTreeMap::new(),
                requests: 0,
                stalled: 0,
            })
            .collect();
        let mut world = Self {
            dice: Dice(seed),
            store,
            context,
            limits: Limits::from(&config),
            clock,
            subjects: subjects(),
            known: BTreeMap::new(),
            clients,
            applied: 0,
            resumed: 0,
        };
        world.remember();
        world
    }

    /// Keeps what every subject is now.
    fn remember(&mut self) {
        let values = self.subjects.iter().map(|subject| subject.evaluate(&self.store)).collect();
        self.known.insert(self.store.snapshot().seq(), values);
    }

    async fn step(&mut self) {
        let client = usize::try_from(self.dice.below(CLIENTS as u64)).expect("it is small");
        match self.dice.below(20) {
            0..=8 => self.commit().await,
            9..=11 => self.subscribe(client).await,
            12 => self.clients[client].stalled = self.dice.below(12),
            13 => self.vanish(client).await,
            14 => self.unsubscribe(client).await,
            15 => self.wait(11_000).await,
            _ => {}
        }
        for at in 0..CLIENTS {
            if self.clients[at].stalled > 0 {
                self.clients[at].stalled -= 1;
            } else {
                self.read(at).await;
            }
        }
    }

    /// One commit, or several that become durable together.
    async fn commit(&mut self) {
        let commits = 1 + self.dice.below(3);
        let mut pending = Vec::new();
        for _ in 0..commits {
            let operation = self.operation();
            pending.push(self.store.submit(operation).expect("the store is open"));
        }
        for commit in pending {
            // A refusal is as good as a success: nothing has changed.
            let _ = commit.await;
        }
        self.settle().await;
        self.remember();
    }

    fn operation(&mut self) -> crate::store::Operation {
        use crate::store::Operation;
        let bucket = self.dice.pick(&["t", "t", "t", "m"]).to_string();
        let key = format!("k{}", self.dice.below(14));
        let record = json!({
            "id": key,
            "n": self.dice.below(100),
            "g": self.dice.pick(&["a", "b", "c"]),
            "text": "x".repeat(usize::try_from(self.dice.below(200)).expect("it is small")),
        });
        let object = |value: &Value| crate::protocol::Record::from_object(value.as_object().expect("an object"));
        let bucket = bucket.as_str().into();
        match self.dice.below(12) {
            0..=4 => Operation::Upsert {
                bucket,
                record: object(&record),
                expect_version: None,
            },
            5 | 6 => Operation::Insert {
                bucket,
                record: object(&record),
            },
            7 | 8 => Operation::Delete {
                bucket,
                key: key.as_str().into(),
                expect_version: None,
            },
            9 => Operation::UpdateMany {
                bucket,
                filter: Filter::from_value(&json!({ "n": { "$gt": 60 } })).expect("the filter is sound"),
                changes: object(&json!({ "n": self.dice.below(100) })),
            },
            10 if self.dice.below(8) == 0 => Operation::Clear { bucket },
            10 => Operation::DeleteMany {
                bucket,
                filter: Filter::from_value(&json!({ "g": "c" })).expect("the filter is sound"),
            },
            _ => {
                self.clock.fetch_add(700, Ordering::Relaxed);
                Operation::Expire
            }
        }
    }

    /// Lets everything happen that can happen without anybody doing something.
    async fn settle(&mut self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    async fn wait(&mut self, millis: u64) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    async fn connect(&mut self, at: usize) {
        let (server, client) = tokio::io::duplex(STREAM_BYTES);
        simulated::serve(server, &self.context, self.limits).await;
        let mut socket = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let welcome = socket.next().await.expect("the connection is open").expect("a sound frame");
        assert!(welcome.to_text().expect("it is text").contains("welcome"));
        self.clients[at].socket = Some(socket);
        for follow in 0..self.clients[at].follows.len() {
            self.ask(at, follow).await;
        }
    }

    async fn vanish(&mut self, at: usize) {
        let client = &mut self.clients[at];
        client.socket = None;
        client.asked.clear();
        client.stalled = 0;
        for follow in &mut client.follows {
            follow.id = None;
        }
        self.settle().await;
    }

    /// Has the client follow something more, or connect again where it has vanished.
    async fn subscribe(&mut self, at: usize) {
        if self.clients[at].socket.is_none() {
            return self.connect(at).await;
        }
        if self.clients[at].follows.len() >= 5 {
            return;
        }
        let subject = usize::try_from(self.dice.below(self.subjects.len() as u64)).expect("it is small");
        let mode = match &self.subjects[subject] {
            Subject::Feed { .. } => Mode::Feed,
            Subject::Query { .. } => *self.dice.pick(&[Mode::Full, Mode::Delta]),
        };
        self.clients[at].follows.push(Follow {
            subject,
            mode,
            id: None,
            cursor: None,
            value: None,
            gap: false,
        });
        let last = self.clients[at].follows.len() - 1;
        self.ask(at, last).await;
    }

    /// Sends the request that follows a subject, from where the client is.
    async fn ask(&mut self, at: usize, follow: usize) {
        let client = &mut self.clients[at];
        if client.socket.is_none() {
            return;
        }
        client.requests += 1;
        let id = client.requests;
        let entry = &mut client.follows[follow];
        entry.gap = false;
        let from = entry.cursor.map(|cursor| cursor.to_string());
        let request = match (&self.subjects[entry.subject], entry.mode) {
            (Subject::Feed { bucket, filter }, _) => {
                json!({ "id": id, "type": "store.changes", "bucket": bucket, "filter": filter, "since": from })
            }
            (Subject::Query { name, params }, Mode::Delta) => {
                json!({ "id": id, "type": "store.subscribe", "query": name, "params": params, "mode": "delta", "resume": from })
            }
            (Subject::Query { name, params }, _) => {
                json!({ "id": id, "type": "store.subscribe", "query": name, "params": params, "resume": from })
            }
        };
        client.asked.insert(id, follow);
        self.send(at, &request).await;
    }

    async fn unsubscribe(&mut self, at: usize) {
        let Some(follow) = self.clients[at].follows.pop() else { return };
        let client = &mut self.clients[at];
        client.asked.retain(|_, asked| *asked < client.follows.len());
        if let (Some(id), Some(_)) = (follow.id, &client.socket) {
            client.requests += 1;
            let request = json!({ "id": client.requests, "type": "store.unsubscribe", "subscriptionId": id });
            self.send(at, &request).await;
        }
    }

    /// Sends a request; while the stream is full, reads. A client that is stalled does not wait for room.
    async fn send(&mut self, at: usize, request: &Value) {
        let Some(mut socket) = self.clients[at].socket.take() else { return };
        let mut sending = socket.feed(Message::text(request.to_string())).boxed();
        let fed = tokio::time::timeout(Duration::from_millis(1), &mut sending).await;
        drop(sending);
        let flushed = tokio::time::timeout(Duration::from_millis(1), socket.flush()).await;
        let broken = !matches!(fed, Ok(Ok(()))) || matches!(flushed, Ok(Err(_)));
        self.clients[at].socket = Some(socket);
        if broken {
            // A half-written request would be a fault of the client: it gives the connection up.
            self.vanish(at).await;
        }
    }

    /// Takes in all that has arrived.
    async fn read(&mut self, at: usize) {
        loop {
            let Some(socket) = self.clients[at].socket.as_mut() else { return };
            match tokio::time::timeout(Duration::from_millis(1), socket.next()).await {
                Err(_) => break,
                Ok(Some(Ok(Message::Text(text)))) => {
                    let message: Value = serde_json::from_str(text.as_str()).expect("it is JSON");
                    self.take_in(at, &message);
                }
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(_)) | None) => {
                    self.vanish(at).await;
                    return;
                }
            }
        }
        let gaps: Vec<usize> = (0..self.clients[at].follows.len())
            .filter(|follow| self.clients[at].follows[*follow].gap)
            .collect();
        for follow in gaps {
            if let Some(id) = self.clients[at].follows[follow].id.take() {
                let client = &mut self.clients[at];
                client.requests += 1;
                let request = json!({ "id": client.requests, "type": "store.unsubscribe", "subscriptionId": id });
                self.send(at, &request).await;
            }
            self.ask(at, follow).await;
        }
    }

    fn take_in(&mut self, at: usize, message: &Value) {
        match message["type"].as_str() {
            Some("result") => {
                let id = message["id"].as_u64().expect("ids are whole numbers");
                if let Some(follow) = self.clients[at].asked.remove(&id) {
                    self.begin(at, follow, &message["data"]);
                }
            }
            Some("error") => {
                assert_eq!(message["code"], "CURSOR_TOO_OLD", "{message}");
                let id = message["id"].as_u64().expect("ids are whole numbers");
                if let Some(follow) = self.clients[at].asked.remove(&id) {
                    // The client has to begin anew.
                    self.clients[at].follows[follow].cursor = None;
                    self.clients[at].follows[follow].gap = true;
                }
            }
            Some("push") => self.push(at, message),
            _ => panic!("unexpected: {message}"),
        }
    }

    fn begin(&mut self, at: usize, follow: usize, data: &Value) {
        let entry = &mut self.clients[at].follows[follow];
        let cursor: Cursor = data["cursor"].as_str().expect("there is a cursor").parse().expect("it is sound");
        entry.id = Some(data["subscriptionId"].as_str().expect("there is a name").to_owned());
        if entry.mode == Mode::Feed {
            if entry.cursor.is_none() {
                // Whoever follows changes reads the bucket once; the state at the cursor stands in for that.
                entry.value = self.known.get(&cursor.seq).expect("the cursor is one of a commit")[entry.subject].clone();
                entry.cursor = Some(cursor);
            }
            return;
        }
        if data["resumed"] == true {
            self.resumed += 1;
            apply_delta(&mut entry.value, &data["delta"]);
        } else {
            entry.value = data.get("data").cloned();
        }
        entry.cursor = Some(cursor);
        self.check(at, follow, data);
    }

    fn push(&mut self, at: usize, message: &Value) {
        let id = message["subscriptionId"].as_str().expect("there is a name");
        let Some(follow) = self.clients[at].follows.iter().position(|follow| follow.id.as_deref() == Some(id)) else {
            // Of a subscription that was just given up.
            return;
        };
        let entry = &mut self.clients[at].follows[follow];
        let cursor: Cursor = message["cursor"].as_str().expect("there is a cursor").parse().expect("it is sound");
        assert!(entry.cursor.is_none_or(|before| before.seq < cursor.seq), "not newer: {message}");
        if entry.gap {
            return;
        }
        match entry.mode {
            Mode::Feed if message.get("missed").is_some() => {
                entry.gap = true;
                return;
            }
            Mode::Feed => apply_changes(entry.value.as_mut().expect("it has begun"), &message["data"]),
            Mode::Delta if message.get("delta").is_some() => apply_delta(&mut entry.value, &message["delta"]),
            Mode::Delta => {
                assert_eq!(message["resync"], true, "{message}");
                entry.value = message.get("data").cloned();
            }
            Mode::Full => entry.value = message.get("data").cloned(),
        }
        entry.cursor = Some(cursor);
        self.applied += 1;
        self.check(at, follow, message);
    }

    /// What the client has must be what there was at its cursor.
    fn check(&self, at: usize, follow: usize, message: &Value) {
        let entry = &self.clients[at].follows[follow];
        let seq = entry.cursor.expect("it was just set").seq;
        let expected = match (self.known.get(&seq), entry.mode) {
            (Some(values), _) => &values[entry.subject],
            // Commits that became durable together are reported one by one, but nobody has seen the states between.
            (None, Mode::Feed) => return,
            (None, _) => panic!("no commit was published as {seq}: {message}"),
        };
        let subject = &self.subjects[entry.subject];
        assert_eq!(
            &entry.value, expected,
            "{subject:?} in mode {:?} at {seq} after {message}",
            entry.mode
        );
    }

    /// Everybody reads again; then everybody has what there is.
    async fn finish(&mut self) {
        for at in 0..CLIENTS {
            self.clients[at].stalled = 0;
        }
        // Twice, since a gap is closed with a request of its own.
        for _ in 0..4 {
            for at in 0..CLIENTS {
                if self.clients[at].socket.is_none() {
                    self.connect(at).await;
                }
                self.read(at).await;
            }
        }
        for client in &self.clients {
            for follow in &client.follows {
                let now = self.subjects[follow.subject].evaluate(&self.store);
                assert_eq!(
                    follow.value, now,
                    "{:?} in mode {:?} in the end",
                    self.subjects[follow.subject], follow.mode
                );
            }
        }
    }
}

/// Limits so small that they are reached all the time.
fn config() -> Config {
    let mut config = Config::default();
    config.connection_limits.max_subscriptions_per_connection = 8;
    config.backpressure.max_buffered_bytes = 4_000;
    config
}

async fn define(store: &Store) {
    let bucket = |config: Value| BucketDefinition::from_value(&config).expect("the definition is sound");
    let schema = json!({ "id": { "type": "string" }, "n": { "type": "number" }, "g": { "type": "string" }, "text": { "type": "string" } });
    let plain = bucket(json!({ "key": "id", "schema": schema, "indexes": ["g"] }));
    store.define_bucket("t", plain).await.expect("it is defined");
    let mortal = bucket(json!({ "key": "id", "schema": schema, "ttl": 2_000, "maxSize": 8 }));
    store.define_bucket("m", mortal).await.expect("it is defined");
    for (name, config) in [
        ("all", json!({ "bucket": "t" })),
        (
            "low",
            json!({ "bucket": "t", "filter": { "n": { "$lt": 50 } }, "sort": { "n": "asc" } }),
        ),
        ("top", json!({ "bucket": "t", "sort": { "n": "desc" }, "offset": 1, "limit": 4 })),
        ("names", json!({ "bucket": "t", "fields": ["g", "id"], "sort": { "g": "desc" } })),
        (
            "count",
            json!({ "bucket": "t", "filter": { "g": "a" }, "aggregate": { "function": "count" } }),
        ),
        ("mortal", json!({ "bucket": "m", "sort": { "n": "asc" } })),
        ("of-group", json!({ "bucket": "t", "filter": { "g": "{{ params.g }}" } })),
    ] {
        let definition = QueryDefinition::from_value(&config).expect("the definition is sound");
        store.define_query(name, definition).await.expect("it is defined");
    }
}

/// Does what a client does with a delta.
fn apply_delta(value: &mut Option<Value>, delta: &Value) {
    let Some(upserted) = delta.get("upserted") else {
        *value = delta.get("value").cloned();
        return;
    };
    let upserted = upserted.as_array().expect("a list");
    let key = |record: &Value| record["id"].clone();
    let mut gone: Vec<Value> = delta["removed"].as_array().expect("a list").clone();
    gone.extend(upserted.iter().map(|entry| key(&entry[1])));
    let items = value.as_mut().and_then(Value::as_array_mut).expect("it is a list");
    items.retain(|record| !gone.contains(&key(record)));
    for entry in upserted {
        let position = usize::try_from(entry[0].as_u64().expect("a position")).expect("it is small");
        items.insert(position, entry[1].clone());
    }
}

/// Does what a client does with a set of changes. It minds what kind of change each is.
fn apply_changes(value: &mut Value, changes: &Value) {
    let records = value.as_object_mut().expect("it is a map");
    for change in changes.as_array().expect("a list") {
        let key = change["key"].as_str().expect("keys are texts here").to_owned();
        let before = match change["op"].as_str() {
            Some("inserted") => {
                assert!(!records.contains_key(&key), "inserted twice: {change}");
                records.insert(key, change["record"].clone())
            }
            Some("updated") => {
                assert!(records.contains_key(&key), "updated before it was there: {change}");
                records.insert(key, change["record"].clone())
            }
            Some("deleted") => {
                assert!(records.contains_key(&key), "deleted before it was there: {change}");
                records.remove(&key)
            }
            _ => panic!("unexpected: {change}"),
        };
        drop(before);
    }
}

/// One run. Tells how many pushes were applied and how many subscriptions resumed.
async fn run(seed: u64) -> (usize, usize) {
    let mut world = World::new(seed).await;
    for at in 0..CLIENTS {
        world.connect(at).await;
    }
    for _ in 0..STEPS {
        world.step().await;
    }
    world.finish().await;
    (world.applied, world.resumed)
}

/// Names the seed of a run that fails.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the simulation failed: NOEX_SIMULATION_SEED={} runs it again", self.0);
        }
    }
}

#[test]
fn whatever_happens_in_whatever_order_applied_pushes_equal_a_fresh_evaluation_at_their_cursor() {
    let only = std::env::var("NOEX_SIMULATION_SEED")
        .ok()
        .map(|seed| seed.parse().expect("a number"));
    let seeds = only.map_or(0..RUNS, |seed: u64| seed..seed + 1);
    let mut together = (0, 0);
    for seed in seeds {
        let _named = Named(seed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime starts");
        let (applied, resumed) = runtime.block_on(run(seed));
        together = (together.0 + applied, together.1 + resumed);
    }
    assert!(
        only.is_some() || (together.0 > 1_000 && together.1 > 100),
        "the runs do too little: {together:?}"
    );
}
