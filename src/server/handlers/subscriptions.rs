//! Following the results of queries: places, opening and ending.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::answer::{Completion, Handled};
use super::failure::Failure;
use super::store_reads::open_query;
use super::{Call, fields};
use crate::protocol::json::write_text;
use crate::protocol::{CursorScope, ErrorCode, Number, SubscriptionId, message};
use crate::store::{Sink, StoreError, Subscribed, Subscription, Update};

/// The subscriptions of one connection. Dropping them ends them.
pub(super) struct Subscriptions {
    active: HashMap<SubscriptionId, Active>,
    /// Their number, and of those that are being opened. Others look at it.
    taken: Arc<AtomicUsize>,
}

/// A subscription that is going on: dropping it ends it and frees its place.
struct Active {
    scope: CursorScope,
    _subscription: Subscription,
    _place: Place,
}

/// A subscription that the session is yet to learn of.
pub(super) struct Opened {
    id: SubscriptionId,
    active: Active,
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
        let id = SubscriptionId::next();
        let snapshot = call.context.store.snapshot();
        call.context
            .request_limits
            .check_params(&open_query(&snapshot, &query)?.kind, &params)?;
        let subscribing = call.context.store.subscribe(&query, &params, id, Arc::clone(sink));
        let (request, context) = (call.id, Arc::clone(call.context));
        Ok(Handled::Alone(Box::pin(async move {
            let opened = subscribing
                .await
                .and_then(|subscribed| open(request, id, subscribed, place, context.max_result_bytes));
            opened.unwrap_or_else(|error| Completion::answer(Failure::from(error).answer(request, context.expose_error_details)))
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
        self.active.insert(opened.id, opened.active);
    }

    pub(super) fn message(&mut self, id: SubscriptionId, update: Update) -> Option<Vec<u8>> {
        let active = self.active.get(&id)?;
        Some(match update {
            Update::Result(result) => message::push(id, result.data().as_deref(), active.scope.at(result.seq())),
            Update::Failed(error) => message::subscription_error(id, error.code(), &error.to_string()),
            Update::Changes(set) => message::push_changes(id, set.data(), active.scope.at(set.seq())),
            Update::Missed { changes, seq } => message::push_missed(id, changes, active.scope.at(seq)),
            Update::Ended(reason) => {
                self.active.remove(&id);
                message::subscription_ended(id, reason.as_str())
            }
        })
    }
}

/// The answer with the first result, and the subscription for the session to keep.
fn open(request: Number, id: SubscriptionId, subscribed: Subscribed, place: Place, max_bytes: usize) -> Result<Completion, StoreError> {
    let data = subscribed.result.data();
    let bytes = data.as_ref().map_or(0, Bytes::len);
    if bytes > max_bytes {
        return Err(StoreError::ResultTooLarge { limit_bytes: max_bytes });
    }
    let answer = message::result_with(request, 64 + bytes, |out| {
        out.extend_from_slice(b"{\"subscriptionId\":");
        write_text(out, &id.to_string());
        if let Some(data) = &data {
            out.extend_from_slice(b",\"data\":");
            out.extend_from_slice(data);
        }
        out.push(b'}');
    });
    let active = Active {
        scope: subscribed.scope,
        _subscription: subscribed.subscription,
        _place: place,
    };
    Ok(Completion {
        answer,
        opened: Some(Opened { id, active }),
    })
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
