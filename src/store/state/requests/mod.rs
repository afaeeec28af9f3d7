//! Requests that are carried out once, however often they are sent: each carries a key, and what it was answered is
//! remembered for a while. A repeat gets that answer and changes nothing.

mod encoding;
mod shares;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

pub use encoding::Answer;

use super::bucket::Timestamp;
use super::catalog::State;
use super::draft::Effects;
use super::persistent::OrdMap;
use shares::Shares;
use xxhash_rust::xxh3::Xxh3;

use crate::protocol::Issue;
use crate::store::StoreError;
use crate::store::command::{Command, Operation, Outcome};
use crate::store::guard::Guard;

/// The longest key of a request, in bytes.
const LONGEST_KEY: usize = 200;

/// So many requests whose time is up are forgotten with one command, unless it needs the room of more.
const FORGOTTEN_AT_ONCE: usize = 64;

/// How much of past requests is remembered.
///
/// A scope ([`RequestKey::in_scope`]) never takes more than it leaves to others, so that nobody keeps everybody else
/// out: its first request is taken wherever there is room, and further ones as long as its requests, in number and in
/// bytes, are no more than what is free then. Alone it gets half. What is in no scope may take all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// How long. Default 10 min.
    pub window: Duration,
    /// How many requests. Default 100,000.
    pub keys: usize,
    /// Bytes of their keys and answers together. No request is taken beyond it; the answer of the last one that was
    /// may go over it. Default 64 MiB.
    pub bytes: usize,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(600),
            keys: 100_000,
            bytes: 64 << 20,
        }
    }
}

impl RequestLimits {
    fn ends(&self, remembered: &Remembered) -> Timestamp {
        let window_ms = u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX);
        remembered.time.saturating_add(window_ms)
    }
}

/// What makes a request and its repeats known as the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    name: Arc<Name>,
    fingerprint: u64,
}

/// A key, and within what it is one.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    scope: Arc<str>,
    key: String,
}

impl Name {
    fn bytes(&self) -> usize {
        self.scope.len() + self.key.len()
    }
}

impl RequestKey {
    /// The key of a request. `fingerprint` tells what is asked for: a repeat has the same one, and another request
    /// that comes under the key has another one, and is refused. Where keys are certain to be used once, it may be 0.
    ///
    /// # Errors
    /// Where the key is empty or longer than 200 bytes.
    pub fn new(key: impl Into<String>, fingerprint: u64) -> Result<Self, StoreError> {
        let key = key.into();
        if key.is_empty() || key.len() > LONGEST_KEY {
            let message = format!("Expected a text of 1 to {LONGEST_KEY} bytes");
            return Err(StoreError::invalid("request key", Issue::new("", "length", message)));
        }
        let name = Name {
            scope: Arc::default(),
            key,
        };
        Ok(Self {
            name: Arc::new(name),
            fingerprint,
        })
    }

    /// The same key within a scope, such as the name of a user: keys of different scopes have nothing to do with each
    /// other, and none takes all the room there is ([`RequestLimits`]).
    #[must_use]
    pub fn in_scope(self, scope: impl Into<Arc<str>>) -> Self {
        let name = Name {
            scope: scope.into(),
            key: self.name.key.clone(),
        };
        Self {
            name: Arc::new(name),
            ..self
        }
    }
}

impl RequestKey {
    /// The same for a request that is bound as the operation is: what somebody was answered within a guard is never
    /// told within another one.
    pub(in crate::store) fn bound_as(self, operation: &Operation) -> Self {
        let bind = |fingerprint: u64, (at, guard): (usize, &Arc<Guard>)| {
            let mut hash = Xxh3::new();
            hash.update(&fingerprint.to_be_bytes());
            hash.update(&(at as u64).to_be_bytes());
            hash.update(guard.key());
            hash.digest()
        };
        Self {
            fingerprint: operation.guards().fold(self.fingerprint, bind),
            ..self
        }
    }
}

/// A request that was answered.
#[derive(Debug, PartialEq)]
pub struct Remembered {
    name: Arc<Name>,
    fingerprint: u64,
    time: Timestamp,
    answer: Answer,
}

impl Remembered {
    /// What a request was answered, at this time.
    #[must_use]
    pub fn new(request: &RequestKey, time: Timestamp, answer: Answer) -> Self {
        Self {
            name: Arc::clone(&request.name),
            fingerprint: request.fingerprint,
            time,
            answer,
        }
    }

    fn bytes(&self) -> usize {
        self.name.bytes() + self.answer.as_bytes().len()
    }
}

/// A request that was remembered or forgotten, for the disk.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestChange {
    /// The number of the commit that answered it.
    pub number: u64,
    /// What is to be remembered, or nothing where it is forgotten.
    pub remembered: Option<Arc<Remembered>>,
}

/// All requests that are remembered. Cloning shares them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Requests {
    by_key: OrdMap<Arc<Name>, u64>,
    /// By the number of the commit, hence by time.
    by_number: OrdMap<u64, Arc<Remembered>>,
    bytes: usize,
    shares: Shares,
}

impl Requests {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_number.len()
    }

    /// The bytes of their keys and answers.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes in a request. False where its key or its number is there already.
    pub(in crate::store) fn insert(&mut self, number: u64, remembered: Arc<Remembered>) -> bool {
        if self.by_key.contains_key(&remembered.name) || self.by_number.contains_key(&number) {
            return false;
        }
        self.bytes += remembered.bytes();
        self.shares.add(&remembered);
        self.by_key.insert(Arc::clone(&remembered.name), number);
        self.by_number.insert(number, remembered);
        true
    }

    fn remove(&mut self, number: u64) {
        if let Some(remembered) = self.by_number.remove(&number) {
            self.by_key.remove(&remembered.name);
            self.bytes -= remembered.bytes();
            self.shares.take_off(&remembered);
        }
    }

    fn get(&self, name: &Arc<Name>) -> Option<(u64, &Arc<Remembered>)> {
        let number = *self.by_key.get(name)?;
        Some((number, self.by_number.get(&number)?))
    }

    /// Whether a request under this key is remembered at this time.
    pub(in crate::store) fn holds(&self, request: &RequestKey, limits: &RequestLimits, now: Timestamp) -> bool {
        self.get(&request.name).is_some_and(|(_, remembered)| limits.ends(remembered) > now)
    }

    fn oldest(&self) -> Option<(u64, &Arc<Remembered>)> {
        self.by_number.get_min().map(|(number, remembered)| (*number, remembered))
    }

    /// Whether another request can be remembered: it must fit, and leave as much room as its scope has
    /// taken then.
    fn has_room(&self, name: &Name, limits: &RequestLimits) -> bool {
        let (Some(keys_left), Some(bytes_left)) = (
            limits.keys.checked_sub(self.by_number.len() + 1),
            limits.bytes.checked_sub(self.bytes + name.bytes()),
        ) else {
            return false;
        };
        let share = self.shares.of(name);
        share.count == 0 || (share.count < keys_left && share.bytes + name.bytes() <= bytes_left)
    }
}

/// Forgets some of the requests whose time is up.
fn forget_due(state: &mut State, limits: &RequestLimits, effects: &mut Effects) {
    for _ in 0..FORGOTTEN_AT_ONCE {
        if !forget_oldest_if_due(state, limits, effects) {
            return;
        }
    }
}

/// What the request was answered before, or why it can be neither looked up nor remembered; nothing where it is to be
/// carried out.
fn recall(state: &mut State, request: &RequestKey, limits: &RequestLimits, effects: &mut Effects) -> Option<Result<Outcome, StoreError>> {
    if let Some((number, remembered)) = state.requests().get(&request.name) {
        if limits.ends(remembered) > state.now() {
            return Some(if remembered.fingerprint == request.fingerprint {
                remembered.answer.to_result()
            } else {
                Err(StoreError::RequestKeyReused(request.name.key.clone()))
            });
        }
        forget(state, number, effects);
    }
    while !state.requests().has_room(&request.name, limits) {
        if forget_oldest_if_due(state, limits, effects) {
            continue;
        }
        let (_, oldest) = state.requests().oldest()?;
        let retry_after_ms = limits.ends(oldest).saturating_sub(state.now());
        return Some(Err(StoreError::RequestKeysFull { retry_after_ms }));
    }
    None
}

/// Keeps what the request of a command was answered. `before` is the number of the last commit before the command:
/// where it has changed nothing, remembering it is a commit of its own.
fn remember(state: &mut State, request: &RequestKey, before: u64, answer: &Result<Outcome, StoreError>, effects: &mut Effects) {
    if state.seq() == before {
        state.commit();
    }
    let remembered = Arc::new(Remembered::new(request, state.now(), Answer::of(answer)));
    let number = state.seq();
    state.requests_mut().insert(number, Arc::clone(&remembered));
    effects.requests.push(RequestChange {
        number,
        remembered: Some(remembered),
    });
}

fn forget_oldest_if_due(state: &mut State, limits: &RequestLimits, effects: &mut Effects) -> bool {
    let now = state.now();
    let due = state.requests().oldest().filter(|(_, oldest)| limits.ends(oldest) <= now);
    let number = due.map(|(number, _)| number);
    if let Some(number) = number {
        forget(state, number, effects);
    }
    number.is_some()
}

fn forget(state: &mut State, number: u64, effects: &mut Effects) {
    state.requests_mut().remove(number);
    effects.requests.push(RequestChange { number, remembered: None });
}

/// Carries a command out, or answers what its request was answered before.
pub(super) fn once(
    state: &mut State,
    command: &Command,
    effects: &mut Effects,
    carry_out: impl FnOnce(&mut State, &mut Effects) -> Result<Outcome, StoreError>,
) -> Result<Outcome, StoreError> {
    let limits = &command.limits.requests;
    forget_due(state, limits, effects);
    let Some(request) = &command.request else {
        return carry_out(state, effects);
    };
    if let Some(answer) = recall(state, request, limits, effects) {
        return answer;
    }
    let before = state.seq();
    let answer = carry_out(state, effects);
    remember(state, request, before, &answer, effects);
    answer
}
