//! How often a login may fail. Attempts are counted before anything is checked, so that guesses sent side by side count
//! like guesses sent one after the other; what was no failure is given back.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::protocol::ErrorCode;
use crate::server::config::LoginRateLimitConfig;
use crate::server::handlers::Failure;

/// The most names and addresses that are remembered.
const KEYS_MAX: usize = 100_000;
/// How many times as often as one name from one address may one address fail, whatever the names.
const ADDRESS_FACTOR: usize = 10;
/// How many times as often may one name fail, from whatever addresses. Above the factor of an address, so that no single
/// address locks a name for others.
const NAME_FACTOR: usize = 20;

/// What is counted, as a digest: what clients send is not kept.
type Key = [u8; 16];

#[derive(Clone, Copy)]
struct Count {
    failures: usize,
    /// When the first of them was, in milliseconds since 1970.
    since: u64,
    limit: usize,
}

impl Count {
    fn is_locked(&self) -> bool {
        self.failures >= self.limit
    }
}

#[derive(Default)]
struct Table {
    counts: HashMap<Key, Count>,
    /// Those below their limits and those at them, by age.
    open: BTreeSet<(u64, Key)>,
    locked: BTreeSet<(u64, Key)>,
}

impl Table {
    fn set(&mut self, key: Key, count: Option<Count>) {
        if let Some(before) = self.counts.remove(&key) {
            self.order(before.is_locked()).remove(&(before.since, key));
        }
        if let Some(count) = count.filter(|count| count.failures > 0) {
            self.order(count.is_locked()).insert((count.since, key));
            self.counts.insert(key, count);
        }
    }

    fn order(&mut self, is_locked: bool) -> &mut BTreeSet<(u64, Key)> {
        if is_locked { &mut self.locked } else { &mut self.open }
    }

    fn forget_before(&mut self, begin: u64) {
        for is_locked in [false, true] {
            while let Some((_, key)) = self.order(is_locked).first().copied().filter(|(since, _)| *since < begin) {
                self.set(key, None);
            }
        }
    }

    /// Makes room for one more. Who is locked stays locked; whether there is room then.
    fn make_room(&mut self, keys_max: usize) -> bool {
        if self.counts.len() < keys_max {
            return true;
        }
        match self.open.first().copied() {
            Some((_, oldest)) => self.set(oldest, None),
            None => return false,
        }
        true
    }
}

/// How often a login may fail.
pub(crate) struct LoginLimiter {
    max_attempts: usize,
    window_ms: u64,
    keys_max: usize,
    table: Mutex<Table>,
}

/// An attempt that counts as a failure unless it is given back.
#[must_use]
pub(crate) struct Attempt {
    /// What is forgotten with a success: the name, alone and from this address.
    of_name: Vec<Key>,
    address: Key,
}

impl LoginLimiter {
    pub(crate) fn new(config: LoginRateLimitConfig) -> Self {
        Self {
            max_attempts: config.max_attempts,
            window_ms: crate::server::millis(config.window),
            keys_max: KEYS_MAX,
            table: Mutex::default(),
        }
    }

    #[cfg(test)]
    fn with_room_for(self, keys_max: usize) -> Self {
        Self { keys_max, ..self }
    }

    /// Counts an attempt to log in under a name, without regard to case; none for the secret of the configuration.
    ///
    /// # Errors
    /// Where there were too many: with the time to wait.
    pub(crate) fn attempt(&self, name: Option<&str>, address: IpAddr, now: u64) -> Result<Attempt, Failure> {
        let block = block(address);
        let mut of_name = vec![(key(b'p', name, Some(block)), self.max_attempts)];
        if name.is_some() {
            of_name.push((key(b'n', name, None), self.max_attempts.saturating_mul(NAME_FACTOR)));
        }
        let of_address = (key(b'a', None, Some(block)), self.max_attempts.saturating_mul(ADDRESS_FACTOR));

        let mut table = self.table.lock();
        table.forget_before(now.saturating_sub(self.window_ms));
        let all = || of_name.iter().chain([&of_address]);
        let locked = all().filter_map(|(key, _)| table.counts.get(key)).filter(|count| count.is_locked());
        if let Some(since) = locked.map(|count| count.since).max() {
            return Err(self.too_many(since, now));
        }
        for (key, limit) in all() {
            let before = table.counts.get(key).copied();
            if before.is_none() && !table.make_room(self.keys_max) {
                let oldest = table.locked.first().map_or(now, |(since, _)| *since);
                return Err(self.too_many(oldest, now));
            }
            let mut count = before.unwrap_or(Count {
                failures: 0,
                since: now,
                limit: *limit,
            });
            count.failures += 1;
            table.set(*key, Some(count));
        }
        Ok(Attempt {
            of_name: of_name.into_iter().map(|(key, _)| key).collect(),
            address: of_address.0,
        })
    }

    /// The attempt has succeeded: the failures of the name are forgotten.
    pub(crate) fn succeeded(&self, attempt: Attempt) {
        let mut table = self.table.lock();
        for key in attempt.of_name {
            table.set(key, None);
        }
        take_back(&mut table, attempt.address);
    }

    /// The attempt was not looked at.
    pub(crate) fn give_back(&self, attempt: Attempt) {
        let mut table = self.table.lock();
        for key in attempt.of_name {
            take_back(&mut table, key);
        }
        take_back(&mut table, attempt.address);
    }

    fn too_many(&self, since: u64, now: u64) -> Failure {
        let wait = since.saturating_add(self.window_ms).saturating_sub(now).saturating_add(1);
        Failure::new(ErrorCode::RateLimited, "Too many failed login attempts. Try again later.")
            .with_details(json!({ "retryAfterMs": wait }))
    }
}

fn take_back(table: &mut Table, key: Key) {
    if let Some(mut count) = table.counts.get(&key).copied() {
        count.failures -= 1;
        table.set(key, Some(count));
    }
}

/// What counts as one address: of version 6, all that are given to one customer.
fn block(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

fn key(kind: u8, name: Option<&str>, block: Option<IpAddr>) -> Key {
    let mut digest = Sha256::new();
    digest.update([kind]);
    match block {
        None => digest.update([0]),
        Some(IpAddr::V4(address)) => {
            digest.update([4]);
            digest.update(address.octets());
        }
        Some(IpAddr::V6(address)) => {
            digest.update([6]);
            digest.update(address.octets());
        }
    }
    if let Some(name) = name {
        digest.update([1]);
        digest.update(super::names::folded(name).as_bytes());
    }
    let mut key = Key::default();
    key.copy_from_slice(&digest.finalize()[..16]);
    key
}

/// How long to wait where too many passwords wait to be checked.
pub(crate) const BUSY_FOR: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn limiter(max_attempts: usize) -> LoginLimiter {
        LoginLimiter::new(LoginRateLimitConfig {
            max_attempts,
            window: Duration::from_secs(60),
        })
    }

    fn fails(limiter: &LoginLimiter, name: &str, address: IpAddr, now: u64) -> bool {
        limiter.attempt(Some(name), address, now).is_ok()
    }

    fn other(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn a_name_is_refused_after_its_failures_and_let_in_again_when_the_window_is_over() {
        let limiter = limiter(3);
        for now in [0, 10, 20] {
            assert!(fails(&limiter, "mira", HOME, now));
        }
        let refusal = limiter.attempt(Some("MIRA"), HOME, 59_000).err().expect("it is refused");
        assert_eq!(refusal.code(), ErrorCode::RateLimited);
        let answer: serde_json::Value = serde_json::from_slice(&refusal.answer(crate::protocol::Number::Int(1), false)).expect("an answer");
        assert_eq!(answer["details"], json!({ "retryAfterMs": 1_001 }));
        assert!(fails(&limiter, "mira", other(1), 59_000), "others are not hit");
        assert!(fails(&limiter, "otto", HOME, 59_000));
        assert!(!fails(&limiter, "mira", HOME, 60_000));
        assert!(fails(&limiter, "mira", HOME, 60_001));
    }

    #[test]
    fn an_address_is_refused_whatever_names_it_tries() {
        let limiter = limiter(2);
        for n in 0..20 {
            assert!(fails(&limiter, &format!("user-{n}"), HOME, 0));
        }
        assert!(!fails(&limiter, "one more", HOME, 0));
        assert!(limiter.attempt(None, HOME, 0).is_err());
    }

    #[test]
    fn addresses_of_one_customer_count_as_one_and_mapped_ones_as_what_they_are() {
        let limiter = limiter(1);
        assert!(fails(&limiter, "mira", "2001:db8:1:2::1".parse().unwrap(), 0));
        assert!(!fails(&limiter, "mira", "2001:db8:1:2:ffff::9".parse().unwrap(), 0));
        assert!(fails(&limiter, "mira", "2001:db8:1:3::1".parse().unwrap(), 0));
        assert!(fails(&limiter, "mira", HOME, 0));
        assert!(!fails(&limiter, "mira", "::ffff:10.0.0.1".parse().unwrap(), 0));
    }

    #[test]
    fn a_name_is_refused_from_everywhere_when_it_fails_from_many_places() {
        let limiter = limiter(2);
        for n in 0..40 {
            assert!(fails(&limiter, "mira", other(n), 0));
        }
        assert!(!fails(&limiter, "mira", other(999), 0));
    }

    #[test]
    fn a_success_forgets_the_failures_of_the_name_and_what_was_not_checked_never_counts() {
        let limiter = limiter(2);
        for _ in 0..30 {
            assert!(fails(&limiter, "mira", HOME, 0));
            let attempt = limiter.attempt(Some("mira"), HOME, 0).unwrap_or_else(|_| panic!("it is allowed"));
            limiter.succeeded(attempt);
            limiter.give_back(
                limiter
                    .attempt(Some("otto"), other(1), 0)
                    .unwrap_or_else(|_| panic!("it never counts")),
            );
            if limiter.attempt(None, HOME, 0).is_ok() {
                continue;
            }
            // By now the address has failed often enough, whatever succeeded in between.
            return;
        }
        panic!("an address is refused some time");
    }

    #[test]
    fn a_flood_of_names_takes_little_room_and_frees_nobody() {
        let limiter = limiter(1).with_room_for(60);
        assert!(fails(&limiter, "victim", HOME, 0));
        for n in 0..1_000 {
            let _ = limiter.attempt(Some(&format!("user-{n}")), other(n), 1);
            assert!(limiter.table.lock().counts.len() <= 60);
        }
        assert!(!fails(&limiter, "victim", HOME, 2));
        let table = limiter.table.lock();
        assert_eq!(table.counts.len(), table.open.len() + table.locked.len());
    }
}
