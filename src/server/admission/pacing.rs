//! How fast sockets are taken in, and how often the same trouble is worth a line in the log.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::Quota;
use governor::clock::Clock;
use governor::state::{InMemoryState, NotKeyed};
use tokio::time::Instant;

use super::clock::{Limiter, QuotaClock};

/// The part of a second's sockets that may be taken in at once. With the default, 2,000 clients that come together
/// are all in within a third of a second.
const BURST_PER_SECOND: u32 = 10;

/// The pace at which sockets are taken from the system's queue. Those that have to wait wait there, where they cost
/// the server nothing.
#[derive(Debug)]
pub(crate) struct AcceptPace {
    /// None where there is no limit.
    limiter: Option<Limiter<NotKeyed, InMemoryState>>,
    /// Whether the next socket may be taken now.
    allowed: bool,
}

impl AcceptPace {
    /// So many sockets in a second; 0 for no limit.
    pub(crate) fn new(per_second: usize) -> Self {
        let per_second = u32::try_from(per_second).ok().and_then(NonZeroU32::new);
        let limiter = per_second.map(|per_second| {
            let burst = NonZeroU32::new(per_second.get() / BURST_PER_SECOND).unwrap_or(NonZeroU32::MIN);
            let quota = Quota::per_second(per_second).allow_burst(burst);
            Limiter::new(quota, InMemoryState::default(), QuotaClock::new())
        });
        Self { limiter, allowed: false }
    }

    /// Waits until the next socket may be taken. To be asked again after [`Self::taken`] only: a wait that is given up
    /// and begun anew costs nothing.
    pub(crate) async fn allowed(&mut self) {
        while let (false, Some(limiter)) = (self.allowed, &self.limiter) {
            match limiter.check() {
                Ok(()) => self.allowed = true,
                Err(not_until) => tokio::time::sleep(not_until.wait_time_from(limiter.clock().now())).await,
            }
        }
    }

    /// A socket was taken.
    pub(crate) fn taken(&mut self) {
        self.allowed = false;
    }
}

/// Something that is worth saying, but not all the time.
#[derive(Debug)]
pub(crate) struct Seldom {
    interval: Duration,
    last: Option<Instant>,
}

impl Seldom {
    /// At most once in so long.
    pub(crate) fn new(interval: Duration) -> Self {
        Self { interval, last: None }
    }

    /// Whether it is time to say it again.
    pub(crate) fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.last.is_none_or(|last| now.duration_since(last) >= self.interval);
        if due {
            self.last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long it takes to let so many in who all came at once.
    async fn time_for(pace: &mut AcceptPace, sockets: usize) -> Duration {
        let began = Instant::now();
        for _ in 0..sockets {
            pace.allowed().await;
            pace.taken();
        }
        began.elapsed()
    }

    fn check(took: Duration, least_ms: u64, most_ms: u64) {
        let range = Duration::from_millis(least_ms)..=Duration::from_millis(most_ms);
        assert!(range.contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_is_let_in_at_a_bounded_rate() {
        let mut pace = AcceptPace::new(5_000);
        check(time_for(&mut pace, 500).await, 0, 0);
        check(time_for(&mut pace, 1_500).await, 299, 310);
        check(time_for(&mut pace, 5_000).await, 995, 1_010);
        tokio::time::advance(Duration::from_secs(10)).await;
        check(time_for(&mut pace, 501).await, 1, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_pace_is_kept_and_none_is_none() {
        check(time_for(&mut AcceptPace::new(1), 3).await, 2_000, 2_002);
        check(time_for(&mut AcceptPace::new(0), 1_000_000).await, 0, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_given_up_costs_nothing() {
        let mut pace = AcceptPace::new(10);
        pace.allowed().await;
        for _ in 0..100 {
            // Nothing was taken: it is still allowed.
            pace.allowed().await;
        }
        pace.taken();
        for _ in 0..100 {
            assert!(futures_util::poll!(Box::pin(pace.allowed())).is_pending());
        }
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(futures_util::poll!(Box::pin(pace.allowed())).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_that_goes_on_is_told_now_and_then() {
        let mut seldom = Seldom::new(Duration::from_secs(5));
        let mut told = 0;
        for _ in 0..100 {
            told += u32::from(seldom.is_due());
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(told, 2);
    }
}
