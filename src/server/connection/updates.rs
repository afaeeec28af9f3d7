//! Updates that wait to be sent: bounded, in order, each subscription in its turn.
//!
//! Of a result only the newest state is kept. Sets of changes all count: they wait in a queue, and where that is
//! full a gap with its size takes the place of what is dropped.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use crate::protocol::SubscriptionId;
use crate::store::{ChangeSet, Update};

/// How many sets of changes may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldLimits {
    /// Of one subscription.
    pub(crate) changes_max: usize,
    /// Of all subscriptions of a connection together, in bytes.
    pub(crate) bytes_max: usize,
}

impl Default for HeldLimits {
    fn default() -> Self {
        Self {
            changes_max: 1_000,
            bytes_max: 1 << 20,
        }
    }
}

/// What waits for the subscriptions of a connection.
#[derive(Default)]
pub(crate) struct Updates {
    /// Who has something, in the order in which each comes next.
    turns: VecDeque<SubscriptionId>,
    held: HashMap<SubscriptionId, Held>,
    room: Room,
    /// Results that were replaced by newer ones since the last time that somebody asked.
    coalesced: u64,
}

/// What waits for one subscription, in order.
struct Held {
    next: Update,
    /// Empty, but for sets of changes and what follows them.
    later: VecDeque<Update>,
    /// How many of them are sets of changes.
    sets: usize,
}

/// The bytes of all sets that wait, and how many they may be.
#[derive(Default)]
struct Room {
    limits: HeldLimits,
    bytes: usize,
}

impl Updates {
    pub(crate) fn new(limits: HeldLimits) -> Self {
        Self {
            room: Room { limits, bytes: 0 },
            ..Self::default()
        }
    }

    /// Adds `update` behind what waits for the same subscription, or in its place. Nothing follows an end.
    pub(crate) fn insert(&mut self, id: SubscriptionId, update: Update) {
        match self.held.entry(id) {
            Entry::Occupied(mut entry) => {
                let replaced = entry.get_mut().add(update, &mut self.room);
                self.coalesced += u64::from(replaced);
            }
            Entry::Vacant(entry) => {
                entry.insert(Held::new(update, &mut self.room));
                self.turns.push_back(id);
            }
        }
    }

    /// Takes what comes next of the subscription whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<(SubscriptionId, Update)> {
        let id = self.turns.pop_front()?;
        let Entry::Occupied(mut entry) = self.held.entry(id) else {
            return None;
        };
        let update = match entry.get_mut().advance() {
            Some(update) => {
                self.turns.push_back(id);
                update
            }
            None => entry.remove().next,
        };
        self.room.release(&update);
        Some((id, update))
    }

    /// How many results were replaced by newer ones since the last time that this was asked.
    pub(crate) fn take_coalesced(&mut self) -> u64 {
        std::mem::take(&mut self.coalesced)
    }

    /// Moves all of `newer` into this collection.
    pub(crate) fn absorb(&mut self, newer: &mut Self) {
        self.coalesced += newer.take_coalesced();
        if self.is_empty() {
            // The usual case: the two change places and both keep their memory.
            std::mem::swap(self, newer);
            self.coalesced += newer.take_coalesced();
        } else {
            while let Some((id, update)) = newer.pop() {
                self.insert(id, update);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }
}

impl Held {
    fn new(update: Update, room: &mut Room) -> Self {
        let next = room.admit(update);
        Self {
            sets: usize::from(is_set(&next)),
            next,
            later: VecDeque::new(),
        }
    }

    /// Tells whether a result was replaced.
    fn add(&mut self, update: Update, room: &mut Room) -> bool {
        if matches!(self.last(), Update::Ended(_)) {
            return false;
        }
        if let Update::Changes(set) = &update
            && (self.sets >= room.limits.changes_max || !room.fits(set))
        {
            self.drop_changes(room);
        }
        let update = room.admit(update);
        self.sets += usize::from(is_set(&update));
        match (self.last(), update) {
            (Update::Missed { changes, seq }, Update::Missed { changes: more, seq: newer }) => {
                *changes += more;
                *seq = newer;
                false
            }
            (last, update) if is_state(last) && missed_without(&update).is_none() => {
                *last = update;
                true
            }
            (_, update) => {
                self.later.push_back(update);
                false
            }
        }
    }

    fn last(&mut self) -> &mut Update {
        self.later.back_mut().unwrap_or(&mut self.next)
    }

    /// Takes the first update where another one follows it.
    fn advance(&mut self) -> Option<Update> {
        let next = self.later.pop_front()?;
        let first = std::mem::replace(&mut self.next, next);
        self.sets -= usize::from(is_set(&first));
        Some(first)
    }

    /// Puts one gap in the place of all sets and gaps.
    fn drop_changes(&mut self, room: &mut Room) {
        let mut gap = None;
        for update in std::iter::once(&self.next).chain(&self.later) {
            room.release(update);
            if let Some((changes, seq)) = missed_without(update) {
                gap = Some((gap.map_or(0, |(before, _)| before) + changes, seq));
            }
        }
        let Some((changes, seq)) = gap else { return };
        self.sets = 0;
        self.later.retain(|update| missed_without(update).is_none());
        let gap = Update::Missed { changes, seq };
        if missed_without(&self.next).is_some() {
            self.next = gap;
        } else {
            self.later.push_front(gap);
        }
    }
}

impl Room {
    /// One set always fits where no other waits: a large commit is no gap to a client that keeps up.
    fn fits(&self, set: &ChangeSet) -> bool {
        self.bytes == 0 || set.data().len() <= self.limits.bytes_max.saturating_sub(self.bytes)
    }

    /// Counts a set; one for which there is no room becomes a gap.
    fn admit(&mut self, update: Update) -> Update {
        match update {
            Update::Changes(set) if !self.fits(&set) => Update::Missed {
                changes: set.count() as u64,
                seq: set.seq(),
            },
            Update::Changes(set) => {
                self.bytes += set.data().len();
                Update::Changes(set)
            }
            Update::Result(_) | Update::Failed(_) | Update::Missed { .. } | Update::Ended(_) => update,
        }
    }

    fn release(&mut self, update: &Update) {
        if let Update::Changes(set) = update {
            self.bytes -= set.data().len();
        }
    }
}

fn is_set(update: &Update) -> bool {
    matches!(update, Update::Changes(_))
}

/// Whether it tells how things stand, so that a newer one says all.
fn is_state(update: &Update) -> bool {
    matches!(update, Update::Result(_) | Update::Failed(_))
}

/// How many changes are missed without it, and up to which commit.
fn missed_without(update: &Update) -> Option<(u64, u64)> {
    match update {
        Update::Changes(set) => Some((set.count() as u64, set.seq())),
        Update::Missed { changes, seq } => Some((*changes, *seq)),
        Update::Result(_) | Update::Failed(_) | Update::Ended(_) => None,
    }
}
