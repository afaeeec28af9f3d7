//! The store actor: orders every mutation and owns durability and the live views.
//!
//! It takes all operations that wait as one commit group, applies them to the working state, and hands the group
//! to the disk thread. While that one writes, the next group is being applied. Only when a group is durable its
//! state is published, then its answers are given, then its live views follow. So nobody is ever shown what a
//! crash could take back, and a push never comes before the answer to the request that caused it.
//!
//! When the disk fails, the working state goes back to what was published, writes are refused from then on, and
//! reads go on. The actor is not restarted for it: a restart would not mend the disk.

use std::collections::HashSet;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use tokio::sync::oneshot;

use super::StoreError;
use super::command::{Command, Operation};
use super::commit_group::CommitGroup;
use super::disk::{Disk, DiskReport};
use super::feeds::{FeedPlan, Feeds, Missed};
use super::history::History;
use super::inbox::Submitted;
use super::long_work::in_place;
use super::shared::Shared;
use super::state::{Change, Effects, RequestKey, State, Timestamp, apply};
use super::subscription::{Fed, Watched};
use super::views::{Blueprint, Built, Sink, Views};
use super::visible::Visible;
use crate::protocol::{BucketName, Cursor, Number, SubscriptionId};

/// A view that looks at more rows than this is evaluated away from the actor.
const INLINE_ROWS_MAX: usize = 2_000;

/// A view that is being evaluated while more changes than this come in is evaluated by the actor instead.
const CATCH_UP_MAX: usize = 100_000;

/// What the actor is told.
pub(super) enum StoreMessage {
    /// Operations wait in the inbox.
    Wake,
    /// The disk thread has something to say.
    Disk(DiskReport),
    /// Somebody wants to watch a query.
    Subscribe(Box<Watch>),
    /// Somebody wants to follow a bucket.
    Follow(Box<Follow>),
    /// Somebody no longer wants to.
    Unsubscribe(SubscriptionId),
    /// A view was evaluated.
    Built(BuildId, Box<Result<Built, StoreError>>),
    /// Finish what was begun, write everything, stop.
    Close(oneshot::Sender<Result<(), StoreError>>),
}

/// Who wants to watch what.
pub(super) struct Watch {
    pub(super) blueprint: Blueprint,
    pub(super) id: SubscriptionId,
    pub(super) sink: Arc<dyn Sink>,
    /// The commit up to which it has watched before.
    pub(super) since: Option<u64>,
    pub(super) reply: oneshot::Sender<Result<Watched, StoreError>>,
}

/// Who wants to follow what.
pub(super) struct Follow {
    pub(super) plan: FeedPlan,
    pub(super) id: SubscriptionId,
    pub(super) sink: Arc<dyn Sink>,
    /// How far it has followed before.
    pub(super) since: Option<Cursor>,
    pub(super) reply: oneshot::Sender<Result<Fed, StoreError>>,
}

/// Names one evaluation of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BuildId(u64);

/// A view that is being evaluated, and what has happened since it began.
struct Building {
    id: BuildId,
    blueprint: Blueprint,
    waiting: Vec<Watch>,
    since: Vec<Change>,
    /// Its bucket was emptied, dropped or changed too much: what is being evaluated will be of no use.
    stale: bool,
}

/// What the actor starts from.
pub(super) struct StoreArguments {
    pub(super) shared: Arc<Shared>,
    pub(super) disk: Option<Disk>,
    pub(super) history: History,
    pub(super) seeds: ChaCha8Rng,
}

/// The actor's own state.
pub(super) struct StoreState {
    shared: Arc<Shared>,
    /// The state with everything applied, durable or not.
    working: State,
    open: CommitGroup,
    in_flight: Option<InFlight>,
    disk: Option<Disk>,
    /// What happened of late, the group on its way to disk included.
    history: History,
    views: Views,
    feeds: Feeds,
    building: Vec<Building>,
    builds: u64,
    seeds: ChaCha8Rng,
    /// Until then, records that are kept past their time are left alone.
    next_expiry_try: Timestamp,
    failed: Option<StoreError>,
    closed: bool,
    closing: Vec<oneshot::Sender<Result<(), StoreError>>>,
}

/// A group on its way to disk.
struct InFlight {
    group: CommitGroup,
    visible: Visible,
    state: State,
}

/// See the module's page.
pub(super) struct StoreActor;

impl Actor for StoreActor {
    type Msg = StoreMessage;
    type State = StoreState;
    type Arguments = StoreArguments;

    async fn pre_start(&self, _: ActorRef<StoreMessage>, arguments: StoreArguments) -> Result<StoreState, ActorProcessingErr> {
        let StoreArguments {
            shared,
            disk,
            history,
            seeds,
        } = arguments;
        let limits = shared.limits.history;
        Ok(StoreState {
            feeds: Feeds::new(limits.max_changes, limits.max_bytes),
            working: State::clone(&shared.published()),
            shared,
            open: CommitGroup::default(),
            in_flight: None,
            disk,
            history,
            views: Views::default(),
            building: Vec::new(),
            builds: 0,
            seeds,
            next_expiry_try: 0,
            failed: None,
            closed: false,
            closing: Vec::new(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<StoreMessage>,
        message: StoreMessage,
        state: &mut StoreState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            StoreMessage::Wake => state.apply_waiting(),
            StoreMessage::Disk(report) => state.disk_reported(report),
            StoreMessage::Subscribe(watch) => state.subscribe(*watch, &myself),
            StoreMessage::Follow(follow) => state.follow_bucket(*follow),
            StoreMessage::Unsubscribe(id) => state.unsubscribe(id),
            StoreMessage::Built(id, built) => state.built(id, *built),
            StoreMessage::Close(reply) => state.close(reply),
        }
        if state.is_finished() {
            myself.stop(None);
        }
        Ok(())
    }
}

impl StoreState {
    fn apply_waiting(&mut self) {
        if self.in_flight.is_some() && self.open.len() >= self.shared.limits.max_pending_commands {
            // The disk is slow: what waits stays in the inbox, which has a limit, until the group is through.
            return;
        }
        let waiting = self.shared.inbox.take();
        if let Some(error) = &self.failed {
            for submitted in waiting {
                let _ = submitted.reply.send(Err(error.clone()));
            }
            return;
        }
        let now = self.shared.now().max(self.working.now());
        self.expire(now);
        if waiting.iter().any(|submitted| submitted.operation.may_take_long()) {
            in_place(|| self.apply_all(now, waiting));
        } else {
            self.apply_all(now, waiting);
        }
        self.flush();
    }

    fn apply_all(&mut self, now: Timestamp, waiting: Vec<Submitted>) {
        for Submitted { operation, request, reply } in waiting {
            let limits = &self.shared.limits.command.requests;
            // What a repeat asks for is there already, and counts.
            let is_repeat = request
                .as_ref()
                .is_some_and(|request| self.working.requests().holds(request, limits, now));
            let allowed = if is_repeat { Ok(()) } else { self.check_limits(&operation) };
            let answer = allowed.and_then(|()| self.apply(now, operation, request));
            self.open.answer_later(reply, answer);
        }
    }

    fn apply(&mut self, now: Timestamp, operation: Operation, request: Option<RequestKey>) -> Result<super::Outcome, StoreError> {
        let mut seed = [0; 32];
        self.seeds.fill_bytes(&mut seed);
        let limits = self.shared.limits.command;
        apply(
            &mut self.working,
            &Command {
                now,
                seed,
                limits,
                request,
                operation,
            },
            self.open.effects_mut(),
        )
    }

    /// Removes what has had its time before anything else happens at this time. Records that are still referred to
    /// stay; they are tried again now and then, not with every group.
    fn expire(&mut self, now: Timestamp) {
        if now < self.next_expiry_try || self.working.next_expiry().is_none_or(|end| end > Number::from(now)) {
            return;
        }
        // An expiry cannot be refused: what is still referred to simply stays.
        let _ = in_place(|| self.apply(now, Operation::Expire, None));
        if self.working.next_expiry().is_some_and(|end| end <= Number::from(now)) {
            let retry_ms = u64::try_from(self.shared.limits.ttl_check_interval.as_millis()).unwrap_or(u64::MAX);
            self.next_expiry_try = now.saturating_add(retry_ms.max(1));
        }
    }

    fn check_limits(&self, operation: &Operation) -> Result<(), StoreError> {
        let limits = &self.shared.limits;
        let defines_bucket = matches!(operation, Operation::DefineBucket { .. });
        let defines_query = matches!(operation, Operation::DefineQuery { .. } | Operation::DefineClosure { .. });
        let over = |what: &str, max: usize| Err(StoreError::LimitExceeded(format!("The limit of {max} {what} is reached")));
        if defines_bucket && self.working.bucket_names().len() >= limits.max_buckets {
            return over("buckets", limits.max_buckets);
        }
        if defines_query && self.working.queries().len() >= limits.max_queries {
            return over("queries", limits.max_queries);
        }
        Ok(())
    }

    /// Sends the open group on its way, where none is.
    fn flush(&mut self) {
        if self.in_flight.is_some() || self.open.is_empty() {
            return;
        }
        let mut group = std::mem::take(&mut self.open);
        if !group.has_effects() {
            // Nothing changed since the last group, and that one is published.
            group.answer();
            return;
        }
        let state = self.working.clone();
        let before = self.shared.published();
        let visible = Visible::of(group.effects(), &before, &state);
        // Remembered already now, since it goes to disk with the group; it is read only up to what is published.
        let history = self.history.record(&visible, group.effects(), &before, &state);
        let batch = self
            .disk
            .as_ref()
            .map(|_| group.to_batch(&state, &visible.stored(group.effects()), history));
        let in_flight = InFlight { group, visible, state };
        match (&self.disk, batch) {
            (Some(disk), Some(batch)) => {
                if disk.append(batch) {
                    self.in_flight = Some(in_flight);
                } else {
                    self.in_flight = Some(in_flight);
                    self.fail("the disk thread has stopped".to_owned());
                }
            }
            _ => self.publish(in_flight),
        }
    }

    fn disk_reported(&mut self, report: DiskReport) {
        match report {
            DiskReport::Appended => {
                if let Some(in_flight) = self.in_flight.take() {
                    self.publish(in_flight);
                }
                self.apply_waiting();
            }
            DiskReport::Failed(reason) => self.fail(reason),
            DiskReport::Closed => {
                self.disk = None;
                for reply in self.closing.drain(..) {
                    let _ = reply.send(Ok(()));
                }
            }
        }
        self.close_disk_when_done();
    }

    /// Makes a durable group visible: the state first, then the answers, then the live views.
    fn publish(&mut self, in_flight: InFlight) {
        let InFlight { mut group, visible, state } = in_flight;
        let before = self.shared.published();
        self.shared.publish(state.clone());
        group.answer();
        if visible.net().len() > INLINE_ROWS_MAX {
            in_place(|| self.follow(&group, &visible, &before, &state));
        } else {
            self.follow(&group, &visible, &before, &state);
        }
    }

    /// Brings the live views up to a group that was published, and tells the listeners.
    fn follow(&mut self, group: &CommitGroup, visible: &Visible, before: &State, state: &State) {
        let effects = group.effects();
        let changes = visible.net();
        let replaced: HashSet<_> = effects.emptied.iter().map(|(name, ..)| name).chain(&effects.redefined).collect();
        self.refuse_stale_builds(effects, state);
        for building in &mut self.building {
            building.note(
                changes,
                state,
                replaced.iter().copied().chain(effects.dropped.iter().map(|(name, _)| name)),
            );
        }
        // A bucket that is looked at anew needs no changes on top: a view has one result for each commit that is named.
        let is_looked_at_anew = |change: &Change| {
            let bucket = state.bucket_by_id(change.bucket);
            bucket.is_some_and(|bucket| replaced.contains(bucket.name()) || effects.dropped.iter().any(|(name, _)| name == bucket.name()))
        };
        if replaced.is_empty() && effects.dropped.is_empty() {
            self.views.follow(changes, state);
        } else {
            let followed: Vec<_> = changes.iter().filter(|change| !is_looked_at_anew(change)).cloned().collect();
            self.views.follow(&followed, state);
        }
        let is_dropped = |name: &&BucketName| effects.dropped.iter().any(|(dropped, _)| dropped == *name);
        let replaced = replaced.into_iter().filter(|name| !is_dropped(name));
        for name in replaced.filter(|name| state.bucket_id(name.as_str()).is_some()) {
            self.views.reset(name, state);
        }
        for (name, _) in &effects.dropped {
            if state.bucket_id(name.as_str()).is_none() {
                self.views.bucket_dropped(name);
            } else {
                self.views.bucket_replaced(name, state);
            }
        }
        for name in &effects.undefined {
            self.views.query_removed(name);
        }
        self.feeds.follow(visible, before, state);
        for (_, old, _) in &effects.emptied {
            self.shared.announce_emptied(*old, before, state);
        }
        self.shared.announcer.announce(changes, before, state);
        self.shared.set_next_expiry(state.next_expiry());
        self.shared.set_view_counters(self.views.counters());
    }

    /// Tells those who wait for a view of a query that was removed meanwhile, or within a guard that means something else
    /// by now.
    fn refuse_stale_builds(&mut self, effects: &Effects, state: &State) {
        if effects.undefined.is_empty() && effects.dropped.is_empty() {
            return;
        }
        for building in self
            .building
            .extract_if(.., |building| building.blueprint.check_current(state).is_err())
        {
            for watch in building.waiting {
                let _ = watch.reply.send(Err(StoreError::QueryNotDefined(watch.blueprint.query().clone())));
            }
        }
    }

    /// Goes back to what is durable and stays there.
    fn fail(&mut self, reason: String) {
        tracing::error!(%reason, "the store cannot write: it refuses writes from now on, reads go on");
        let error = StoreError::StorageUnavailable { reason };
        self.working = State::clone(&self.shared.published());
        self.shared.inbox.close(error.clone());
        if let Some(in_flight) = self.in_flight.take() {
            in_flight.group.refuse(&error);
        }
        std::mem::take(&mut self.open).refuse(&error);
        for submitted in self.shared.inbox.take() {
            let _ = submitted.reply.send(Err(error.clone()));
        }
        for reply in self.closing.drain(..) {
            let _ = reply.send(Err(error.clone()));
        }
        self.disk = None;
        self.failed = Some(error);
    }

    fn subscribe(&mut self, watch: Watch, myself: &ActorRef<StoreMessage>) {
        let state = self.shared.published();
        if let Err(error) = watch.blueprint.check_current(&state) {
            let _ = watch.reply.send(Err(error));
            return;
        }
        if self.views.holds(&watch.blueprint) {
            self.answer_watch(watch);
            return;
        }
        if let Some(building) = self
            .building
            .iter_mut()
            .find(|building| building.blueprint.key() == watch.blueprint.key())
        {
            building.waiting.push(watch);
            return;
        }
        self.views.count_evaluations(1, 0);
        if watch.blueprint.cost(&state) <= INLINE_ROWS_MAX {
            match watch.blueprint.build(&state) {
                Ok(built) => {
                    self.views.adopt(&watch.blueprint, built);
                    self.answer_watch(watch);
                }
                Err(error) => {
                    let _ = watch.reply.send(Err(error));
                }
            }
            return;
        }
        self.builds += 1;
        let id = BuildId(self.builds);
        let blueprint = watch.blueprint.clone();
        self.building.push(Building {
            id,
            blueprint: blueprint.clone(),
            waiting: vec![watch],
            since: Vec::new(),
            stale: false,
        });
        let myself = myself.clone();
        tokio::task::spawn_blocking(move || {
            let built = blueprint.build(&state);
            // Without the actor there is nobody left to tell.
            let _ = myself.cast(StoreMessage::Built(id, Box::new(built)));
        });
    }

    fn built(&mut self, id: BuildId, built: Result<Built, StoreError>) {
        let Some(at) = self.building.iter().position(|building| building.id == id) else {
            return;
        };
        let building = self.building.swap_remove(at);
        let state = self.shared.published();
        let mut reevaluations = 0;
        let current = if building.stale {
            reevaluations += 1;
            in_place(|| building.blueprint.build(&state))
        } else {
            built.and_then(|mut built| built.catch_up(&building.since, &state, &mut reevaluations).map(|()| built))
        };
        self.views.count_evaluations(0, reevaluations);
        match current {
            Ok(view) => {
                self.views.adopt(&building.blueprint, view);
                for watch in building.waiting {
                    self.answer_watch(watch);
                }
                self.views.drop_if_unwatched(building.blueprint.key());
            }
            Err(error) => {
                for watch in building.waiting {
                    let _ = watch.reply.send(Err(error.clone()));
                }
            }
        }
    }

    fn answer_watch(&mut self, watch: Watch) {
        let Watch {
            blueprint,
            id,
            sink,
            since,
            reply,
        } = watch;
        let Some(result) = self.views.subscribe(&blueprint, id, sink) else {
            return;
        };
        let state = self.shared.published();
        let seq = state.seq();
        let resumed = since
            .filter(|since| *since <= seq)
            .and_then(|since| self.views.resume(&blueprint, since, &self.history, &state));
        // Before the answer: whoever has it and asks for the statistics finds the view in them.
        self.shared.set_view_counters(self.views.counters());
        if reply.send(Ok(Watched { result, seq, resumed })).is_err() {
            // Whoever asked is gone already.
            self.unsubscribe(id);
        }
    }

    fn follow_bucket(&mut self, follow: Follow) {
        let Follow {
            plan,
            id,
            sink,
            since,
            reply,
        } = follow;
        let fed = match since {
            // What was missed may be long.
            Some(_) => in_place(|| self.feed(&plan, id, sink, since)),
            None => self.feed(&plan, id, sink, since),
        };
        let fed_somebody = fed.is_ok();
        if reply.send(fed).is_err() && fed_somebody {
            // Whoever asked is gone already.
            self.feeds.remove(id);
        }
    }

    fn feed(&mut self, plan: &FeedPlan, id: SubscriptionId, sink: Arc<dyn Sink>, since: Option<Cursor>) -> Result<Fed, StoreError> {
        let state = self.shared.published();
        let bucket = state.bucket(plan.bucket().as_str())?;
        plan.check_current(bucket)?;
        let (scope, seq) = (plan.scope(), state.seq());
        let too_old = |oldest: u64| StoreError::CursorTooOld {
            oldest: scope.at(oldest.min(seq)),
        };
        let missed = |cursor: Cursor| Missed {
            // A cursor of something else says nothing: the answer is how far back the history reaches.
            since: if cursor.scope == scope && cursor.seq <= seq {
                cursor.seq
            } else {
                0
            },
            until: seq,
            bucket,
            history: &self.history,
        };
        let backlog = self.feeds.add(plan, id, sink, since.map(missed)).map_err(too_old)?;
        Ok(Fed { seq, backlog })
    }

    fn unsubscribe(&mut self, id: SubscriptionId) {
        for building in &mut self.building {
            building.waiting.retain(|watch| watch.id != id);
        }
        self.views.unsubscribe(id);
        self.feeds.remove(id);
        self.shared.set_view_counters(self.views.counters());
    }

    fn close(&mut self, reply: oneshot::Sender<Result<(), StoreError>>) {
        self.apply_waiting();
        self.shared.inbox.close(StoreError::Closed);
        self.closed = true;
        match &self.failed {
            Some(error) => {
                let _ = reply.send(Err(error.clone()));
            }
            None => self.closing.push(reply),
        }
        self.close_disk_when_done();
    }

    /// Once everything is on disk, has the disk closed; without one, that is all.
    fn close_disk_when_done(&mut self) {
        if self.closing.is_empty() || self.in_flight.is_some() || !self.open.is_empty() {
            return;
        }
        match &self.disk {
            Some(disk) => disk.close(),
            None => {
                for reply in self.closing.drain(..) {
                    let _ = reply.send(Ok(()));
                }
            }
        }
    }

    fn is_finished(&self) -> bool {
        self.closed && self.closing.is_empty() && self.disk.is_none()
    }
}

impl Drop for StoreState {
    /// However the actor ends, also by a panic: nobody is left waiting.
    fn drop(&mut self) {
        self.shared.inbox.close(StoreError::Closed);
        for submitted in self.shared.inbox.take() {
            let _ = submitted.reply.send(Err(StoreError::Closed));
        }
    }
}

impl Building {
    /// Notes what happened to the bucket while the view is being evaluated.
    fn note<'n>(&mut self, changes: &[Change], state: &State, mut replaced: impl Iterator<Item = &'n crate::protocol::BucketName>) {
        if replaced.any(|name| self.blueprint.reads(name)) {
            self.stale = true;
        }
        let concerned = |change: &&Change| {
            state
                .bucket_by_id(change.bucket)
                .is_some_and(|bucket| self.blueprint.reads(bucket.name()))
        };
        self.since.extend(changes.iter().filter(concerned).cloned());
        if self.since.len() > CATCH_UP_MAX {
            self.since = Vec::new();
            self.stale = true;
        }
    }
}
