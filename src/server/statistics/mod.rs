//! What the server knows of itself: counters that cost next to nothing to keep, and the reports made of them.
//!
//! A connection counts in plain numbers while it works. At the end of a round of work it adds them to the cells of
//! its thread, so that counting takes no lock and no cache line from another thread. A report adds the cells up; it
//! looks at no connection, except that [`NoexServer::connections`](super::NoexServer::connections) lists them.

mod connection;
mod counters;
mod histogram;
mod overview;
mod report;

pub(crate) use connection::{ConnectionCounters, ConnectionFigures, Standing, Ticket, Traffic};
pub(crate) use counters::{Count, Counters};
pub use histogram::LatencyStats;
pub(crate) use overview::Overview;
pub use report::{
    AcceptStats, ConnectionInfo, ConnectionStats, LatencyByTier, PushStats, QueueStats, ServerStats, ServiceStats, TrafficStats,
};
