//! The time that quotas are reckoned in.

use governor::RateLimiter;
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use tokio::time::Instant;

/// A limiter of governor's by our clock.
pub(super) type Limiter<K, S> = RateLimiter<K, S, QuotaClock, NoOpMiddleware<Nanos>>;

/// Nanoseconds since the clock was made, by tokio's clock, which tests make stand still.
#[derive(Clone, Copy, Debug)]
pub(super) struct QuotaClock {
    epoch: Instant,
}

impl QuotaClock {
    pub(super) fn new() -> Self {
        Self { epoch: Instant::now() }
    }
}

impl Clock for QuotaClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        // It panics beyond 584 years.
        Nanos::from(self.epoch.elapsed())
    }
}
