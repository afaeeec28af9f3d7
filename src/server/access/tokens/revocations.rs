//! Users who cannot log in by a token for a while.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::try_join_all;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::server::{millis, wall_clock_ms};
use crate::store::{BucketDefinition, Store, StoreError};

/// Where the list is kept. No client can name it.
const BUCKET: &str = "_revocations";

/// The most users on the list. Beyond it the one goes whose time would be over first.
const USERS_MAX: usize = 100_000;

/// How many changes of the list are handed to the store at a time.
const AT_ONCE: usize = 256;

/// Users who cannot log in by a token, each until a moment in milliseconds since 1970. Kept in the store.
pub(crate) struct Revocations {
    store: Store,
    ttl_ms: u64,
    until: Mutex<HashMap<String, u64>>,
}

impl Revocations {
    /// The list as the store has it.
    pub(crate) fn open(store: Store, ttl: Duration) -> Self {
        let stored = store.bucket(BUCKET).all().unwrap_or_default();
        let read = |record: &crate::protocol::Record| {
            let record: Value = serde_json::from_slice(record.json()).ok()?;
            Some((record.get("user")?.as_str()?.to_owned(), record.get("until")?.as_u64()?))
        };
        let until = stored.iter().filter_map(read).collect();
        Self {
            store,
            ttl_ms: millis(ttl),
            until: Mutex::new(until),
        }
    }

    /// Whether a user is on the list.
    pub(crate) fn holds(&self, user: &str, now_ms: u64) -> bool {
        self.until.lock().get(user).is_some_and(|until| *until > now_ms)
    }

    /// Puts users on the list, at once. Gives what is to be kept of that.
    pub(crate) fn add(&self, users: &[impl AsRef<str>]) -> Noted {
        if self.ttl_ms == 0 {
            return Noted::default();
        }
        let now = wall_clock_ms();
        let until = now.saturating_add(self.ttl_ms);
        Noted {
            until,
            gone: self.note(users, now, until),
            users: users.iter().map(|user| user.as_ref().to_owned()).collect(),
        }
    }

    /// Gives those who have gone from the list.
    fn note(&self, users: &[impl AsRef<str>], now: u64, until: u64) -> Vec<String> {
        let mut list = self.until.lock();
        list.extend(users.iter().map(|user| (user.as_ref().to_owned(), until)));
        let mut gone: Vec<String> = list.extract_if(|_, end| *end <= now).map(|(user, _)| user).collect();
        let surplus = list.len().saturating_sub(USERS_MAX);
        if surplus > 0 {
            tracing::warn!(
                surplus,
                max = USERS_MAX,
                "too many users are revoked; the oldest revocations are dropped"
            );
            let mut ends: Vec<(u64, String)> = list.iter().map(|(user, end)| (*end, user.clone())).collect();
            ends.sort_unstable();
            for (_, user) in ends.into_iter().take(surplus) {
                list.remove(&user);
                gone.push(user);
            }
        }
        gone
    }

    /// Keeps beyond a restart what was put on the list.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn keep(&self, noted: Noted) -> Result<(), StoreError> {
        if noted.users.is_empty() {
            return Ok(());
        }
        if self.store.snapshot().bucket(BUCKET).is_err() {
            match self.store.define_bucket(BUCKET, definition()).await {
                // Another revocation has been faster.
                Ok(_) | Err(StoreError::BucketAlreadyExists(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let bucket = self.store.bucket(BUCKET);
        // Many at a time, so that they share commit groups.
        for users in noted.users.chunks(AT_ONCE) {
            let records = users.iter().map(|user| json!({ "user": user, "until": noted.until }));
            let records: Vec<Value> = records.collect();
            try_join_all(records.iter().map(|record| bucket.upsert(record))).await?;
        }
        for users in noted.gone.chunks(AT_ONCE) {
            try_join_all(users.iter().map(|user| bucket.delete(user.as_str()))).await?;
        }
        Ok(())
    }
}

/// What was put on the list, and what has gone from it.
#[derive(Default)]
pub(crate) struct Noted {
    users: Vec<String>,
    until: u64,
    gone: Vec<String>,
}

fn definition() -> BucketDefinition {
    let definition = json!({
        "key": "user",
        "schema": { "user": { "type": "string", "required": true }, "until": { "type": "number", "required": true } },
    });
    definition
        .as_object()
        .and_then(|definition| BucketDefinition::parse(definition).ok())
        .expect("the definition is a sound one, as every revocation shows")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_revocations_may_come_together_and_all_are_kept() {
        let store = Store::builder().in_memory().open().await.expect("a store");
        let revocations = Revocations::open(store.clone(), Duration::from_secs(60));
        let keep = |user: &'static str| revocations.keep(revocations.add(&[user]));
        let (ida, bob) = tokio::join!(keep("ida"), keep("bob"));
        assert_eq!((ida, bob), (Ok(()), Ok(())));
        let reopened = Revocations::open(store, Duration::from_secs(60));
        assert!(["ida", "bob"].iter().all(|user| reopened.holds(user, wall_clock_ms())));
    }

    #[tokio::test]
    async fn the_list_is_bounded_and_those_go_first_whose_time_would_be_over_first() {
        let store = Store::builder().in_memory().open().await.expect("a store");
        let revocations = Revocations::open(store, Duration::from_secs(60));
        let users = |from: usize, to: usize| (from..to).map(|number| number.to_string()).collect::<Vec<_>>();
        assert!(revocations.note(&users(0, USERS_MAX), 0, 1_000).is_empty());
        let gone = revocations.note(&users(USERS_MAX, USERS_MAX + 10), 0, 2_000);
        assert_eq!(gone.len(), 10);
        assert!(gone.iter().all(|user| !revocations.holds(user, 0)));
        assert_eq!(revocations.until.lock().len(), USERS_MAX);
        assert!((USERS_MAX..USERS_MAX + 10).all(|number| revocations.holds(&number.to_string(), 1_999)));
        // Whoever's time is over goes with the next who comes.
        assert_eq!(revocations.note(&["late"], 1_000, 3_000).len(), USERS_MAX - 10);
    }
}
