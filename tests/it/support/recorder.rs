//! A subscriber of a store without a server.

use std::sync::{Arc, Mutex};

use noex_server::protocol::SubscriptionId;
use noex_server::store::{ChangeSet, Sink, Update};
use serde_json::Value;

/// Keeps everything that was pushed.
#[derive(Default)]
pub struct Recorder(Mutex<Vec<Update>>);

impl Sink for Recorder {
    fn push(&self, _: SubscriptionId, update: Update) {
        self.0.lock().unwrap().push(update);
    }
}

impl Recorder {
    /// What was pushed since this was called last.
    pub fn take(&self) -> Vec<Update> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    /// The change sets that were pushed, by commit, where nothing else was.
    pub fn changes(&self) -> Vec<(u64, Value)> {
        let sets = self.take().into_iter().map(|update| match update {
            Update::Changes(set) => told(&set),
            Update::Result(_) | Update::Ended(_) | Update::Failed(_) | Update::Missed { .. } => panic!("unexpected {update:?}"),
        });
        sets.collect()
    }
}

/// The commit of a change set, and what it says.
pub fn told(set: &Arc<ChangeSet>) -> (u64, Value) {
    let data: Value = serde_json::from_slice(set.data()).unwrap();
    assert_eq!(data.as_array().unwrap().len(), set.count());
    (set.seq(), data)
}
