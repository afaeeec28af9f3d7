//! Following the results of queries: places, opening and ending.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use serde_json::Value;

use super::answer::{Completion, Effect, Handled};
use super::failure::Failure;
use super::store_reads::open_query;
use super::{Call, deny_reserved, fields};
use crate::protocol::{Cursor, CursorScope, ErrorCode, Fields, Number, Operation, SubscriptionId, decode_text, message};
use crate::server::access::{self, Access, Allowed, Scope};
use crate::server::statistics::{Count, Counters};
use crate::store::state::State;
use crate::store::{
    ChangeSet, Delta, Followed, Guard, Sink, Snapshot, StoreError, SubscribeOptions, Subscribed, Subscription, Update, ViewResult,
};

/// The subscriptions of one connection. Dropping them ends them.
pub(super) struct Subscriptions {
    active: HashMap<SubscriptionId, Active>,
    /// Followers that are to be told of what they have missed.
    behind: VecDeque<SubscriptionId>,
    /// That subscriptions have ended by a loss of rights.
    notices: VecDeque<Vec<u8>>,
    /// Their number, and of those that are being opened. Others look at it.
    taken: Arc<AtomicUsize>,
}

/// A subscription that is going on: dropping it ends it and frees its place.
struct Active {
    origin: Origin,
    scope: CursorScope,
    form: Form,
    /// The client was told last that the evaluation fails: the next result is news, whatever it is.
    failing: bool,
    _subscription: Subscription,
    _place: Place,
}

/// What is followed.
enum Source {
    Query(String),
    Bucket(String),
}

/// By what right somebody follows something.
struct Origin {
    operation: Operation,
    source: Source,
    /// With how much of the bucket.
    scope: Scope,
    /// Where it is not by the rules, but because the embedding program has said so.
    allowed: Option<Allowed>,
}

impl Origin {
    fn new(call: &Call<'_, '_>, source: Source) -> Self {
        let operation = match source {
            Source::Query(_) => Operation::StoreSubscribe,
            Source::Bucket(_) => Operation::StoreChanges,
        };
        Self {
            operation,
            source,
            scope: call.scope.clone(),
            allowed: call.access.allowed_by_program(),
        }
    }

    /// Whether it still holds, and with as much of the bucket.
    fn holds(&self, access: &Access, state: &State) -> bool {
        if self.allowed.as_ref().is_some_and(|allowed| access.is_still_allowed(allowed)) {
            return true;
        }
        let followed = match &self.source {
            Source::Query(name) => access::Followed::Query(name),
            Source::Bucket(name) => access::Followed::Bucket(name),
        };
        access
            .still_follows(self.operation, followed, state)
            .is_some_and(|scope| scope == self.scope)
    }
}

/// What the client is sent.
enum Form {
    /// Whole results; this is the fingerprint of the one that the client has.
    Whole(u128),
    /// What has changed since the version that the client has.
    Delta(Arc<ViewResult>),
    /// Changes of records: first these, which it has missed.
    Feed(VecDeque<Arc<ChangeSet>>),
}

/// A subscription that the session is yet to learn of.
pub(super) struct Opened {
    id: SubscriptionId,
    active: Active,
}

impl Opened {
    /// Whether the right by which it was asked for still holds.
    pub(super) fn holds(&self, access: &Access, state: &State) -> bool {
        self.active.origin.holds(access, state)
    }
}

/// How a client wants to follow a query.
#[derive(Clone, Copy)]
struct Wish {
    delta: bool,
    resume: Option<Cursor>,
}

impl Wish {
    fn read(fields: &Fields<'_>) -> Result<Self, Failure> {
        let complain = || Failure::validation("Invalid \"mode\": expected \"full\" or \"delta\"");
        let mode = fields::present(fields.get("mode"))
            .map(|json| decode_text(json).ok_or_else(complain))
            .transpose()?;
        let delta = match mode.as_deref() {
            None | Some("full") => false,
            Some("delta") => true,
            Some(_) => return Err(complain()),
        };
        let resume = fields::position(fields, "resume")?;
        Ok(Self { delta, resume })
    }

    /// As part of what the query shows, as it is defined in a snapshot.
    fn options(self, guard: Option<Arc<Guard>>, snapshot: Snapshot) -> SubscribeOptions {
        SubscribeOptions {
            delta: self.delta,
            resume: self.resume,
            guard,
            found_in: Some(snapshot),
        }
    }
}

/// A place within the limits, given back when it is dropped.
struct Place {
    connection: Arc<AtomicUsize>,
    total: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connection.fetch_sub(1, Ordering::Relaxed);
        self.total.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts one more, unless that would exceed the limit.
fn take(count: &AtomicUsize, max: usize) -> bool {
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < max).then_some(taken + 1))
        .is_ok()
}

impl Subscriptions {
    /// None yet; `taken` will be kept at their number.
    pub(super) fn counted_by(taken: Arc<AtomicUsize>) -> Self {
        Self {
            active: HashMap::new(),
            behind: VecDeque::new(),
            notices: VecDeque::new(),
            taken,
        }
    }

    fn take_place(&self, call: &Call<'_, '_>) -> Result<Place, Failure> {
        let (per_connection, total) = (call.context.max_subscriptions_per_connection, call.context.max_total_subscriptions);
        if !take(&self.taken, per_connection) {
            let problem = format!("Subscription limit reached (max {per_connection} per connection)");
            return Err(Failure::new(ErrorCode::RateLimited, problem));
        }
        if !take(&call.context.total_subscriptions, total) {
            self.taken.fetch_sub(1, Ordering::Relaxed);
            return Err(Failure::new(
                ErrorCode::RateLimited,
                format!("Global subscription limit reached (max {total})"),
            ));
        }
        Ok(Place {
            connection: Arc::clone(&self.taken),
            total: Arc::clone(&call.context.total_subscriptions),
        })
    }

    /// `store.subscribe`: the limits come first, then the fields.
    pub(super) fn subscribe(&self, call: &Call<'_, '_>, sink: &Arc<dyn Sink>) -> Result<Handled, Failure> {
        let place = self.take_place(call)?;
        let query = fields::text(call.fields, "query")?;
        let params = fields::value(call.fields, "params")?;
        let wish = Wish::read(call.fields)?;
        let id = SubscriptionId::next();
        let snapshot = call.context.store.snapshot();
        call.context
            .request_limits
            .check_params(&open_query(call, &snapshot, &query)?.kind, &params)?;
        let options = wish.options(call.scope.guard().cloned(), snapshot);
        let subscribing = call.context.store.subscribe_with(&query, &params, id, Arc::clone(sink), options);
        let (request, context) = (call.id, Arc::clone(call.context));
        let origin = Origin::new(call, Source::Query(query.into_owned()));
        Ok(Handled::Alone(Box::pin(async move {
            let opened = subscribing.await.and_then(|mut subscribed| {
                let Subscribed { result, resumed, .. } = &mut subscribed;
                resumed.take_if(|delta| is_longer_than(delta, result));
                if wish.resume.is_some() && subscribed.resumed.is_none() {
                    context.overview.counters().add(Count::Resynced, 1);
                }
                open(request, (id, origin), wish, subscribed, place, context.max_result_bytes)
            });
            opened.unwrap_or_else(|error| Completion::new(request, Err(error.into())))
        })))
    }

    /// `store.changes`: the limits come first, then the fields.
    pub(super) fn changes(&self, call: &Call<'_, '_>, sink: &Arc<dyn Sink>) -> Result<Handled, Failure> {
        let place = self.take_place(call)?;
        let bucket = fields::text(call.fields, "bucket")?;
        let filter = fields::optional_object(call.fields, "filter")?.unwrap_or_default();
        let since = fields::position(call.fields, "since")?;
        if since.is_some() && self.backlog_bytes() >= call.context.max_result_bytes {
            let problem = "Other change feeds of this connection have yet to be told what they missed";
            return Err(Failure::new(ErrorCode::Backpressure, problem));
        }
        let id = SubscriptionId::next();
        deny_reserved(&bucket)?;
        call.context.store.snapshot().bucket(&bucket)?;
        call.context.request_limits.check_filter(&filter)?;
        let filter = Value::Object(filter);
        let guard = call.scope.guard().map(Arc::as_ref);
        let following = call
            .context
            .store
            .follow_within(guard, &bucket, &filter, since, id, Arc::clone(sink));
        let request = call.id;
        let origin = Origin::new(call, Source::Bucket(bucket.into_owned()));
        Ok(Handled::Alone(Box::pin(async move {
            let begun = following
                .await
                .map(|followed| begin_feed(request, id, origin, since, followed, place));
            begun.unwrap_or_else(|error| Completion::new(request, Err(error.into())))
        })))
    }

    /// `store.unsubscribe`.
    pub(super) fn unsubscribe(&mut self, call: &Call<'_, '_>) -> Result<Handled, Failure> {
        let name = fields::text(call.fields, "subscriptionId")?;
        let active = name.parse().ok().and_then(|id| self.active.remove(&id));
        match active {
            Some(_) => Ok(Handled::Answer(call.encoder().done("unsubscribed"))),
            None => Err(Failure::new(ErrorCode::NotFound, format!("Subscription \"{name}\" not found"))),
        }
    }

    pub(super) fn add(&mut self, opened: Opened) {
        if matches!(&opened.active.form, Form::Feed(backlog) if !backlog.is_empty()) {
            self.behind.push_back(opened.id);
        }
        self.active.insert(opened.id, opened.active);
    }

    /// Ends what those who follow it may not follow any more, each with a notice, in the order in which they were opened.
    pub(super) fn end_unless(&mut self, reason: &str, holds: impl Fn(&Opened) -> bool) {
        let mut ended = Vec::new();
        self.active = std::mem::take(&mut self.active)
            .into_iter()
            .filter_map(|(id, active)| {
                let opened = Opened { id, active };
                if holds(&opened) {
                    return Some((id, opened.active));
                }
                ended.push(id);
                None
            })
            .collect();
        ended.sort_unstable();
        self.notices
            .extend(ended.into_iter().map(|id| message::subscription_ended(id, reason)));
    }

    /// Whether there are messages that come before anything new: that subscriptions have ended, what was missed.
    pub(super) fn has_backlog(&self) -> bool {
        !self.notices.is_empty() || !self.behind.is_empty()
    }

    /// Bytes of all that followers are yet to be told of. The feeds of one batch wait together until it is answered.
    fn backlog_bytes(&self) -> usize {
        let sets = self.behind.iter().filter_map(|id| match &self.active.get(id)?.form {
            Form::Feed(backlog) => Some(backlog),
            Form::Whole(_) | Form::Delta(_) => None,
        });
        sets.flatten().map(|set| set.data().len()).sum()
    }

    /// The next of them.
    pub(super) fn backlog(&mut self) -> Option<Vec<u8>> {
        if let Some(notice) = self.notices.pop_front() {
            return Some(notice);
        }
        loop {
            let id = *self.behind.front()?;
            let set = self.active.get_mut(&id).and_then(|active| match &mut active.form {
                Form::Feed(backlog) => backlog.pop_front().map(|set| (active.scope, set)),
                Form::Whole(_) | Form::Delta(_) => None,
            });
            match set {
                Some((scope, set)) => return Some(message::push_changes(id, set.data(), scope.at(set.seq()))),
                // It has been told everything, or was given up.
                None => drop(self.behind.pop_front()),
            }
        }
    }

    /// The message about something new; none where there is nothing to say, or nobody to hear it any more.
    pub(super) fn message(&mut self, id: SubscriptionId, update: Update, counters: &Counters) -> Option<Vec<u8>> {
        let active = self.active.get_mut(&id)?;
        match update {
            Update::Result(result) => active.result(id, result, counters),
            Update::Failed(error) => {
                active.failing = true;
                Some(message::subscription_error(id, error.code(), &error.to_string()))
            }
            Update::Changes(set) => Some(message::push_changes(id, set.data(), active.scope.at(set.seq()))),
            Update::Missed { changes, seq } => Some(message::push_missed(id, changes, active.scope.at(seq))),
            Update::Ended(reason) => {
                self.active.remove(&id);
                Some(message::subscription_ended(id, reason.as_str()))
            }
        }
    }
}

impl Active {
    fn result(&mut self, id: SubscriptionId, result: Arc<ViewResult>, counters: &Counters) -> Option<Vec<u8>> {
        let cursor = self.scope.at(result.seq());
        let was_failing = std::mem::take(&mut self.failing);
        // Where states in between were left out, the newest may be the one that the client has.
        let sent = match &mut self.form {
            Form::Delta(sent) => std::mem::replace(sent, Arc::clone(&result)),
            Form::Whole(sent) => {
                let before = std::mem::replace(sent, result.fingerprint());
                let is_news = was_failing || before != *sent;
                return is_news.then(|| message::push(id, result.data().as_deref(), cursor));
            }
            Form::Feed(_) => return None,
        };
        let delta = result.delta_from(&sent);
        let is_value = delta.starts_with(Delta::VALUE);
        let is_same = *delta == *Delta::NOTHING || (is_value && result.fingerprint() == sent.fingerprint());
        if is_same && !was_failing {
            return None;
        }
        if is_longer_than(&delta, &result) {
            counters.add(Count::Resynced, 1);
            return Some(message::push_resync(id, result.data().as_deref(), cursor));
        }
        Some(message::push_delta(id, &delta, cursor))
    }
}

/// A delta of fewer bytes is sent as it is. Of a larger one it is worth the while to see whether the whole result
/// is smaller.
const RESYNC_BYTES_MIN: usize = 4096;

/// Whether a delta had better be left out, and the whole result be sent.
fn is_longer_than(delta: &Bytes, result: &ViewResult) -> bool {
    delta.len() >= RESYNC_BYTES_MIN && delta.len() > result.data().map_or(0, |data| data.len())
}

/// The answer with the first result, or with what brings the client up to it, and the subscription for the session
/// to keep.
fn open(
    request: Number,
    (id, origin): (SubscriptionId, Origin),
    wish: Wish,
    subscribed: Subscribed,
    place: Place,
    max_bytes: usize,
) -> Result<Completion, StoreError> {
    let Subscribed {
        result,
        scope,
        seq,
        resumed,
        subscription,
    } = subscribed;
    let (member, content) = match resumed {
        Some(delta) => ("delta", Some(delta)),
        None => ("data", result.data()),
    };
    let bytes = content.as_ref().map_or(0, Bytes::len);
    if bytes > max_bytes {
        return Err(StoreError::ResultTooLarge { limit_bytes: max_bytes });
    }
    let answer = message::result_with(request, 160 + bytes, |out| {
        message::open_subscription(out, id);
        if wish.resume.is_some() {
            message::member(out, "resumed");
            out.extend_from_slice(if member == "delta" { b"true" } else { b"false" });
        }
        if let Some(content) = &content {
            message::member(out, member);
            out.extend_from_slice(content);
        }
        message::cursor_member(out, scope.at(seq));
        if wish.delta {
            message::member(out, "mode");
            out.extend_from_slice(b"\"delta\"");
        }
        out.push(b'}');
    });
    let form = if wish.delta {
        Form::Delta(result)
    } else {
        Form::Whole(result.fingerprint())
    };
    let active = Active {
        origin,
        scope,
        form,
        failing: false,
        _subscription: subscription,
        _place: place,
    };
    Ok(opened(request, answer, id, active))
}

/// The answer to whoever follows a bucket.
fn begin_feed(request: Number, id: SubscriptionId, origin: Origin, since: Option<Cursor>, followed: Followed, place: Place) -> Completion {
    let Followed {
        scope,
        seq,
        backlog,
        subscription,
    } = followed;
    // Where something was missed it comes first, and the client is still where it was.
    let begin = since.filter(|_| !backlog.is_empty()).map_or(seq, |cursor| cursor.seq);
    let answer = message::result_with(request, 128, |out| {
        message::open_subscription(out, id);
        message::cursor_member(out, scope.at(begin));
        out.push(b'}');
    });
    let active = Active {
        origin,
        scope,
        form: Form::Feed(backlog.into()),
        failing: false,
        _subscription: subscription,
        _place: place,
    };
    opened(request, answer, id, active)
}

fn opened(request: Number, answer: Vec<u8>, id: SubscriptionId, active: Active) -> Completion {
    Completion::with(request, Ok(answer), Effect::Opened(Opened { id, active }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_never_passes_its_limit() {
        let count = AtomicUsize::new(0);
        assert!(take(&count, 2) && take(&count, 2));
        assert!(!take(&count, 2));
        assert_eq!(count.load(Ordering::Relaxed), 2);
        assert!(!take(&AtomicUsize::new(0), 0));
    }

    #[test]
    fn a_place_is_given_back_when_it_is_dropped() {
        let (connection, total) = (Arc::new(AtomicUsize::new(1)), Arc::new(AtomicUsize::new(5)));
        drop(Place {
            connection: Arc::clone(&connection),
            total: Arc::clone(&total),
        });
        assert_eq!((connection.load(Ordering::Relaxed), total.load(Ordering::Relaxed)), (0, 4));
    }
}
