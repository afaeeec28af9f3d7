//! The heartbeat of all connections: two queues and one task, no timer per connection.
//!
//! Every connection waits for the same interval, so that the next ping of whoever was just pinged is always the
//! latest: the queue is ordered by being a queue. The same holds for the timeouts.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::outbox::Outbox;

/// A moment in the life of one connection. A connection that is gone is found out when its moment comes.
struct Due {
    at: Instant,
    connection: Weak<Outbox>,
}

/// A ping that waits for its pong.
struct Unanswered {
    due: Due,
    timestamp: u64,
}

#[derive(Default)]
struct Queues {
    pings: VecDeque<Due>,
    timeouts: VecDeque<Unanswered>,
}

/// Who is to be pinged, and whose pong is due, when.
pub(crate) struct HeartbeatQueue {
    interval: Duration,
    timeout: Duration,
    queues: Mutex<Queues>,
    /// Tells the task that the queues are no longer empty.
    filled: Notify,
}

impl HeartbeatQueue {
    pub(crate) fn new(interval: Duration, timeout: Duration) -> Self {
        Self {
            interval,
            timeout,
            queues: Mutex::default(),
            filled: Notify::new(),
        }
    }

    /// Pings the connection from one interval after `now` on, for as long as it lives.
    pub(crate) fn join(&self, connection: &Arc<Outbox>, now: Instant) {
        let mut queues = self.queues.lock();
        queues.pings.push_back(Due {
            at: now + self.interval,
            connection: Arc::downgrade(connection),
        });
        if queues.pings.len() == 1 {
            self.filled.notify_one();
        }
    }

    /// Does all that is due at `now`. `timestamp` is the same moment on the wall clock, in milliseconds.
    /// Gives the moment of the next.
    pub(crate) fn advance(&self, now: Instant, timestamp: u64) -> Option<Instant> {
        // A timeout before a ping of the same moment: the ping of a later round is never mistaken for its own.
        self.expire(now);
        self.ping(now, timestamp);
        let queues = self.queues.lock();
        let next_ping = queues.pings.front().map(|due| due.at);
        let next_timeout = queues.timeouts.front().map(|unanswered| unanswered.due.at);
        next_ping.into_iter().chain(next_timeout).min()
    }

    fn expire(&self, now: Instant) {
        loop {
            // The lock is not held while a connection is told: it may be held up by its own.
            let Some(unanswered) = pop_due(&mut self.queues.lock().timeouts, now, |unanswered| unanswered.due.at) else {
                return;
            };
            let Some(connection) = unanswered.due.connection.upgrade() else {
                continue;
            };
            if connection.pong_overdue(unanswered.timestamp) {
                self.await_pong(&connection, unanswered.timestamp, now);
            }
        }
    }

    fn ping(&self, now: Instant, timestamp: u64) {
        loop {
            let Some(due) = pop_due(&mut self.queues.lock().pings, now, |due| due.at) else {
                return;
            };
            let Some(connection) = due.connection.upgrade() else { continue };
            if connection.ping(timestamp) {
                self.await_pong(&connection, timestamp, now);
            }
            self.queues.lock().pings.push_back(Due {
                at: now + self.interval,
                connection: due.connection,
            });
        }
    }

    fn await_pong(&self, connection: &Arc<Outbox>, timestamp: u64, now: Instant) {
        let due = Due {
            at: now + self.timeout,
            connection: Arc::downgrade(connection),
        };
        self.queues.lock().timeouts.push_back(Unanswered { due, timestamp });
    }

    async fn run(&self) {
        loop {
            match self.advance(Instant::now(), crate::server::wall_clock_ms()) {
                Some(next) => tokio::time::sleep_until(next).await,
                None => self.filled.notified().await,
            }
        }
    }
}

fn pop_due<T>(queue: &mut VecDeque<T>, now: Instant, at: impl Fn(&T) -> Instant) -> Option<T> {
    if queue.front().is_some_and(|first| at(first) <= now) {
        queue.pop_front()
    } else {
        None
    }
}

/// Runs the heartbeat. It keeps nothing itself: when it is restarted, it goes on with the same queue.
pub(crate) struct HeartbeatActor;

/// Asks the [`HeartbeatActor`] to begin.
pub(crate) struct Beat;

impl Actor for HeartbeatActor {
    type Msg = Beat;
    type State = Arc<HeartbeatQueue>;
    type Arguments = Arc<HeartbeatQueue>;

    async fn pre_start(&self, myself: ActorRef<Beat>, queue: Arc<HeartbeatQueue>) -> Result<Self::State, ActorProcessingErr> {
        myself.send_message(Beat)?;
        Ok(queue)
    }

    async fn handle(&self, _: ActorRef<Beat>, _: Beat, queue: &mut Self::State) -> Result<(), ActorProcessingErr> {
        queue.run().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::outbox::Signals;
    use super::super::updates::Updates;
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);
    const TIMEOUT: Duration = Duration::from_secs(10);

    fn signals(outbox: &Outbox) -> Signals {
        outbox.take(&mut Updates::default())
    }

    fn pinged(timestamp: u64) -> Signals {
        Signals {
            ping: Some(timestamp),
            ..Signals::default()
        }
    }

    struct Fixture {
        queue: HeartbeatQueue,
        start: Instant,
    }

    impl Fixture {
        fn new() -> Self {
            Self {
                queue: HeartbeatQueue::new(INTERVAL, TIMEOUT),
                start: Instant::now(),
            }
        }

        fn join(&self, seconds: u64) -> Arc<Outbox> {
            let outbox = Arc::new(Outbox::default());
            self.queue.join(&outbox, self.start + Duration::from_secs(seconds));
            outbox
        }

        /// Advances to `seconds` after the start, also on the wall clock; gives the seconds of the next moment.
        fn advance(&self, seconds: u64) -> Option<u64> {
            let next = self.queue.advance(self.start + Duration::from_secs(seconds), seconds * 1000)?;
            Some((next - self.start).as_secs())
        }
    }

    #[test]
    fn the_first_ping_comes_one_interval_after_joining_and_not_before() {
        let fixture = Fixture::new();
        let (first, second) = (fixture.join(0), fixture.join(5));
        assert_eq!(fixture.advance(29), Some(30));
        assert_eq!(signals(&first), Signals::default());
        assert_eq!(fixture.advance(30), Some(35));
        assert_eq!((signals(&first), signals(&second)), (pinged(30_000), Signals::default()));
        fixture.advance(35);
        assert_eq!(signals(&second), pinged(35_000));
    }

    #[test]
    fn a_ping_that_is_answered_in_time_is_never_overdue() {
        let fixture = Fixture::new();
        let outbox = fixture.join(0);
        fixture.advance(30);
        assert_eq!(signals(&outbox), pinged(30_000));
        outbox.pong(30_000.0);
        fixture.advance(40);
        assert_eq!(signals(&outbox), Signals::default());
        fixture.advance(60);
        assert_eq!(signals(&outbox), pinged(60_000));
    }

    #[test]
    fn a_silent_client_is_overdue_after_the_timeout_and_not_an_interval_later() {
        let fixture = Fixture::new();
        let outbox = fixture.join(0);
        fixture.advance(30);
        signals(&outbox);
        fixture.advance(39);
        assert_eq!(signals(&outbox), Signals::default());
        fixture.advance(40);
        assert_eq!(
            signals(&outbox),
            Signals {
                overdue: Some(30_000),
                ..Signals::default()
            }
        );
    }

    #[test]
    fn a_verdict_is_asked_for_once_per_timeout_until_the_pong_comes_or_the_connection_closes() {
        let fixture = Fixture::new();
        let (answers, closes) = (fixture.join(0), fixture.join(0));
        fixture.advance(30);
        for second in 31..=59 {
            fixture.advance(second);
            for outbox in [&answers, &closes] {
                let asked = signals(outbox).overdue.is_some();
                assert_eq!(asked, second == 40 || second == 50, "{second}");
            }
        }
        answers.pong(30_000.0);
        closes.close();
        for second in [60, 70, 80] {
            fixture.advance(second);
            assert_eq!(signals(&answers).overdue.is_some(), second > 60, "{second}: the next ping's");
            assert_eq!(signals(&closes), Signals::default());
        }
    }

    #[test]
    fn only_the_timestamp_of_the_unanswered_ping_counts() {
        let fixture = Fixture::new();
        let outbox = fixture.join(0);
        outbox.pong(30_000.0);
        fixture.advance(30);
        for invented in [29_999.0, 30_001.0, 1e18, f64::INFINITY, f64::NAN, -30_000.0] {
            outbox.pong(invented);
            assert!(outbox.awaits_pong(30_000), "{invented}");
        }
        outbox.pong(30_000.0);
        assert!(!outbox.awaits_pong(30_000));
    }

    #[test]
    fn a_timeout_longer_than_the_interval_still_ends_a_silent_client() {
        let queue = HeartbeatQueue::new(Duration::from_secs(10), Duration::from_secs(25));
        let start = Instant::now();
        let outbox = Arc::new(Outbox::default());
        queue.join(&outbox, start);
        let mut overdue = None;
        for second in 0..=40 {
            queue.advance(start + Duration::from_secs(second), second * 1000);
            overdue = overdue.or(signals(&outbox).overdue.map(|timestamp| (second, timestamp)));
        }
        assert_eq!(overdue, Some((35, 10_000)));
    }

    #[test]
    fn a_connection_that_is_gone_leaves_the_queues() {
        let fixture = Fixture::new();
        drop(fixture.join(0));
        let stays = fixture.join(0);
        fixture.advance(30);
        drop(stays);
        assert_eq!(fixture.advance(60), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_wakes_for_a_connection_that_joins_an_empty_queue() {
        let queue = Arc::new(HeartbeatQueue::new(INTERVAL, TIMEOUT));
        let (_, running) = Actor::spawn(None, HeartbeatActor, Arc::clone(&queue))
            .await
            .expect("the actor starts");
        tokio::task::yield_now().await;
        let outbox = Arc::new(Outbox::default());
        let begun = Instant::now();
        queue.join(&outbox, begun);
        let mut updates = Updates::default();
        let signals = std::future::poll_fn(|cx| {
            outbox.register(cx.waker());
            match outbox.take(&mut updates) {
                Signals { ping: None, .. } => std::task::Poll::Pending,
                signals => std::task::Poll::Ready(signals),
            }
        });
        assert!(signals.await.ping.is_some());
        assert_eq!(begun.elapsed().as_secs(), INTERVAL.as_secs());
        running.abort();
    }
}
