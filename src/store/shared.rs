//! What the store's handles and its actor share.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::events::Announcer;
use super::inbox::Inbox;
use super::state::{BucketId, Change, State, Timestamp};
use super::views::ViewCounters;
use super::{Clock, StoreLimits};
use crate::protocol::Number;

/// What tells one opening of a store from another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    /// Whether it is on disk.
    pub(super) persistent: bool,
    /// Names the order of commits that cursors refer to.
    pub(super) epoch: u64,
    /// Another number at every opening.
    pub(super) life: u64,
}

/// What the store's handles and its actor share.
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) inbox: Inbox,
    pub(super) limits: StoreLimits,
    pub(super) announcer: Announcer,
    pub(super) persistent: bool,
    pub(super) epoch: u64,
    /// Another number at every opening.
    pub(super) life: u64,
    published: ArcSwap<State>,
    clock: Clock,
    next_expiry: watch::Sender<Option<Number>>,
    view_counters: Mutex<ViewCounters>,
}

impl Shared {
    pub(super) fn new(name: String, state: State, limits: StoreLimits, clock: Clock, identity: Identity) -> Self {
        let Identity { persistent, epoch, life } = identity;
        let next_expiry = watch::Sender::new(state.next_expiry());
        Self {
            name,
            inbox: Inbox::new(limits.max_pending_commands),
            limits,
            announcer: Announcer::new(),
            persistent,
            epoch,
            life,
            published: ArcSwap::from_pointee(state),
            clock,
            next_expiry,
            view_counters: Mutex::default(),
        }
    }

    /// The newest durable state.
    pub(super) fn published(&self) -> Arc<State> {
        self.published.load_full()
    }

    pub(super) fn publish(&self, state: State) {
        self.published.store(Arc::new(state));
    }

    /// The time, in milliseconds since 1970.
    pub(super) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// The time as readers see it: never before that of the newest durable commit.
    pub(super) fn read_time(&self) -> Timestamp {
        self.now().max(self.published.load().now())
    }

    /// When the next record ends: what the timer waits for.
    pub(super) fn next_expiry(&self) -> watch::Receiver<Option<Number>> {
        self.next_expiry.subscribe()
    }

    pub(super) fn set_next_expiry(&self, next: Option<Number>) {
        self.next_expiry
            .send_if_modified(|current| std::mem::replace(current, next) != next);
    }

    pub(super) fn view_counters(&self) -> ViewCounters {
        *self.view_counters.lock()
    }

    pub(super) fn set_view_counters(&self, counters: ViewCounters) {
        *self.view_counters.lock() = counters;
    }

    /// Tells listeners of every record of a bucket that was emptied as a whole.
    pub(super) fn announce_emptied(&self, old: BucketId, before: &State, after: &State) {
        if !self.announcer.has_listeners() {
            return;
        }
        let Some(bucket) = before.bucket_by_id(old) else { return };
        let gone = |(row, record): (super::state::RowId, &crate::protocol::Record)| Change {
            bucket: old,
            row,
            old: Some(record.clone()),
            new: None,
        };
        let changes: Vec<_> = bucket.all_rows().map(gone).collect();
        self.announcer.announce(&changes, before, after);
    }
}
