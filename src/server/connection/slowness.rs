//! How long a client has been too slow.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// When a client that is too slow is given up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// How long it may be too slow.
    pub(crate) grace: Duration,
    /// A client that takes so many bytes within the grace period has a new one: it reads, and what it is sent is large.
    pub(crate) taken_bytes: usize,
}

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
    /// Takes note of how it is at present. Tells whether the client has been too slow for too long.
    pub(super) fn has_lasted(&mut self, is_slow: bool, taken: u64, patience: Patience, cx: &mut Context<'_>) -> bool {
        if !is_slow {
            self.since = None;
            return false;
        }
        let since = self.since.get_or_insert_with(|| Since {
            taken,
            grace: Box::pin(tokio::time::sleep(patience.grace)),
        });
        if taken - since.taken >= patience.taken_bytes as u64 {
            since.taken = taken;
            since.grace.as_mut().reset(Instant::now() + patience.grace);
        }
        since.grace.as_mut().poll(cx).is_ready()
    }
}
