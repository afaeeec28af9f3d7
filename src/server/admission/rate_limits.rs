//! The quotas of all clients: governor's arithmetic on our accounts.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::Quota;
use governor::clock::Clock;
use governor::nanos::Nanos;
use governor::state::StateStore;

use super::Member;
use super::accounts::{Account, AccountRef, Accounts, Held};
use super::clock::{Limiter, QuotaClock};
use super::identity::Identity;
use crate::protocol::Operation;
use crate::server::config::RateLimitConfig;

/// How many more messages may be refused for their form than requests allowed, where nothing else is configured.
const REFUSED_FACTOR: usize = 10;

/// Room for the mistakes of a client that is allowed next to nothing.
const REFUSED_MIN: usize = 10;

/// The quotas of all clients.
#[derive(Debug)]
pub(super) struct RateLimits {
    clock: QuotaClock,
    requests: Meter,
    refused: Meter,
    connections: Option<Meter>,
    /// What a request counts for, by its operation; empty where all count for one.
    weights: Vec<NonZeroU32>,
    accounts: Arc<Accounts>,
}

impl RateLimits {
    pub(super) fn new(config: &RateLimitConfig) -> Self {
        let clock = QuotaClock::new();
        let meter = |max, quota| Meter::new(max, config.window, quota, clock);
        let refused = config
            .refused
            .unwrap_or_else(|| (config.max_requests * REFUSED_FACTOR).max(REFUSED_MIN));
        let requests = meter(config.max_requests, |account| &account.requests);
        let refused = meter(refused, |account| &account.refused);
        let connections = config.connections.map(|max| meter(max, |account| &account.connections));
        let meters = [Some(&requests), Some(&refused), connections.as_ref()];
        // Whoever lacks no more than this has something left of every quota.
        let forgettable = meters.into_iter().flatten().filter_map(Meter::tolerance).min().unwrap_or(0);
        Self {
            clock,
            requests,
            refused,
            connections,
            weights: weights(config),
            accounts: Accounts::new(config.max_keys, forgettable),
        }
    }

    /// Takes a connection from the quota of an identity.
    ///
    /// # Errors
    /// How long to wait where it has no more of them.
    pub(super) fn open(self: &Arc<Self>, identity: Identity) -> Result<Member, Duration> {
        let account = self.accounts.open(identity, self.clock.now().as_u64());
        if let Some(connections) = &self.connections {
            connections.take(&account, NonZeroU32::MIN)?;
        }
        Ok(Member {
            limits: Arc::clone(self),
            account,
            user: None,
        })
    }

    /// The account of an identity that needs no connection.
    pub(super) fn account(&self, identity: Identity) -> Held {
        self.accounts.open(identity, self.clock.now().as_u64())
    }

    /// Takes a request from a quota.
    ///
    /// # Errors
    /// How long to wait where it has no more of them.
    pub(super) fn take_request(&self, account: &Held, operation: Option<Operation>) -> Result<(), Duration> {
        let weight = operation.and_then(|operation| self.weights.get(operation as usize));
        self.requests.take(account, weight.copied().unwrap_or(NonZeroU32::MIN))
    }

    /// Takes a message that is refused for its form from a quota.
    ///
    /// # Errors
    /// How long to wait where it has no more of them.
    pub(super) fn take_refused(&self, account: &Held) -> Result<(), Duration> {
        self.refused.take(account, NonZeroU32::MIN)
    }
}

fn weights(config: &RateLimitConfig) -> Vec<NonZeroU32> {
    if config.weights.is_empty() {
        return Vec::new();
    }
    let weight = |operation| config.weights.get(operation).copied().map_or(NonZeroU32::MIN, at_least_one);
    let mut weights = vec![NonZeroU32::MIN; Operation::ALL.len()];
    for operation in Operation::ALL {
        weights[*operation as usize] = weight(operation);
    }
    weights
}

/// A number of the configuration, where zero was refused or dealt with; every bound fits 32 bits.
fn at_least_one(number: usize) -> NonZeroU32 {
    u32::try_from(number).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN)
}

/// Which of an account's quotas is meant.
type Choice = fn(&Account) -> &AtomicU64;

/// Where governor keeps what it knows: in the account itself.
#[derive(Debug)]
struct InAccount(Choice);

impl StateStore for InAccount {
    type Key = AccountRef;

    fn measure_and_replace<T, F, E>(&self, account: &AccountRef, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let quota = (self.0)(account);
        let mut known = quota.load(Ordering::Acquire);
        loop {
            let (outcome, next) = decide((known != 0).then(|| Nanos::from(known)))?;
            match quota.compare_exchange_weak(known, next.as_u64(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(outcome),
                Err(newer) => known = newer,
            }
        }
    }
}

/// One quota of every account.
#[derive(Debug)]
struct Meter {
    /// None where nothing is allowed at all.
    limiter: Option<Limiter<AccountRef, InAccount>>,
    quota: Option<Quota>,
}

impl Meter {
    /// `max` at once, which refill evenly over `window`.
    fn new(max: usize, window: Duration, choice: Choice, clock: QuotaClock) -> Self {
        let quota = u32::try_from(max).ok().and_then(NonZeroU32::new).and_then(|max| {
            let one = (window / max.get()).max(Duration::from_nanos(1));
            Quota::with_period(one).map(|quota| quota.allow_burst(max))
        });
        Self {
            limiter: quota.map(|quota| Limiter::new(quota, InAccount(choice), clock)),
            quota,
        }
    }

    fn take(&self, account: &Held, weight: NonZeroU32) -> Result<(), Duration> {
        let Some(limiter) = &self.limiter else { return Err(Duration::ZERO) };
        match limiter.check_key_n(account.account(), weight) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => Err(not_until.wait_time_from(limiter.clock().now())),
            // More than there is of it at all: refused with the configuration.
            Err(_) => Err(Duration::ZERO),
        }
    }

    /// How much may be missing so that one is left, as the time in which it refills. None where nothing is kept.
    fn tolerance(&self) -> Option<u64> {
        let quota = self.quota?;
        let all_but_one = quota.replenish_interval() * (quota.burst_size().get() - 1);
        Some(Nanos::from(all_but_one).as_u64())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    fn limits(config: RateLimitConfig) -> Arc<RateLimits> {
        Arc::new(RateLimits::new(&config))
    }

    fn open(limits: &Arc<RateLimits>, number: u32) -> Result<Member, Duration> {
        limits.open(Identity::from(IpAddr::V4(Ipv4Addr::from_bits(number))))
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_escapes_a_used_up_quota_by_leaving_and_flooding_with_other_addresses() {
        let limits = limits(RateLimitConfig {
            max_requests: 5,
            max_keys: 100,
            ..RateLimitConfig::default()
        });
        let attacker = open(&limits, 0).unwrap();
        for _ in 0..5 {
            limits.take_request(&attacker.account, None).unwrap();
        }
        drop(attacker);
        for number in 1..10_000 {
            let other = open(&limits, number).unwrap();
            for _ in 0..number % 6 {
                // Some of them share an account.
                let _ = limits.take_request(&other.account, None);
            }
        }
        let attacker = open(&limits, 0).unwrap();
        assert!(limits.take_request(&attacker.account, None).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn refused_connections_are_not_forgotten_either() {
        let limits = limits(RateLimitConfig {
            connections: Some(1),
            max_keys: 10,
            ..RateLimitConfig::default()
        });
        assert!(open(&limits, 0).is_ok());
        for number in 1..1000 {
            let _ = open(&limits, number);
        }
        assert!(open(&limits, 0).is_err());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(open(&limits, 0).is_ok());
    }

    #[test]
    fn the_extremes_of_the_configuration_can_be_reckoned_with() {
        for (max, window) in [(1, 10), (10_000_000, 10), (1, 86_400_000), (10_000_000, 86_400_000)] {
            let meter = Meter::new(max, Duration::from_millis(window), |account| &account.requests, QuotaClock::new());
            let accounts = Accounts::new(1, 0);
            let held = accounts.open(Identity::Network(1), 0);
            assert_eq!(meter.take(&held, at_least_one(max)), Ok(()), "{max} in {window} ms");
            assert!(meter.tolerance().is_some());
        }
    }

    proptest! {
        /// Whatever the pattern: in no window of time more than a burst and what refills meanwhile.
        #[test]
        fn no_pattern_of_asking_gets_more_than_a_burst_and_what_has_refilled(
            max in 1_usize..20,
            steps in prop::collection::vec((0_u64..400, 1_usize..8), 1..60),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let window = Duration::from_millis(1000);
                let limits = limits(RateLimitConfig { max_requests: max, window, ..RateLimitConfig::default() });
                let member = open(&limits, 1).unwrap();
                let (mut elapsed, mut taken) = (0, 0);
                for (pause, requests) in steps {
                    tokio::time::advance(Duration::from_millis(pause)).await;
                    elapsed += pause;
                    for _ in 0..requests {
                        match limits.take_request(&member.account, None) {
                            Ok(()) => taken += 1,
                            Err(wait) => assert!(wait > Duration::ZERO && wait <= window),
                        }
                    }
                    // One more for what rounding to whole nanoseconds gives away.
                    assert!(taken as u64 * 1000 <= max as u64 * (1000 + elapsed) + 1000);
                }
            });
        }
    }
}
