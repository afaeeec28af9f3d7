//! What the remembered requests of each scope take, so that no scope takes all. What is in no scope is not counted.

use std::sync::Arc;

use super::{Name, OrdMap, Remembered};

/// What a scope takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) count: usize,
    pub(super) bytes: usize,
}

/// The shares of all scopes that have one.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Shares(OrdMap<Arc<str>, Share>);

impl Shares {
    /// That of the scope which the name is in; nothing where it is in none.
    pub(super) fn of(&self, name: &Name) -> Share {
        self.0.get(&name.scope).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, remembered: &Remembered) {
        let share = self.of(&remembered.name);
        self.set(
            &remembered.name,
            Share {
                count: share.count + 1,
                bytes: share.bytes + remembered.bytes(),
            },
        );
    }

    pub(super) fn take_off(&mut self, remembered: &Remembered) {
        let share = self.of(&remembered.name);
        self.set(
            &remembered.name,
            Share {
                count: share.count.saturating_sub(1),
                bytes: share.bytes.saturating_sub(remembered.bytes()),
            },
        );
    }

    fn set(&mut self, name: &Name, share: Share) {
        if share.count == 0 {
            self.0.remove(&name.scope);
        } else if !name.scope.is_empty() {
            self.0.insert(Arc::clone(&name.scope), share);
        }
    }
}
