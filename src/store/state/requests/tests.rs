//! Window, bounds and what is kept of an answer, with the time passed in.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::protocol::{ErrorCode, Record};
use crate::store::command::{Action, Operation, Step};
use crate::store::query::Filter;
use crate::store::state::{BucketDefinition, apply};

/// A store with one bucket and with limits of its own.
struct Bench {
    state: State,
    limits: RequestLimits,
    now: Timestamp,
    effects: Effects,
}

impl Bench {
    fn new(limits: RequestLimits) -> Self {
        let mut bench = Self {
            state: State::default(),
            limits,
            now: 1_000,
            effects: Effects::default(),
        };
        let config = json!({ "key": "id", "schema": { "id": { "type": "number", "generated": "autoincrement" }, "n": { "type": "number", "min": 0 } } });
        let definition = Arc::new(BucketDefinition::from_value(&config).unwrap());
        let name = "t".into();
        bench.run(None, Operation::DefineBucket { name, definition }).unwrap();
        bench
    }

    fn with_window(ms: u64) -> Self {
        Self::new(RequestLimits {
            window: Duration::from_millis(ms),
            ..RequestLimits::default()
        })
    }

    fn run(&mut self, request: Option<RequestKey>, operation: Operation) -> Result<Outcome, StoreError> {
        let mut command = Command::new(self.now, [0; 32], operation);
        command.limits.requests = self.limits;
        command.request = request;
        apply(&mut self.state, &command, &mut self.effects)
    }

    /// Inserts a record under a key, and gives the record's number.
    fn insert(&mut self, request: &str) -> Result<u64, StoreError> {
        let outcome = self.run(Some(key(request)), insert(&json!({ "n": 1 })))?;
        let Outcome::Record(Some(record)) = outcome else {
            panic!("{outcome:?}")
        };
        Ok(record.to_value()["id"].as_u64().unwrap())
    }

    /// Inserts records under keys of a scope, with a text of so many bytes, until no more are taken. Gives how many were.
    fn fill(&mut self, scope: &str, text: usize) -> usize {
        let taken = |number: &usize| {
            let request = key(&format!("{number}")).in_scope(scope);
            let outcome = self.run(Some(request), insert(&json!({ "text": "x".repeat(text) })));
            assert!(matches!(outcome, Ok(_) | Err(StoreError::RequestKeysFull { retry_after_ms: 100 })));
            outcome.is_ok()
        };
        (0..10_000).take_while(taken).count()
    }

    fn count(&self) -> usize {
        self.state.bucket("t").unwrap().row_count()
    }
}

fn key(name: &str) -> RequestKey {
    RequestKey::new(name, 7).unwrap()
}

fn record(value: &Value) -> Record {
    Record::from_object(value.as_object().unwrap())
}

fn insert(value: &Value) -> Operation {
    Operation::Insert {
        bucket: "t".into(),
        record: record(value),
    }
}

#[test]
fn a_repeat_gets_the_first_answer_and_changes_nothing() {
    let mut bench = Bench::with_window(100);
    assert_eq!(bench.insert("a"), Ok(1));
    let (seq, changes) = (bench.state.seq(), bench.effects.changes.len());
    bench.now += 99;
    assert_eq!(bench.insert("a"), Ok(1));
    assert_eq!((bench.count(), bench.state.seq(), bench.effects.changes.len()), (1, seq, changes));
    assert_eq!(bench.effects.requests.len(), 1);
    assert_eq!(bench.insert("b"), Ok(2));
}

#[test]
fn what_is_past_its_window_is_forgotten_and_carried_out_again() {
    let mut bench = Bench::with_window(100);
    bench.insert("a").unwrap();
    bench.now += 100;
    assert_eq!(bench.insert("a"), Ok(2));
    assert_eq!((bench.count(), bench.state.requests().count()), (2, 1));
    bench.now += 100;
    // Any command forgets.
    bench.run(None, Operation::Expire).unwrap();
    assert_eq!((bench.state.requests().count(), bench.state.requests().bytes()), (0, 0));
}

#[test]
fn another_request_under_the_key_is_refused_and_spoils_nothing() {
    let mut bench = Bench::with_window(100);
    bench.insert("a").unwrap();
    let other = RequestKey::new("a", 8).unwrap();
    let error = bench.run(Some(other), insert(&json!({}))).unwrap_err();
    assert_eq!(error, StoreError::RequestKeyReused("a".to_owned()));
    assert_eq!(
        (error.code(), error.details()),
        (ErrorCode::Conflict, Some(json!({ "requestKey": "a" })))
    );
    assert_eq!((bench.insert("a"), bench.count()), (Ok(1), 1));
}

#[test]
fn keys_of_different_scopes_have_nothing_to_do_with_each_other() {
    let mut bench = Bench::with_window(100);
    for scope in ["ann", "ben"] {
        let outcome = bench.run(Some(RequestKey::new("a", 7).unwrap().in_scope(scope)), insert(&json!({})));
        assert!(outcome.is_ok());
    }
    bench.insert("a").unwrap();
    assert_eq!((bench.count(), bench.state.requests().count()), (3, 3));
}

#[test]
fn a_refusal_is_remembered_with_all_that_was_said() {
    let mut bench = Bench::with_window(100);
    let update = || Operation::Update {
        bucket: "t".into(),
        key: 1.into(),
        changes: record(&json!({ "n": 5 })),
        expect_version: None,
    };
    let seq = bench.state.seq();
    let first = bench.run(Some(key("u")), update()).unwrap_err();
    assert_eq!(bench.state.seq(), seq + 1, "what is remembered is a commit");
    bench.insert("a").unwrap();
    let again = bench.run(Some(key("u")), update()).unwrap_err();
    assert_eq!(
        (again.code(), again.to_string(), again.details()),
        (ErrorCode::NotFound, first.to_string(), first.details())
    );
    assert!(bench.run(None, update()).is_ok(), "the record is there now");
}

#[test]
fn no_more_than_so_many_requests_are_remembered_and_the_rest_is_not_carried_out() {
    let mut bench = Bench::new(RequestLimits {
        window: Duration::from_millis(100),
        keys: 2,
        bytes: 1 << 20,
    });
    bench.insert("a").unwrap();
    bench.now += 30;
    bench.insert("b").unwrap();
    bench.now += 30;
    let error = bench.insert("c").unwrap_err();
    assert_eq!(error, StoreError::RequestKeysFull { retry_after_ms: 40 });
    assert_eq!(
        (error.code(), error.details()),
        (ErrorCode::RateLimited, Some(json!({ "retryAfterMs": 40 })))
    );
    assert_eq!((bench.insert("a"), bench.count()), (Ok(1), 2), "a repeat needs no room");
    assert!(bench.run(None, insert(&json!({}))).is_ok(), "neither does a write without a key");
    bench.now += 40;
    assert_eq!(bench.insert("c"), Ok(4));
    assert_eq!(bench.insert("b"), Ok(2));
}

#[test]
fn no_more_than_so_many_bytes_are_remembered() {
    let limit = 2_000;
    let mut bench = Bench::new(RequestLimits {
        window: Duration::from_millis(100),
        keys: 1_000,
        bytes: limit,
    });
    let mut taken = 0;
    while bench.insert(&format!("{taken}-{}", "k".repeat(100))).is_ok() {
        taken += 1;
    }
    let requests = bench.state.requests();
    assert!(taken > 5 && taken < 20, "{taken}");
    assert!(
        requests.bytes() > limit - 250 && requests.bytes() < limit + 250,
        "{}",
        requests.bytes()
    );
    assert_eq!((requests.count(), bench.count()), (taken, taken));
    bench.now += 100;
    bench.insert("a").unwrap();
    assert_eq!(bench.state.requests().count(), 1);
}

#[test]
fn no_scope_takes_more_requests_than_it_leaves_to_others() {
    let mut bench = Bench::new(RequestLimits {
        window: Duration::from_millis(100),
        keys: 100,
        bytes: 1 << 20,
    });
    assert_eq!(bench.fill("greedy", 0), 50);
    assert_eq!(bench.fill("another", 0), 25);
    assert_eq!(["c", "d", "e", "f", "g"].map(|scope| bench.fill(scope, 0)), [12, 6, 3, 2, 1]);
    assert_eq!(
        (bench.fill("h", 0), bench.fill("i", 0)),
        (1, 0),
        "the last one, and there is no more"
    );
    bench.now += 99;
    let again = bench.run(Some(key("7").in_scope("greedy")), insert(&json!({ "text": "" })));
    assert!(again.is_ok() && bench.count() == 100, "a repeat needs no room");
    bench.now += 1;
    assert_eq!(bench.fill("another", 0), 50, "what is forgotten is nobody's");
}

#[test]
fn no_scope_takes_more_bytes_than_it_leaves_to_others() {
    let mut bench = Bench::new(RequestLimits {
        window: Duration::from_millis(100),
        keys: 10_000,
        bytes: 100_000,
    });
    let (greedy, another) = (bench.fill("greedy", 1_000), bench.fill("another", 1_000));
    assert!((40..=50).contains(&greedy) && (18..=25).contains(&another), "{greedy} {another}");
    // A large answer takes no more than its own room from others either.
    assert_eq!(bench.fill("large", 20_000), 1);
    assert_eq!(bench.fill("small", 0).min(1), 1);
}

#[test]
fn what_is_in_no_scope_takes_all_there_is() {
    let mut bench = Bench::new(RequestLimits {
        window: Duration::from_millis(100),
        keys: 100,
        bytes: 1 << 20,
    });
    bench.fill("ann", 0);
    assert_eq!((bench.fill("", 0), bench.state.requests().count()), (50, 100));
}

#[test]
fn a_scope_over_its_share_keeps_what_was_taken_when_the_limits_are_lowered() {
    let mut bench = Bench::with_window(100);
    bench.limits.keys = 100;
    assert_eq!(bench.fill("ann", 0), 50);
    let mut loaded = Requests::default();
    for change in &bench.effects.requests {
        assert!(loaded.insert(change.number, change.remembered.clone().unwrap()));
    }
    assert_eq!(&loaded, bench.state.requests());
    *bench.state.requests_mut() = loaded;
    bench.limits.keys = 60;
    bench.now += 50;
    let ask = |bench: &mut Bench, name: &str, scope: &str| bench.run(Some(key(name).in_scope(scope)), insert(&json!({ "text": "" })));
    assert!((0..50).all(|number| ask(&mut bench, &number.to_string(), "ann").is_ok()));
    assert_eq!(bench.count(), 50, "all were repeats");
    assert_eq!(
        ask(&mut bench, "50", "ann"),
        Err(StoreError::RequestKeysFull { retry_after_ms: 50 })
    );
    assert!(ask(&mut bench, "0", "ben").is_ok());
}

#[test]
fn one_command_forgets_a_bounded_number_unless_it_needs_the_room() {
    let mut bench = Bench::new(RequestLimits {
        window: Duration::from_millis(100),
        keys: 300,
        bytes: 1 << 20,
    });
    for number in 0..300 {
        bench.insert(&number.to_string()).unwrap();
    }
    bench.now += 100;
    bench.run(None, Operation::Expire).unwrap();
    assert_eq!(bench.state.requests().count(), 300 - FORGOTTEN_AT_ONCE);
    assert_eq!(
        bench.insert("299"),
        Ok(301),
        "what is past its window is so also before it is forgotten"
    );
    bench.limits.keys = 10;
    bench.insert("more").unwrap();
    assert!(bench.state.requests().count() <= 10);
}

#[test]
fn of_an_outcome_that_is_too_large_it_is_known_that_it_was() {
    let mut bench = Bench::with_window(100);
    let text = "x".repeat(600 << 10);
    for id in 1..=2 {
        bench.run(None, insert(&json!({ "id": id, "text": text }))).unwrap();
    }
    let read_and_write = || Operation::Transaction {
        steps: [
            Action::Where {
                filter: Filter::everything(),
            },
            Action::Insert {
                record: record(&json!({})),
            },
        ]
        .map(|action| Step {
            bucket: "t".into(),
            action,
            guard: None,
        })
        .to_vec(),
    };
    bench.run(Some(key("a")), read_and_write()).unwrap();
    let again = bench.run(Some(key("a")), read_and_write()).unwrap_err();
    assert_eq!((again.code(), &again), (ErrorCode::InternalError, &StoreError::AnswerNotKept));
    assert_eq!(bench.count(), 3);
    assert!(bench.state.requests().bytes() < 10);
    // One record alone is well within it.
    let update = || Operation::Update {
        bucket: "t".into(),
        key: 1.into(),
        changes: Record::from_object(&serde_json::Map::new()),
        expect_version: None,
    };
    assert_eq!(bench.run(Some(key("b")), update()), bench.run(Some(key("b")), update()));
}

#[test]
fn a_refusal_that_is_too_large_is_kept_without_its_details() {
    let issue = Issue::new("f", "type", "é".repeat(1 << 20));
    let error = StoreError::invalid("record", issue);
    let kept = Answer::of(&Err(error)).to_result().unwrap_err();
    assert_eq!((kept.code(), kept.details()), (ErrorCode::ValidationError, None));
    assert_eq!(kept.to_string().chars().count(), 1_001);
}

#[test]
fn keys_have_a_length() {
    assert!(RequestKey::new("k".repeat(200), 0).is_ok());
    for text in [String::new(), "k".repeat(201)] {
        assert_eq!(RequestKey::new(text, 0).unwrap_err().code(), ErrorCode::ValidationError);
    }
}

fn any_record() -> BoxedStrategy<Record> {
    prop::collection::btree_map(any::<String>(), any::<String>(), 0..4)
        .prop_map(|members| record(&json!(members)))
        .boxed()
}

fn any_outcome() -> BoxedStrategy<Outcome> {
    let plain = || {
        prop_oneof![
            Just(Outcome::Done),
            prop::option::of(any_record()).prop_map(Outcome::Record),
            prop::collection::vec(any_record(), 0..4).prop_map(Outcome::Records),
            any::<usize>().prop_map(Outcome::Count),
            any::<bool>().prop_map(Outcome::Deleted),
        ]
    };
    prop_oneof![3 => plain(), 1 => prop::collection::vec(plain(), 0..4).prop_map(Outcome::Steps)].boxed()
}

fn any_answer() -> BoxedStrategy<Result<Outcome, StoreError>> {
    let code = prop::sample::select(ErrorCode::ALL.to_vec());
    let details = prop::option::of(any::<Option<u32>>().prop_map(|number| json!({ "n": number })));
    let refusal =
        (code, any::<String>(), details).prop_map(|(code, message, details)| StoreError::RefusedBefore { code, message, details });
    prop_oneof![2 => any_outcome().prop_map(Ok), 1 => refusal.prop_map(Err)].boxed()
}

proptest! {
    #[test]
    fn a_remembered_request_comes_back_as_it_was(
        answer in any_answer(), name in "[a-zé]{1,40}", scope in any::<String>(), fingerprint: u64, time: u64, cut: prop::sample::Index,
    ) {
        let kept = Answer::of(&answer);
        prop_assert_eq!(kept.to_result(), answer);
        let remembered = Remembered { name: key(&name).in_scope(scope).name, fingerprint, time, answer: kept };
        let bytes = remembered.to_bytes();
        prop_assert_eq!(Remembered::from_bytes(&bytes), Some(remembered));
        prop_assert_eq!(Remembered::from_bytes(&bytes[..cut.index(bytes.len())]), None, "cut off");
        prop_assert_eq!(Remembered::from_bytes(&[bytes, vec![0]].concat()), None, "too long");
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>, kind in 0..3_u8) {
        let _ = Remembered::from_bytes(&bytes);
        let _ = Answer::from_bytes(&[vec![kind], bytes].concat());
    }

    /// What the disk is told leads to what the state holds.
    #[test]
    fn the_effects_lead_to_what_is_remembered(steps in prop::collection::vec(("[a-f]", "[xy]?", 0..40_u64, any::<bool>()), 1..60), keys in 1..8_usize) {
        let mut bench = Bench::new(RequestLimits { window: Duration::from_millis(100), keys, bytes: 1 << 20 });
        for (name, scope, wait, refused) in steps {
            bench.now += wait;
            let n = if refused { -1 } else { 1 };
            let _ = bench.run(Some(key(&name).in_scope(scope)), insert(&json!({ "n": n })));
            let mut on_disk = BTreeMap::new();
            for change in &bench.effects.requests {
                match &change.remembered {
                    Some(remembered) => drop(on_disk.insert(change.number, Arc::clone(remembered))),
                    None => drop(on_disk.remove(&change.number)),
                }
            }
            let mut loaded = Requests::default();
            for (number, remembered) in on_disk {
                prop_assert!(loaded.insert(number, remembered));
            }
            prop_assert_eq!(&loaded, bench.state.requests());
            prop_assert!(loaded.count() <= keys);
        }
    }
}

#[test]
fn forgetting_a_request_is_a_commit_also_where_nothing_else_happens() {
    let mut bench = Bench::with_window(10);
    bench.insert("a").unwrap();
    bench.now += 20;
    bench.effects = Effects::default();
    let seq = bench.state.seq();
    let missing = Operation::Delete {
        bucket: "t".into(),
        key: 99_u64.into(),
        expect_version: None,
    };
    bench.run(None, missing.clone()).unwrap();
    assert_eq!((bench.effects.requests.len(), bench.effects.commits.len()), (1, 1));
    assert_eq!((bench.state.seq(), bench.effects.commits[0].seq), (seq + 1, seq + 1));
    bench.run(None, missing).unwrap();
    assert_eq!(bench.state.seq(), seq + 1);
}
