//! Who is connected: seats, addresses, and a way to reach every connection.
//!
//! What it hands out gives itself back when it is dropped, so that a connection leaves no trace however it ends.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::outbox::OutboxHandle;
use crate::protocol::{CloseCode, ConnectionId};
use crate::server::statistics::ConnectionFigures;

/// One live connection.
struct Entry {
    address: IpAddr,
    outbox: OutboxHandle,
    figures: Arc<ConnectionFigures>,
}

/// The live connections, in the order in which they came.
#[derive(Default)]
struct Live {
    connections: BTreeMap<ConnectionId, Entry>,
    per_address: HashMap<IpAddr, usize>,
    /// Set when the server stops; nobody is admitted afterwards.
    closed: bool,
}

/// Counts and finds the connections.
pub(crate) struct Registry {
    connections_max: usize,
    per_address_max: Option<usize>,
    /// Seats taken: by live connections, by upgrades that are not complete, by sockets that are being closed.
    seats: AtomicUsize,
    live: Mutex<Live>,
    /// Told when the last seat is given back.
    emptied: Notify,
}

impl Registry {
    pub(crate) fn new(connections_max: usize, per_address_max: Option<usize>) -> Arc<Self> {
        Arc::new(Self {
            connections_max,
            per_address_max,
            seats: AtomicUsize::new(0),
            live: Mutex::default(),
            emptied: Notify::new(),
        })
    }

    /// Takes a seat for a connection that is being made. None when all are taken.
    pub(crate) fn take_seat(self: &Arc<Self>) -> Option<Seat> {
        let free = |taken: usize| (taken < self.connections_max).then_some(taken + 1);
        self.seats.fetch_update(Ordering::AcqRel, Ordering::Acquire, free).ok()?;
        Some(Seat {
            registry: Arc::clone(self),
        })
    }

    /// The number of live connections.
    pub(crate) fn len(&self) -> usize {
        self.live.lock().connections.len()
    }

    /// Admits nobody from now on.
    pub(crate) fn close(&self) {
        self.live.lock().closed = true;
    }

    /// The outboxes of all live connections, in the order in which they came.
    pub(crate) fn outboxes(&self) -> Vec<OutboxHandle> {
        self.live
            .lock()
            .connections
            .values()
            .map(|entry| Arc::clone(&entry.outbox))
            .collect()
    }

    /// At most `max` of the live connections that came after `last`, in the order in which they came.
    pub(crate) fn page(&self, last: Option<ConnectionId>, max: usize) -> Vec<(ConnectionId, IpAddr, Arc<ConnectionFigures>)> {
        let live = self.live.lock();
        let after = last.map_or(Bound::Unbounded, Bound::Excluded);
        live.connections
            .range((after, Bound::Unbounded))
            .take(max)
            .map(|(id, entry)| (*id, entry.address, Arc::clone(&entry.figures)))
            .collect()
    }

    /// Waits until no seat is taken.
    pub(crate) async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if self.seats.load(Ordering::Acquire) == 0 {
                return;
            }
            emptied.await;
        }
    }
}

/// A place among the connections. Given back when dropped.
pub(crate) struct Seat {
    registry: Arc<Registry>,
}

impl Seat {
    /// Makes a live connection of it.
    ///
    /// # Errors
    /// The code to close the socket with, and the seat, to be kept until that is done: the server is stopping, or
    /// the address has as many connections as it may have.
    pub(crate) fn register(
        self,
        id: ConnectionId,
        address: IpAddr,
        outbox: OutboxHandle,
        figures: Arc<ConnectionFigures>,
    ) -> Result<Registration, (CloseCode, Self)> {
        let mut live = self.registry.live.lock();
        if live.closed {
            drop(live);
            return Err((CloseCode::GoingAway, self));
        }
        let count = live.per_address.get(&address).copied().unwrap_or(0);
        if self.registry.per_address_max.is_some_and(|max| count >= max) {
            drop(live);
            return Err((CloseCode::TooManyConnections, self));
        }
        live.per_address.insert(address, count + 1);
        live.connections.insert(id, Entry { address, outbox, figures });
        drop(live);
        Ok(Registration { id, address, seat: self })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.registry.seats.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.registry.emptied.notify_waiters();
        }
    }
}

/// The entry of one live connection. Removed when dropped.
pub(crate) struct Registration {
    id: ConnectionId,
    address: IpAddr,
    seat: Seat,
}

impl Registration {
    /// The connection's id.
    pub(crate) fn id(&self) -> ConnectionId {
        self.id
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut live = self.seat.registry.live.lock();
        let entry = live.connections.remove(&self.id);
        if let Some(count) = live.per_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                live.per_address.remove(&self.address);
            }
        }
        drop(live);
        drop(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const AWAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn register(registry: &Arc<Registry>, address: IpAddr) -> Result<Registration, CloseCode> {
        let seat = registry.take_seat().expect("a seat is free");
        seat.register(ConnectionId::next(), address, OutboxHandle::default(), ConnectionFigures::new(5))
            .map_err(|(code, _)| code)
    }

    #[test]
    fn no_more_seats_are_given_than_there_are_and_a_dropped_one_is_free_again() {
        let registry = Registry::new(2, None);
        let (first, _second) = (registry.take_seat(), registry.take_seat());
        assert!(first.is_some());
        assert!(registry.take_seat().is_none());
        drop(first);
        assert!(registry.take_seat().is_some());
    }

    #[test]
    fn an_address_is_limited_by_itself_and_a_refused_attempt_does_not_count() {
        let registry = Registry::new(10, Some(1));
        let first = register(&registry, HOME).expect("the first is admitted");
        for _ in 0..3 {
            assert_eq!(register(&registry, HOME).err(), Some(CloseCode::TooManyConnections));
        }
        let other = register(&registry, AWAY).expect("another address is admitted");
        assert_eq!(registry.len(), 2);
        drop((first, other));
        assert_eq!(registry.len(), 0);
        assert!(
            registry.live.lock().per_address.is_empty(),
            "an address without connections is forgotten"
        );
        assert!(register(&registry, HOME).is_ok());
    }

    #[test]
    fn pages_follow_one_another_in_the_order_of_coming_whoever_leaves_in_between() {
        let registry = Registry::new(10, None);
        let mut stay: Vec<_> = (0..5).map(|_| register(&registry, HOME).expect("it is admitted")).collect();
        let ids: Vec<_> = stay.iter().map(Registration::id).collect();
        let page = |last| registry.page(last, 2).iter().map(|(id, ..)| *id).collect::<Vec<_>>();
        assert_eq!(page(None), ids[..2]);
        drop(stay.drain(1..3));
        assert_eq!(page(Some(ids[1])), ids[3..]);
        assert_eq!(page(Some(ids[4])), []);
    }

    #[test]
    fn nobody_is_admitted_after_it_is_closed() {
        let registry = Registry::new(10, None);
        registry.close();
        assert_eq!(register(&registry, HOME).err(), Some(CloseCode::GoingAway));
        assert_eq!(registry.seats.load(Ordering::Acquire), 0);
    }

    #[tokio::test]
    async fn emptied_waits_for_the_last_seat() {
        let registry = Registry::new(10, None);
        let (first, second) = (registry.take_seat(), registry.take_seat());
        let mut emptied = Box::pin(registry.emptied());
        drop(first);
        assert!(futures_util::poll!(emptied.as_mut()).is_pending());
        drop(second);
        emptied.await;
        registry.emptied().await;
    }
}
