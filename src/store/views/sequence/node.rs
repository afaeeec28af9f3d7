//! The nodes of the tree. All leaves are equally deep; no node but an empty root is empty.

use std::sync::Arc;

/// Entries in a leaf and nodes in a branch, at most. More would make the copies of a change dearer, fewer the walks.
pub(super) const WIDTH_MAX: usize = 32;
/// A node that becomes narrower than this goes into its neighbour, where there is room.
const WIDTH_MIN: usize = WIDTH_MAX / 4;

/// A part of the tree.
#[derive(Debug)]
pub(super) enum Node<K, V> {
    /// Entries.
    Leaf(Vec<(K, V)>),
    /// Nodes, with the number of entries below them.
    Branch { len: usize, children: Vec<Arc<Node<K, V>>> },
}

/// A copy is made to be changed: there is room for one more.
impl<K: Clone, V: Clone> Clone for Node<K, V> {
    fn clone(&self) -> Self {
        fn with_room<T: Clone>(items: &[T]) -> Vec<T> {
            let mut copy = Vec::with_capacity(items.len() + 1);
            copy.extend_from_slice(items);
            copy
        }
        match self {
            Self::Leaf(entries) => Self::Leaf(with_room(entries)),
            Self::Branch { len, children } => Self::Branch {
                len: *len,
                children: with_room(children),
            },
        }
    }
}

impl<K, V> Node<K, V> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Branch { len, .. } => *len,
        }
    }

    fn width(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Branch { children, .. } => children.len(),
        }
    }

    /// The first key; none in an empty root.
    pub(super) fn first(&self) -> Option<&K> {
        let mut node = self;
        loop {
            match node {
                Self::Leaf(entries) => return entries.first().map(|(key, _)| key),
                Self::Branch { children, .. } => node = children.first()?,
            }
        }
    }

    /// The last entry; none in an empty root.
    pub(super) fn last(&self) -> Option<&(K, V)> {
        let mut node = self;
        loop {
            match node {
                Self::Leaf(entries) => return entries.last(),
                Self::Branch { children, .. } => node = children.last()?,
            }
        }
    }
}

impl<K: Ord + Clone, V: Clone> Node<K, V> {
    pub(super) const fn empty() -> Self {
        Self::Leaf(Vec::new())
    }

    pub(super) fn branch(children: Vec<Arc<Self>>) -> Self {
        Self::Branch {
            len: children.iter().map(|child| child.len()).sum(),
            children,
        }
    }

    pub(super) fn from_sorted(entries: impl Iterator<Item = (K, V)>) -> Self {
        let mut level: Vec<_> = in_pieces(entries).into_iter().map(Self::Leaf).collect();
        while level.len() > 1 {
            level = in_pieces(level.into_iter().map(Arc::new)).into_iter().map(Self::branch).collect();
        }
        level.pop().unwrap_or_else(Self::empty)
    }

    pub(super) fn rank(&self, key: &K) -> Result<usize, usize> {
        let (mut node, mut before) = (self, 0);
        loop {
            match node {
                Self::Leaf(entries) => {
                    let found = entries.binary_search_by(|(held, _)| held.cmp(key));
                    return found.map(|at| before + at).map_err(|at| before + at);
                }
                Self::Branch { children, .. } => {
                    let at = child_for(children, key);
                    let (left, right) = children.split_at(at);
                    before += left.iter().map(|child| child.len()).sum::<usize>();
                    let Some(child) = right.first() else { return Err(before) };
                    node = child;
                }
            }
        }
    }

    /// Puts an entry in. Gives what it replaces, and the node that goes to the right of this one where it was full.
    pub(super) fn insert(&mut self, key: K, value: V) -> (Option<V>, Option<Arc<Self>>) {
        match self {
            Self::Leaf(entries) => match entries.binary_search_by(|(held, _)| held.cmp(&key)) {
                Ok(at) => (Some(std::mem::replace(&mut entries[at].1, value)), None),
                Err(at) => {
                    entries.insert(at, (key, value));
                    (None, split(entries, at).map(|right| Arc::new(Self::Leaf(right))))
                }
            },
            Self::Branch { len, children } => {
                let at = child_for(children, &key);
                let (replaced, right) = Arc::make_mut(&mut children[at]).insert(key, value);
                *len += usize::from(replaced.is_none());
                let Some(right) = right else { return (replaced, None) };
                children.insert(at + 1, right);
                let right = split(children, at + 1).map(|right| {
                    let right = Self::branch(right);
                    *len -= right.len();
                    Arc::new(right)
                });
                (replaced, right)
            }
        }
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        match self {
            Self::Leaf(entries) => {
                let at = entries.binary_search_by(|(held, _)| held.cmp(key)).ok()?;
                Some(entries.remove(at).1)
            }
            Self::Branch { len, children } => {
                let at = child_for(children, key);
                let removed = Arc::make_mut(children.get_mut(at)?).remove(key)?;
                *len -= 1;
                narrow(children, at);
                Some(removed)
            }
        }
    }

    /// What is below a root that is not needed any more.
    pub(super) fn only_child(&self) -> Option<Arc<Self>> {
        match self {
            Self::Leaf(_) => None,
            Self::Branch { children, .. } => match children.as_slice() {
                [] => Some(Arc::new(Self::empty())),
                [only] => Some(Arc::clone(only)),
                _ => None,
            },
        }
    }

    /// Two neighbours as one node, where they fit into one.
    fn merged(left: &Self, right: &Self) -> Option<Self> {
        if left.width() + right.width() > WIDTH_MAX {
            return None;
        }
        match (left, right) {
            (Self::Leaf(left), Self::Leaf(right)) => Some(Self::Leaf(left.iter().chain(right).cloned().collect())),
            (Self::Branch { children: left, .. }, Self::Branch { children: right, .. }) => {
                Some(Self::branch(left.iter().chain(right).cloned().collect()))
            }
            // Neighbours are equally deep.
            (Self::Leaf(_) | Self::Branch { .. }, _) => None,
        }
    }
}

/// Which child holds a key, if any does: the last that does not begin behind it.
fn child_for<K: Ord, V>(children: &[Arc<Node<K, V>>], key: &K) -> usize {
    let begun = children.partition_point(|child| child.first().is_some_and(|first| first <= key));
    begun.saturating_sub(1)
}

/// Cuts a node that has become too wide, given where the new item is. What grows at one end leaves full nodes behind.
fn split<T>(items: &mut Vec<T>, added: usize) -> Option<Vec<T>> {
    if items.len() <= WIDTH_MAX {
        return None;
    }
    let middle = match added {
        0 => 1,
        last if last + 1 == items.len() => last,
        _ => items.len() / 2,
    };
    Some(items.split_off(middle))
}

/// Merges a child that has become narrow with a neighbour, or drops it where it is empty.
fn narrow<K: Ord + Clone, V: Clone>(children: &mut Vec<Arc<Node<K, V>>>, at: usize) {
    let width = children[at].width();
    if width == 0 {
        children.remove(at);
        return;
    }
    if width >= WIDTH_MIN {
        return;
    }
    for left in [at.checked_sub(1), Some(at)].into_iter().flatten() {
        let Some([first, second]) = children.get(left..left + 2) else {
            continue;
        };
        if let Some(merged) = Node::merged(first, second) {
            children[left] = Arc::new(merged);
            children.remove(left + 1);
            return;
        }
    }
}

/// The items in order, in as few pieces as hold them.
fn in_pieces<T>(items: impl Iterator<Item = T>) -> Vec<Vec<T>> {
    let mut items = items.peekable();
    let mut pieces = Vec::new();
    while items.peek().is_some() {
        pieces.push(items.by_ref().take(WIDTH_MAX).collect());
    }
    pieces
}
