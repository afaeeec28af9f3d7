//! A sorted map that knows the position of each entry, shares structure with its clones, and tells two of its versions
//! apart without looking at what they share.
//!
//! A B+ tree whose branches count the entries below them. Cloning copies a pointer; a change copies the nodes on one
//! path. That is why two versions differ in few nodes, and why a walk over both can skip the others by their address.

mod differences;
mod node;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::slice;
use std::sync::Arc;

pub(super) use differences::{Difference, Differences};

use self::node::Node;

/// Entries in ascending order of their keys. Cloning shares them.
#[derive(Clone, Debug)]
pub(super) struct Sequence<K, V> {
    root: Arc<Node<K, V>>,
}

impl<K: Ord + Clone, V: Clone> Sequence<K, V> {
    /// A sequence of entries that are in ascending order, each key once.
    pub(super) fn from_sorted(entries: impl IntoIterator<Item = (K, V)>) -> Self {
        Self {
            root: Arc::new(Node::from_sorted(entries.into_iter())),
        }
    }

    /// The number of entries.
    pub(super) fn len(&self) -> usize {
        self.root.len()
    }

    /// The last entry.
    pub(super) fn last(&self) -> Option<&(K, V)> {
        self.root.last()
    }

    /// The position of a key, or the one that it would get.
    pub(super) fn rank(&self, key: &K) -> Result<usize, usize> {
        self.root.rank(key)
    }

    /// Puts an entry in its place. What was there under the same key comes back.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let root = Arc::make_mut(&mut self.root);
        let (replaced, right) = root.insert(key, value);
        if let Some(right) = right {
            let left = std::mem::replace(root, Node::empty());
            *root = Node::branch(vec![Arc::new(left), right]);
        }
        replaced
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        // Nothing is copied for a key that is not there.
        self.rank(key).ok()?;
        let removed = Arc::make_mut(&mut self.root).remove(key);
        while let Some(below) = self.root.only_child() {
            self.root = below;
        }
        removed
    }

    /// Takes the last entry out.
    pub(super) fn pop_last(&mut self) {
        if let Some((last, _)) = self.last() {
            let last = last.clone();
            self.remove(&last);
        }
    }

    /// The entries from a position on.
    pub(super) fn iter_from(&self, position: usize) -> Iter<'_, K, V> {
        Iter::new(&self.root, position)
    }

    /// What has become of an older version, as far as it can be seen in a window of positions.
    pub(super) fn differences<'a>(&'a self, older: &'a Self, window: Range<usize>) -> Differences<'a, K, V> {
        Differences::new(&older.root, &self.root, window)
    }
}

/// The entries in order.
pub(super) struct Iter<'a, K, V> {
    branches: Vec<slice::Iter<'a, Arc<Node<K, V>>>>,
    entries: slice::Iter<'a, (K, V)>,
}

impl<'a, K: Ord + Clone, V: Clone> Iter<'a, K, V> {
    fn new(root: &'a Node<K, V>, position: usize) -> Self {
        let mut iter = Self {
            branches: Vec::new(),
            entries: [].iter(),
        };
        let (mut node, mut skipped) = (root, position);
        loop {
            match node {
                Node::Leaf(entries) => {
                    iter.entries = entries.get(skipped..).unwrap_or_default().iter();
                    return iter;
                }
                Node::Branch { children, .. } => {
                    let mut later = children.iter();
                    let found = later.by_ref().find(|child| {
                        let is_here = skipped < child.len();
                        skipped -= if is_here { 0 } else { child.len() };
                        is_here
                    });
                    let Some(child) = found else { return iter };
                    iter.branches.push(later);
                    node = child;
                }
            }
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = &'a (K, V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.entries.next() {
                return Some(entry);
            }
            match self.branches.last_mut()?.next().map(Arc::as_ref) {
                Some(Node::Leaf(entries)) => self.entries = entries.iter(),
                Some(Node::Branch { children, .. }) => self.branches.push(children.iter()),
                None => {
                    self.branches.pop();
                }
            }
        }
    }
}
