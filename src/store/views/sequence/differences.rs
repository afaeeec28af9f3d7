//! What differs between two versions of a sequence.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use super::node::Node;

/// A place at which two versions differ, or in which they were not known to be the same.
#[derive(Debug)]
pub(in crate::store::views) enum Difference<'a, V> {
    /// Only the older version has the key.
    Gone {
        /// Its position in the older version.
        before: usize,
        /// Its value there.
        old: &'a V,
    },
    /// Only the newer version has the key.
    Came {
        /// Its position in the newer version.
        after: usize,
        /// Its value there.
        new: &'a V,
    },
    /// Both have the key, with values that may be equal.
    Both {
        /// Its position in the older version.
        before: usize,
        /// Its position in the newer version.
        after: usize,
        /// Its value in the older version.
        old: &'a V,
        /// Its value in the newer version.
        new: &'a V,
    },
}

/// Walks two versions side by side, in the order of keys, and passes over the nodes that they share: those that lie
/// in both versions before, in or behind the window. It ends behind the window.
pub(in crate::store::views) struct Differences<'a, K, V> {
    old: Cursor<'a, K, V>,
    new: Cursor<'a, K, V>,
    window: Range<usize>,
}

/// A place in one version.
struct Cursor<'a, K, V> {
    /// What lies ahead, the nearest last. No part is empty.
    ahead: Vec<Part<'a, K, V>>,
    position: usize,
}

enum Part<'a, K, V> {
    Nodes(&'a [Arc<Node<K, V>>]),
    Entries(&'a [(K, V)]),
}

/// What lies next.
enum Head<'a, K, V> {
    Node(&'a Arc<Node<K, V>>),
    Entry(&'a (K, V)),
}

impl<'a, K: Ord, V> Differences<'a, K, V> {
    pub(super) fn new(old: &'a Arc<Node<K, V>>, new: &'a Arc<Node<K, V>>, window: Range<usize>) -> Self {
        Self {
            old: Cursor::new(old),
            new: Cursor::new(new),
            window,
        }
    }

    /// Whether nodes of so many entries that begin at these positions lie on one side of the window.
    fn is_on_one_side(&self, len: usize) -> bool {
        let side = |start: usize| {
            let end = start + len;
            if end <= self.window.start {
                Some(Ordering::Less)
            } else if start >= self.window.end {
                Some(Ordering::Greater)
            } else {
                (start >= self.window.start && end <= self.window.end).then_some(Ordering::Equal)
            }
        };
        let old = side(self.old.position);
        old.is_some() && old == side(self.new.position)
    }

    /// Passes over two nodes, or opens the one of them that begins first, or else the larger.
    fn nodes(&mut self, old: &'a Arc<Node<K, V>>, new: &'a Arc<Node<K, V>>) {
        if Arc::ptr_eq(old, new) && self.is_on_one_side(old.len()) {
            self.old.pass();
            self.new.pass();
            return;
        }
        let first = old.first().cmp(&new.first());
        if first.then_with(|| new.len().cmp(&old.len())).is_gt() {
            self.new.open();
        } else {
            self.old.open();
        }
    }

    fn gone(&mut self, old: &'a (K, V)) -> Difference<'a, V> {
        Difference::Gone {
            before: self.old.pass(),
            old: &old.1,
        }
    }

    fn came(&mut self, new: &'a (K, V)) -> Difference<'a, V> {
        Difference::Came {
            after: self.new.pass(),
            new: &new.1,
        }
    }

    fn entries(&mut self, old: &'a (K, V), new: &'a (K, V)) -> Difference<'a, V> {
        match old.0.cmp(&new.0) {
            Ordering::Less => self.gone(old),
            Ordering::Greater => self.came(new),
            Ordering::Equal => Difference::Both {
                before: self.old.pass(),
                after: self.new.pass(),
                old: &old.1,
                new: &new.1,
            },
        }
    }
}

impl<'a, K: Ord, V> Iterator for Differences<'a, K, V> {
    type Item = Difference<'a, V>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.old.position < self.window.end || self.new.position < self.window.end {
            match (self.old.head(), self.new.head()) {
                (Some(Head::Node(old)), Some(Head::Node(new))) => self.nodes(old, new),
                (Some(Head::Entry(old)), Some(Head::Entry(new))) => return Some(self.entries(old, new)),
                (Some(Head::Entry(old)), Some(Head::Node(new))) if new.first() > Some(&old.0) => return Some(self.gone(old)),
                (Some(Head::Node(old)), Some(Head::Entry(new))) if old.first() > Some(&new.0) => return Some(self.came(new)),
                (Some(Head::Entry(old)), None) => return Some(self.gone(old)),
                (None, Some(Head::Entry(new))) => return Some(self.came(new)),
                (Some(Head::Node(_)), Some(Head::Entry(_)) | None) => self.old.open(),
                (Some(Head::Entry(_)) | None, Some(Head::Node(_))) => self.new.open(),
                (None, None) => return None,
            }
        }
        None
    }
}

impl<'a, K, V> Cursor<'a, K, V> {
    fn new(root: &'a Arc<Node<K, V>>) -> Self {
        let ahead = if root.len() == 0 {
            Vec::new()
        } else {
            vec![Part::Nodes(std::slice::from_ref(root))]
        };
        Self { ahead, position: 0 }
    }

    fn head(&self) -> Option<Head<'a, K, V>> {
        match self.ahead.last()? {
            Part::Nodes(nodes) => nodes.first().map(Head::Node),
            Part::Entries(entries) => entries.first().map(Head::Entry),
        }
    }

    /// Goes behind what lies next. Gives the position that it had.
    fn pass(&mut self) -> usize {
        let position = self.position;
        self.position += match self.take() {
            Some(Head::Node(node)) => node.len(),
            Some(Head::Entry(_)) => 1,
            None => 0,
        };
        position
    }

    /// Puts the parts of the node that lies next in its place.
    fn open(&mut self) {
        match self.take() {
            Some(Head::Node(node)) => self.ahead.push(match &**node {
                Node::Leaf(entries) => Part::Entries(entries),
                Node::Branch { children, .. } => Part::Nodes(children),
            }),
            Some(Head::Entry(_)) | None => {}
        }
    }

    fn take(&mut self) -> Option<Head<'a, K, V>> {
        let part = self.ahead.last_mut()?;
        let (head, is_empty) = match part {
            Part::Nodes(nodes) => {
                let (first, rest) = nodes.split_first()?;
                *nodes = rest;
                (Head::Node(first), rest.is_empty())
            }
            Part::Entries(entries) => {
                let (first, rest) = entries.split_first()?;
                *entries = rest;
                (Head::Entry(first), rest.is_empty())
            }
        };
        if is_empty {
            self.ahead.pop();
        }
        Some(head)
    }
}
