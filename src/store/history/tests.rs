//! Random commands: the history, applied backwards, gives every state that it claims to reach back to; it stays within
//! its bounds; and what is written of it gives the same history again.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::store::command::{Action, Command, Operation, Step};
use crate::store::state::{BucketDefinition, Timestamp, apply};

const SMALL: HistoryLimits = HistoryLimits {
    max_changes: 4,
    max_bytes: 1_200,
    max_total_bytes: 1_800,
};

/// A bucket without an end of life, one whose records end, one that refers to that one and keeps its records.
fn definition(bucket: usize) -> Arc<BucketDefinition> {
    let definition = match bucket {
        0 => json!({ "key": "id", "schema": { "id": { "type": "number" } } }),
        1 => json!({ "key": "id", "schema": { "id": { "type": "number" } }, "ttl": 20, "maxSize": 4 }),
        _ => json!({ "key": "id", "schema": { "id": { "type": "number" }, "to": { "type": "number", "ref": "b1" } } }),
    };
    Arc::new(BucketDefinition::from_value(&definition).unwrap())
}

fn name(bucket: usize) -> crate::protocol::BucketName {
    format!("b{bucket}").as_str().into()
}

fn record(value: serde_json::Value) -> Record {
    Record::from_object(value.as_object().unwrap())
}

#[derive(Clone, Debug)]
enum Move {
    Put(usize, u8, usize),
    Delete(usize, u8),
    Clear(usize),
    Several(Vec<(usize, u8, bool)>),
    Pass(u64),
    Expire,
    EndGroup,
    Mortal(bool),
    Renew(usize),
    Reopen,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        8 => (0..3usize, 0..6u8, 0..200usize).prop_map(|(bucket, key, length)| Move::Put(bucket, key, length)),
        3 => (0..3usize, 0..6u8).prop_map(|(bucket, key)| Move::Delete(bucket, key)),
        1 => (0..3usize).prop_map(Move::Clear),
        3 => vec((0..3usize, 0..6u8, any::<bool>()), 1..7).prop_map(Move::Several),
        3 => (1..30u64).prop_map(Move::Pass),
        1 => Just(Move::Expire),
        6 => Just(Move::EndGroup),
        1 => any::<bool>().prop_map(Move::Mortal),
        1 => (0..3usize).prop_map(Move::Renew),
        1 => Just(Move::Reopen),
    ];
    vec(one, 1..60)
}

fn put(bucket: usize, key: u8, length: usize) -> Record {
    let text = "x".repeat(length);
    record(match bucket {
        2 => json!({ "id": key, "to": key }),
        _ => json!({ "id": key, "text": text }),
    })
}

fn step(bucket: usize, key: u8, insert: bool) -> Step {
    Step {
        bucket: name(bucket),
        action: if insert {
            Action::Insert {
                record: put(bucket, key, 3),
            }
        } else {
            Action::Delete {
                key: crate::protocol::Datum::Number(u64::from(key).into()),
                expect_version: None,
            }
        },
        guard: None,
    }
}

fn operations(one: &Move) -> Vec<Operation> {
    match one {
        Move::Put(bucket, key, length) => vec![Operation::Upsert {
            bucket: name(*bucket),
            record: put(*bucket, *key, *length),
            expect_version: None,
        }],
        Move::Delete(bucket, key) => vec![Operation::Delete {
            bucket: name(*bucket),
            key: crate::protocol::Datum::Number(u64::from(*key).into()),
            expect_version: None,
        }],
        Move::Clear(bucket) => vec![Operation::Clear { bucket: name(*bucket) }],
        Move::Several(steps) => vec![Operation::Transaction {
            steps: steps.iter().map(|(bucket, key, insert)| step(*bucket, *key, *insert)).collect(),
        }],
        Move::Expire => vec![Operation::Expire],
        Move::Mortal(mortal) => vec![Operation::UpdateBucket {
            name: name(0),
            updates: json!({ "ttl": if *mortal { json!(20) } else { json!(null) } })
                .as_object()
                .unwrap()
                .clone(),
        }],
        Move::Renew(bucket) => vec![
            Operation::DropBucket { name: name(*bucket) },
            Operation::DefineBucket {
                name: name(*bucket),
                definition: definition(*bucket),
            },
        ],
        Move::Pass(_) | Move::EndGroup | Move::Reopen => Vec::new(),
    }
}

type Rows = BTreeMap<RowId, Record>;

/// What readers see, by bucket.
fn seen(state: &State) -> BTreeMap<BucketId, Rows> {
    let rows = |bucket: &Bucket| {
        bucket
            .all_rows()
            .filter(|(_, record)| !bucket.is_expired(record, state.now()))
            .map(|(row, record)| (row, record.clone()))
            .collect()
    };
    state.buckets().map(|(_, bucket)| (bucket.id(), rows(bucket))).collect()
}

/// What a disk holds.
#[derive(Default)]
struct DiskModel {
    floors: BTreeMap<BucketId, u64>,
    groups: BTreeMap<(BucketId, u64), StoredGroup>,
}

impl DiskModel {
    fn write(&mut self, update: HistoryUpdate) {
        self.floors.extend(update.floors);
        for key in update.forgotten {
            assert!(self.groups.remove(&key).is_some(), "{key:?} was not there");
        }
        for group in update.groups {
            let last = group.commits.last().unwrap().seq;
            assert!(self.groups.insert((group.bucket, last), group).is_none());
        }
    }

    fn read(&mut self, state: &State) -> Vec<StoredHistory> {
        self.floors.retain(|bucket, _| state.bucket_by_id(*bucket).is_some());
        self.groups.retain(|(bucket, _), _| state.bucket_by_id(*bucket).is_some());
        let groups = |of: &BucketId| {
            let of_bucket = self.groups.iter().filter(|((bucket, _), _)| bucket == of);
            of_bucket.map(|(_, group)| group.clone()).collect()
        };
        let history = |(bucket, floor): (&BucketId, &u64)| StoredHistory {
            bucket: *bucket,
            floor: *floor,
            groups: groups(bucket),
        };
        self.floors.iter().map(history).collect()
    }
}

struct World {
    limits: HistoryLimits,
    now: Timestamp,
    working: State,
    published: State,
    effects: Effects,
    history: History,
    disk: DiskModel,
    past: Vec<(u64, BTreeMap<BucketId, Rows>)>,
    /// The last commit at which a bucket was replaced.
    replaced: BTreeMap<BucketId, u64>,
}

impl World {
    fn new(limits: HistoryLimits) -> Self {
        let state = State::default();
        let mut world = Self {
            limits,
            now: 1_000,
            history: History::new(limits, &state, true),
            working: state.clone(),
            published: state,
            effects: Effects::default(),
            disk: DiskModel::default(),
            past: Vec::new(),
            replaced: BTreeMap::new(),
        };
        for bucket in 0..3 {
            world.apply(Operation::DefineBucket {
                name: name(bucket),
                definition: definition(bucket),
            });
        }
        world.end_group();
        world
    }

    fn apply(&mut self, operation: Operation) {
        // What is refused leaves no trace.
        let _ = apply(&mut self.working, &Command::new(self.now, [7; 32], operation), &mut self.effects);
    }

    fn end_group(&mut self) {
        let effects = std::mem::take(&mut self.effects);
        if effects.changes.is_empty() && !effects.catalog_changed {
            return;
        }
        let after = self.working.clone();
        let visible = Visible::of(&effects, &self.published, &after);
        let update = self.history.record(&visible, &effects, &self.published, &after);
        self.disk.write(update);
        for replaced in &visible.replaced {
            self.replaced
                .extend(after.bucket_id(replaced.name.as_str()).map(|id| (id, after.seq())));
        }
        self.check_net(&visible, &after);
        self.published = after;
        self.past.push((self.published.seq(), seen(&self.published)));
    }

    /// The changes of the group lead from what was seen before it to what is seen after it.
    fn check_net(&self, visible: &Visible, after: &State) {
        let replaced: Vec<_> = visible.replaced.iter().filter_map(|it| after.bucket_id(it.name.as_str())).collect();
        let mut buckets = seen(&self.published);
        for change in visible.net() {
            let rows = buckets.entry(change.bucket).or_default();
            if after.bucket_by_id(change.bucket).is_some() && !replaced.contains(&change.bucket) {
                assert_eq!(rows.get(&change.row), change.old.as_ref());
            }
            match &change.new {
                Some(new) => drop(rows.insert(change.row, new.clone())),
                None => drop(rows.remove(&change.row)),
            }
        }
        for (bucket, rows) in seen(after).iter().filter(|(bucket, _)| !replaced.contains(bucket)) {
            assert_eq!(buckets.get(bucket), Some(rows));
        }
    }

    fn check(&self) {
        let until = self.published.seq();
        let now = seen(&self.published);
        for (bucket, rows) in &now {
            let Ok(all) = self.history.since(*bucket, self.history.rings[bucket].floor(), until) else {
                panic!("a history does not reach back to its floor");
            };
            let changes: Vec<_> = all.flat_map(|entry| &entry.changes).collect();
            assert!(changes.len() <= self.limits.max_changes);
            assert!(self.history.rings[bucket].bytes() <= self.limits.max_bytes);
            for (seq, past) in &self.past {
                let replaced = self.replaced.get(bucket).is_some_and(|at| at > seq);
                match self.history.since(*bucket, *seq, until) {
                    Ok(entries) => {
                        let Some(expected) = past.get(bucket) else {
                            panic!("a history reaches back beyond its bucket")
                        };
                        assert!(!replaced, "the history reaches back beyond a replacement");
                        let mut rows = rows.clone();
                        for change in entries.rev().flat_map(|entry| entry.changes.iter().rev()) {
                            assert_eq!(rows.get(&change.row), change.new.as_ref());
                            match &change.old {
                                Some(old) => drop(rows.insert(change.row, old.clone())),
                                None => drop(rows.remove(&change.row)),
                            }
                        }
                        assert_eq!(&rows, expected, "bucket {bucket:?} at {seq}");
                        self.check_before(*bucket, *seq, &rows);
                    }
                    Err(oldest) => {
                        assert!(oldest > *seq);
                        let bounded = self.limits != HistoryLimits::default();
                        assert!(bounded || replaced || !past.contains_key(bucket), "forgotten without need");
                    }
                }
            }
        }
        let bytes: usize = self.history.rings.values().map(Ring::bytes).sum();
        assert_eq!(bytes, self.history.bytes);
        assert!(bytes <= self.limits.max_total_bytes);
        assert_eq!(self.history.rings.len(), now.len());
    }

    fn check_before(&self, bucket: BucketId, seq: u64, then: &Rows) {
        let before = self.history.before(bucket, seq, self.published.seq()).unwrap();
        for (row, record) in &before {
            assert_eq!(record.as_ref(), then.get(row));
        }
    }

    /// What is on disk gives the same history again.
    fn reopen(&mut self) {
        let stored = self.disk.read(&self.published);
        let restored = History::restore(self.limits, &self.published, stored).unwrap();
        for (bucket, ring) in &self.history.rings {
            let again = &restored.rings[bucket];
            assert_eq!(again.floor(), ring.floor());
            let entries = |ring: &Ring| ring.since(ring.floor(), u64::MAX).ok().unwrap().cloned().collect::<Vec<_>>();
            assert_eq!(entries(again), entries(ring));
            assert_eq!(
                (again.bytes(), again.changes(), &again.stored),
                (ring.bytes(), ring.changes(), &ring.stored)
            );
        }
        self.history = restored;
        self.working = self.published.clone();
        self.effects = Effects::default();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_past_comes_back_as_it_was_seen(moves in moves(), bounded in any::<bool>()) {
        let mut world = World::new(if bounded { SMALL } else { HistoryLimits::default() });
        for one in moves {
            match &one {
                Move::Pass(ms) => world.now += ms,
                Move::EndGroup => world.end_group(),
                Move::Reopen => world.reopen(),
                Move::Put(..) | Move::Delete(..) | Move::Clear(_) | Move::Several(_) | Move::Expire | Move::Mortal(_) | Move::Renew(_) => {
                    operations(&one).into_iter().for_each(|operation| world.apply(operation));
                }
            }
            world.check();
        }
        world.end_group();
        world.check();
        world.reopen();
        world.check();
    }
}

#[test]
fn without_room_for_changes_nothing_is_known_but_that_nothing_happened() {
    let limits = HistoryLimits {
        max_changes: 0,
        ..HistoryLimits::default()
    };
    let mut world = World::new(limits);
    for key in 0..3 {
        world.apply(operations(&Move::Put(0, key, 1)).remove(0));
        world.end_group();
        world.check();
    }
    let (bucket, seq) = (world.published.bucket_id("b0").unwrap(), world.published.seq());
    assert_eq!(world.history.since(bucket, seq - 1, seq).err(), Some(seq));
    assert_eq!(world.history.since(bucket, seq, seq).unwrap().count(), 0);
    assert!(world.disk.groups.is_empty());
}

#[test]
fn a_commit_that_is_too_large_empties_the_history_of_its_bucket_alone() {
    let mut world = World::new(SMALL);
    for bucket in [0, 1] {
        world.apply(operations(&Move::Put(bucket, 1, 1)).remove(0));
        world.end_group();
    }
    let before = world.published.seq();
    world.apply(operations(&Move::Several((1..6).map(|key| (0, key, key > 1)).collect())).remove(0));
    world.end_group();
    world.check();
    let of = |bucket: &str| world.published.bucket_id(bucket).unwrap();
    assert_eq!(world.history.since(of("b0"), before, before + 1).err(), Some(before + 1));
    assert_eq!(world.history.since(of("b1"), before - 1, before + 1).unwrap().count(), 1);
}

#[test]
fn the_largest_history_makes_room_for_all() {
    let limits = HistoryLimits {
        max_total_bytes: 4_000,
        ..HistoryLimits::default()
    };
    let mut world = World::new(limits);
    world.apply(operations(&Move::Put(1, 0, 10)).remove(0));
    world.end_group();
    let start = world.published.seq();
    for _ in 0..60 {
        world.apply(operations(&Move::Put(0, 0, 100)).remove(0));
        world.end_group();
        world.check();
    }
    let until = world.published.seq();
    let of = |bucket: &str| world.published.bucket_id(bucket).unwrap();
    assert!(world.history.since(of("b0"), start, until).is_err());
    assert!(world.history.since(of("b0"), until - 8, until).is_ok());
    assert!(world.history.since(of("b1"), start - 1, until).is_ok(), "the small one stays whole");
}

#[test]
fn a_history_that_does_not_fit_its_records_is_refused() {
    let mut world = World::new(HistoryLimits::default());
    world.apply(operations(&Move::Put(0, 0, 1)).remove(0));
    world.end_group();
    world.apply(operations(&Move::Delete(0, 0)).remove(0));
    world.end_group();
    let stored = world.disk.read(&world.published);
    let restore = |stored: Vec<StoredHistory>| History::restore(world.limits, &world.published, stored);
    assert!(restore(stored.clone()).is_ok());
    type Damage = fn(&mut StoredHistory);
    let damages: [Damage; 4] = [
        |history| history.floor = 1_000,
        |history| drop(history.groups.pop()),
        |history| history.groups.reverse(),
        |history| history.groups[1].commits[0].seq = 1_000,
    ];
    for (at, damage) in damages.into_iter().enumerate() {
        let mut stored = stored.clone();
        damage(stored.iter_mut().find(|history| !history.groups.is_empty()).unwrap());
        assert!(restore(stored).is_err(), "damage {at}");
    }
}
