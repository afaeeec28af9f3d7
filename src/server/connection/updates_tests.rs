//! What waits for a slow client, against what happened.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::updates::{HeldLimits, Updates};
use crate::protocol::SubscriptionId;
use crate::store::{ChangeSet, EndReason, StoreError, Update};

const LIMITS: HeldLimits = HeldLimits {
    changes_max: 4,
    bytes_max: 100,
};

fn set(seq: u64, count: usize, bytes: usize) -> Update {
    Update::Changes(Arc::new(ChangeSet::new(seq, count, Bytes::from(vec![b'x'; bytes]))))
}

fn state(text: &str) -> Update {
    Update::Failed(StoreError::QueryFailed(text.to_owned()))
}

/// An update in a few letters.
fn shown(update: &Update) -> String {
    match update {
        Update::Result(_) => "result".to_owned(),
        Update::Failed(StoreError::QueryFailed(text)) => text.clone(),
        Update::Failed(error) => error.to_string(),
        Update::Changes(set) => format!("set {}", set.seq()),
        Update::Missed { changes, seq } => format!("missed {changes} to {seq}"),
        Update::Ended(_) => "end".to_owned(),
    }
}

fn drain(updates: &mut Updates) -> Vec<String> {
    std::iter::from_fn(|| updates.pop()).map(|(_, update)| shown(&update)).collect()
}

/// What is left of the updates of one subscription.
fn check(inserted: impl IntoIterator<Item = Update>, expected: &[&str]) {
    let mut updates = Updates::new(LIMITS);
    let id = SubscriptionId::next();
    for update in inserted {
        updates.insert(id, update);
    }
    assert_eq!(drain(&mut updates), expected);
    assert!(updates.is_empty());
}

#[test]
fn of_states_only_the_newest_waits_and_nothing_follows_an_end() {
    check([state("old"), state("new")], &["new"]);
    check([state("old"), Update::Ended(EndReason::BucketDropped), state("late")], &["end"]);
}

#[test]
fn every_set_of_changes_counts_and_the_end_comes_last() {
    let end = Update::Ended(EndReason::BucketDropped);
    check([set(1, 1, 5), set(2, 3, 5), end.clone(), set(3, 1, 5)], &["set 1", "set 2", "end"]);
    check((1..=5).map(|seq| set(seq, 2, 5)).chain([end]), &["missed 8 to 4", "set 5", "end"]);
}

#[test]
fn a_queue_that_is_full_becomes_one_gap_and_goes_on_behind_it() {
    check((1..=4).map(|seq| set(seq, 2, 5)), &["set 1", "set 2", "set 3", "set 4"]);
    check((1..=6).map(|seq| set(seq, 2, 5)), &["missed 8 to 4", "set 5", "set 6"]);
    check((1..=9).map(|seq| set(seq, 2, 5)), &["missed 16 to 8", "set 9"]);
    // Bytes, and a set that fits nowhere.
    check([set(1, 1, 60), set(2, 1, 40), set(3, 1, 1)], &["missed 2 to 2", "set 3"]);
    check([set(1, 1, 60), set(2, 7, 101), set(3, 1, 1)], &["missed 8 to 2", "set 3"]);
    check([set(1, 7, 101), set(2, 1, 100)], &["missed 7 to 1", "set 2"]);
    // A gap of the store's own making.
    let missed = |changes, seq| Update::Missed { changes, seq };
    check(
        [set(1, 1, 5), missed(4, 3), missed(1, 4), set(5, 1, 5)],
        &["set 1", "missed 5 to 4", "set 5"],
    );
}

#[test]
fn the_bytes_of_all_subscriptions_count_together_and_are_free_again_when_they_are_sent() {
    let mut updates = Updates::new(LIMITS);
    let (first, second) = (SubscriptionId::next(), SubscriptionId::next());
    updates.insert(first, set(1, 1, 90));
    updates.insert(second, set(2, 1, 20));
    assert_eq!(drain(&mut updates), ["set 1", "missed 1 to 2"]);
    updates.insert(second, set(3, 1, 100));
    assert_eq!(drain(&mut updates), ["set 3"]);
}

#[test]
fn a_busy_feed_does_not_starve_the_other_subscriptions() {
    let mut updates = Updates::new(LIMITS);
    let (busy, quiet, view) = (SubscriptionId::next(), SubscriptionId::next(), SubscriptionId::next());
    for seq in 1..=3 {
        updates.insert(busy, set(seq, 1, 5));
    }
    updates.insert(quiet, set(3, 1, 5));
    updates.insert(view, state("view"));
    let order: Vec<_> = std::iter::from_fn(|| updates.pop()).map(|(id, _)| id).collect();
    assert_eq!(order, [busy, quiet, view, busy, busy]);
}

/// What the model knows of one subscription: all that happened and was not told.
#[derive(Default)]
struct Told {
    /// Sets that are not told yet: number, changes.
    sets: VecDeque<(u64, u64)>,
    /// States that are not told yet: the newest tells all.
    states: VecDeque<String>,
    ended: bool,
    end_told: bool,
}

impl Told {
    /// Takes what is sent off what has happened. A set must be the next one; a gap must stand for the next ones.
    fn tell(&mut self, update: &Update) {
        assert!(!self.end_told, "nothing follows the end");
        match update {
            Update::Changes(set) => assert_eq!(self.sets.pop_front(), Some((set.seq(), set.count() as u64))),
            Update::Missed { changes, seq } => {
                let mut sum = 0;
                while let Some((last, count)) = self.sets.pop_front() {
                    sum += count;
                    if last == *seq {
                        break;
                    }
                }
                assert_eq!(sum, *changes);
            }
            Update::Result(_) | Update::Failed(_) => {
                let at = self.states.iter().position(|state| *state == shown(update));
                self.states.drain(..=at.expect("a state that was not told"));
            }
            Update::Ended(_) => {
                assert!(self.ended && self.sets.is_empty());
                self.end_told = true;
            }
        }
    }

    fn has_news(&self) -> bool {
        !self.sets.is_empty() || (!self.states.is_empty() && !self.ended) || (self.ended && !self.end_told)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set { feed: usize, count: usize, bytes: usize },
    State { view: usize },
    End { of: usize },
    Send(usize),
    Absorb,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..2_usize, 1..4_usize, 0..60_usize).prop_map(|(feed, count, bytes)| Step::Set { feed, count, bytes }),
        2 => (2..4_usize).prop_map(|view| Step::State { view }),
        1 => (0..4_usize).prop_map(|of| Step::End { of }),
        3 => (1..4_usize).prop_map(Step::Send),
        3 => Just(Step::Absorb),
    ];
    proptest::collection::vec(step, 0..60)
}

struct World {
    ids: [SubscriptionId; 4],
    /// As in the outbox, and as the connection's own.
    newer: Updates,
    updates: Updates,
    told: BTreeMap<SubscriptionId, Told>,
    seq: u64,
}

impl World {
    fn new() -> Self {
        let ids = [0; 4].map(|_| SubscriptionId::next());
        Self {
            ids,
            newer: Updates::new(LIMITS),
            updates: Updates::new(LIMITS),
            told: ids.into_iter().map(|id| (id, Told::default())).collect(),
            seq: 0,
        }
    }

    fn insert(&mut self, at: usize, update: Update) {
        let id = self.ids[at];
        let told = self.told.get_mut(&id).expect("one of them");
        if told.ended {
            // What comes after an end that was sent is for the session to drop.
            return;
        }
        match &update {
            Update::Changes(set) => told.sets.push_back((set.seq(), set.count() as u64)),
            Update::Ended(_) => told.ended = true,
            Update::Result(_) | Update::Failed(_) | Update::Missed { .. } => told.states.push_back(shown(&update)),
        }
        self.newer.insert(id, update);
    }

    fn send(&mut self) -> Option<SubscriptionId> {
        let (id, update) = self.updates.pop()?;
        let told = self.told.get_mut(&id).expect("one of them");
        if matches!(update, Update::Ended(_)) {
            // Of a view the end takes the place of a state that waits.
            told.states.clear();
        }
        told.tell(&update);
        Some(id)
    }

    fn step(&mut self, step: &Step) {
        self.seq += 1;
        match *step {
            Step::Set { feed, count, bytes } => self.insert(feed, set(self.seq, count, bytes)),
            Step::State { view } => self.insert(view, state(&self.seq.to_string())),
            Step::End { of } => self.insert(of, Update::Ended(EndReason::BucketDropped)),
            Step::Send(count) => {
                for _ in 0..count {
                    self.send();
                }
            }
            Step::Absorb => self.updates.absorb(&mut self.newer),
        }
    }
}

proptest! {
    #[test]
    fn what_is_sent_tells_all_that_happened_in_order(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.updates.absorb(&mut world.newer);
        prop_assert!(world.newer.is_empty());
        // Nobody comes twice while somebody else waits.
        let mut turns = Vec::new();
        while let Some(id) = world.send() {
            if let Some(before) = turns.iter().rposition(|it| *it == id) {
                for (other, told) in &world.told {
                    let came = turns[before..].contains(other) || *other == id;
                    prop_assert!(came || !told.has_news(), "{other} waited while {id} came twice");
                }
            }
            turns.push(id);
        }
        for (id, told) in &world.told {
            prop_assert!(!told.has_news(), "{id} was not told all");
        }
    }

    #[test]
    fn what_waits_is_bounded(steps in steps()) {
        let mut world = World::new();
        for step in steps.iter().filter(|step| !matches!(step, Step::Send(_) | Step::Absorb)) {
            world.step(step);
        }
        let (mut sets, mut bytes) = (BTreeMap::<SubscriptionId, usize>::new(), 0);
        while let Some((id, update)) = world.newer.pop() {
            if let Update::Changes(set) = update {
                *sets.entry(id).or_default() += 1;
                bytes += set.data().len();
            }
        }
        prop_assert!(sets.values().all(|count| *count <= LIMITS.changes_max));
        prop_assert!(bytes <= LIMITS.bytes_max);
    }
}
