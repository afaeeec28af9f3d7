//! Users who cannot log in by a token for a while.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::server::{millis, wall_clock_ms};
use crate::store::{BucketDefinition, Store, StoreError};

/// Where the list is kept. No client can name it.
const BUCKET: &str = "_revocations";

/// The most users on the list. Beyond it the one goes whose time would be over first.
const USERS_MAX: usize = 100_000;

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
        while list.len() > USERS_MAX
            && let Some(first) = list.iter().min_by_key(|(_, end)| **end).map(|(user, _)| user.clone())
        {
            tracing::warn!(max = USERS_MAX, "too many users are revoked; the oldest revocation is dropped");
            list.remove(&first);
            gone.push(first);
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
            self.store.define_bucket(BUCKET, definition()).await?;
        }
        let bucket = self.store.bucket(BUCKET);
        for user in noted.users {
            bucket.upsert(&json!({ "user": user, "until": noted.until })).await?;
        }
        for user in noted.gone {
            bucket.delete(user.as_str()).await?;
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
