//! When connections have to look at their sessions again: one timer for all of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::protocol::ConnectionId;
use crate::server::connection::{Outbox, OutboxHandle};
use crate::server::wall_clock_ms;

/// The longest sleep. The wall clock may be set meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Waiting {
    by_time: BTreeSet<(u64, ConnectionId)>,
    by_connection: HashMap<ConnectionId, (u64, Weak<Outbox>)>,
}

impl Waiting {
    fn remove(&mut self, connection: ConnectionId) {
        if let Some((at, _)) = self.by_connection.remove(&connection) {
            self.by_time.remove(&(at, connection));
        }
    }

    /// Takes out those whose time has come, and tells when the next one's does.
    fn take_due(&mut self, now: u64) -> (Vec<OutboxHandle>, Option<u64>) {
        let mut due = Vec::new();
        while let Some(&(at, connection)) = self.by_time.first() {
            if at > now {
                return (due, Some(at));
            }
            self.by_time.pop_first();
            due.extend(self.by_connection.remove(&connection).and_then(|(_, outbox)| outbox.upgrade()));
        }
        (due, None)
    }
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Told when the first deadline has become another.
    sooner: Notify,
}

/// The deadlines of all connections: at most one for each.
#[derive(Default)]
pub(crate) struct Deadlines {
    shared: Arc<Shared>,
    watch: Mutex<Option<JoinHandle<()>>>,
}

impl Deadlines {
    /// Has a connection look at its session at a time, in milliseconds since 1970, and at no other.
    pub(crate) fn set(&self, connection: ConnectionId, at: Option<u64>, outbox: &OutboxHandle) {
        let mut waiting = self.shared.waiting.lock();
        waiting.remove(connection);
        let Some(at) = at else { return };
        waiting.by_time.insert((at, connection));
        waiting.by_connection.insert(connection, (at, Arc::downgrade(outbox)));
        let is_first = waiting.by_time.first() == Some(&(at, connection));
        drop(waiting);
        if is_first {
            self.start();
            self.shared.sooner.notify_one();
        }
    }

    /// The number of connections that have one.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shared.waiting.lock().by_connection.len()
    }

    /// Starts the watch with the first deadline: most servers need none.
    fn start(&self) {
        let mut watch = self.watch.lock();
        if watch.is_none() {
            *watch = Some(tokio::spawn(watch_over(Arc::clone(&self.shared))));
        }
    }
}

impl Drop for Deadlines {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.lock().take() {
            watch.abort();
        }
    }
}

async fn watch_over(shared: Arc<Shared>) {
    loop {
        let now = wall_clock_ms();
        let (due, next) = shared.waiting.lock().take_due(now);
        for outbox in due {
            outbox.recheck();
        }
        let sleep = next.map_or(SLEEP_MAX, |at| Duration::from_millis(at - now).min(SLEEP_MAX));
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            () = shared.sooner.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_has_one_deadline_and_is_called_once() {
        let mut waiting = Waiting::default();
        let outbox = OutboxHandle::default();
        let (a, b) = (ConnectionId::next(), ConnectionId::next());
        let set = |waiting: &mut Waiting, connection, at| {
            waiting.remove(connection);
            waiting.by_time.insert((at, connection));
            waiting.by_connection.insert(connection, (at, Arc::downgrade(&outbox)));
        };
        set(&mut waiting, a, 5);
        set(&mut waiting, a, 9);
        set(&mut waiting, b, 7);
        assert_eq!(waiting.take_due(6).1, Some(7));
        let (due, next) = waiting.take_due(8);
        assert_eq!((due.len(), next), (1, Some(9)));
        waiting.remove(a);
        assert_eq!(waiting.take_due(100).1, None);
        assert!(waiting.by_connection.is_empty());
    }
}
