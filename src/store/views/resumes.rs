//! Deltas for those who come back, kept until the view changes: many who were away since the same commit, which is
//! what a broken network leaves behind, cost one.

use std::collections::HashMap;

use bytes::Bytes;

use super::ViewId;

/// Bytes of all deltas together; beyond it all are forgotten, and worked out again where they are needed.
const BYTES_MAX: usize = 16 << 20;
/// What an entry counts beside its delta.
const ENTRY_BYTES: usize = 64;

/// Deltas up to the latest result of each view, by the commit that they lead from.
#[derive(Default)]
pub(super) struct Resumes {
    deltas: HashMap<ViewId, HashMap<u64, Bytes>>,
    bytes: usize,
}

impl Resumes {
    pub(super) fn get(&self, view: ViewId, since: u64) -> Option<Bytes> {
        self.deltas.get(&view)?.get(&since).cloned()
    }

    pub(super) fn keep(&mut self, view: ViewId, since: u64, delta: Bytes) {
        let bytes = ENTRY_BYTES + delta.len();
        if self.bytes + bytes > BYTES_MAX {
            *self = Self::default();
        }
        self.bytes += bytes;
        let replaced = self.deltas.entry(view).or_default().insert(since, delta);
        self.bytes -= replaced.map_or(0, |older| ENTRY_BYTES + older.len());
    }

    pub(super) fn forget(&mut self, view: ViewId) {
        let gone = self.deltas.remove(&view).into_iter().flat_map(HashMap::into_values);
        self.bytes -= gone.map(|delta| ENTRY_BYTES + delta.len()).sum::<usize>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deltas_are_bounded_and_go_with_their_view() {
        let mut resumes = Resumes::default();
        let delta = Bytes::from(vec![b'x'; BYTES_MAX / 4]);
        for since in 0..3 {
            resumes.keep(ViewId(1), since, delta.clone());
        }
        resumes.keep(ViewId(2), 0, Bytes::from_static(b"{}"));
        assert!(resumes.get(ViewId(1), 2).is_some() && resumes.get(ViewId(2), 0).is_some());
        resumes.keep(ViewId(1), 2, delta.clone());
        resumes.keep(ViewId(1), 3, delta.clone());
        assert!(resumes.bytes <= BYTES_MAX, "{}", resumes.bytes);
        assert!(resumes.get(ViewId(1), 3).is_some() && resumes.get(ViewId(1), 0).is_none());
        resumes.forget(ViewId(1));
        assert!(resumes.get(ViewId(1), 3).is_none());
        resumes.forget(ViewId(2));
        assert_eq!(resumes.bytes, 0);
    }
}
