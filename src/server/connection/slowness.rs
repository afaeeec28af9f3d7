//! How long a client has been too slow.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// What a connection knows of its client's slowness. A connection whose client keeps up has no timer.
#[derive(Default)]
pub(super) struct Slowness {
    since: Option<Since>,
}

struct Since {
    /// What the client had taken in all when the grace period began.
    taken: u64,
    grace: Pin<Box<Sleep>>,
}

impl Slowness {
    /// Takes note of how it is at present: how many bytes the client would have to take within the grace period, or
    /// none where it is not too slow. Tells whether it has been too slow for too long.
    pub(super) fn has_lasted(&mut self, demand: Option<usize>, taken: u64, grace: Duration, cx: &mut Context<'_>) -> bool {
        let Some(demand) = demand else {
            self.since = None;
            return false;
        };
        let since = self.since.get_or_insert_with(|| Since {
            taken,
            grace: Box::pin(tokio::time::sleep(grace)),
        });
        if taken - since.taken >= demand as u64 {
            since.taken = taken;
            since.grace.as_mut().reset(Instant::now() + grace);
        }
        since.grace.as_mut().poll(cx).is_ready()
    }
}
