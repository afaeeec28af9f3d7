//! The tree against a sorted list.

use std::ops::Range;
use std::sync::Arc;

use proptest::prelude::*;

use super::node::{Node, WIDTH_MAX};
use super::{Difference, Sequence};

type Tree = Sequence<u32, u32>;
type Model = Vec<(u32, u32)>;

/// One change of a sequence.
#[derive(Clone, Debug)]
enum Step {
    Insert(u32, u32),
    Remove(u32),
    RemoveAll(Range<u32>),
    Append(u32),
    Prepend(u32),
    PopLast,
}

const KEYS: u32 = 4_000;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..KEYS, 0..4_u32).prop_map(|(key, value)| Step::Insert(key, value)),
        4 => (0..KEYS).prop_map(Step::Remove),
        2 => (0..KEYS, 0..800_u32).prop_map(|(start, len)| Step::RemoveAll(start..start + len)),
        1 => (1..80_u32).prop_map(Step::Append),
        1 => (1..80_u32).prop_map(Step::Prepend),
        1 => Just(Step::PopLast),
    ]
}

fn insert(tree: &mut Tree, model: &mut Model, key: u32, value: u32) {
    let expected = match model.binary_search_by_key(&key, |(key, _)| *key) {
        Ok(at) => Some(std::mem::replace(&mut model[at].1, value)),
        Err(at) => {
            model.insert(at, (key, value));
            None
        }
    };
    assert_eq!(tree.insert(key, value), expected);
}

fn remove(tree: &mut Tree, model: &mut Model, key: u32) {
    let at = model.iter().position(|(held, _)| *held == key);
    assert_eq!(tree.remove(&key), at.map(|at| model.remove(at).1));
}

fn carry_out(tree: &mut Tree, model: &mut Model, step: &Step) {
    match step {
        Step::Insert(key, value) => insert(tree, model, *key, *value),
        Step::Remove(key) => remove(tree, model, *key),
        Step::RemoveAll(keys) => keys.clone().for_each(|key| remove(tree, model, key)),
        Step::Append(count) => {
            let end = model.last().map_or(0, |(key, _)| key + 1);
            (end..end + count).for_each(|key| insert(tree, model, key, 9));
        }
        Step::Prepend(count) => {
            let start = model.first().map_or(KEYS, |(key, _)| *key);
            (start.saturating_sub(*count)..start)
                .rev()
                .for_each(|key| insert(tree, model, key, 9));
        }
        Step::PopLast => {
            tree.pop_last();
            model.pop();
        }
    }
}

fn start(keys: &[u32]) -> (Tree, Model) {
    let mut model: Model = keys.iter().map(|key| (*key, 0)).collect();
    model.sort_unstable();
    model.dedup();
    (Sequence::from_sorted(model.clone()), model)
}

/// How deep a part of a sound tree is.
fn depth(node: &Node<u32, u32>, is_root: bool) -> usize {
    match node {
        Node::Leaf(entries) => {
            assert!(is_root || !entries.is_empty(), "an empty leaf");
            assert!(entries.len() <= WIDTH_MAX);
            1
        }
        Node::Branch { len, children } => {
            assert!(!children.is_empty() && children.len() <= WIDTH_MAX);
            assert!(!is_root || children.len() > 1, "a root that is not needed");
            assert_eq!(*len, children.iter().map(|child| child.len()).sum::<usize>());
            let depths: Vec<_> = children.iter().map(|child| depth(child, false)).collect();
            assert!(depths.windows(2).all(|pair| pair[0] == pair[1]), "leaves are equally deep");
            depths[0] + 1
        }
    }
}

fn assert_equal(tree: &Tree, model: &Model) {
    depth(&tree.root, true);
    assert_eq!(tree.len(), model.len());
    assert_eq!(tree.last(), model.last());
    assert!(tree.iter_from(0).eq(model));
    for (at, (key, _)) in model.iter().enumerate() {
        assert_eq!(tree.rank(key), Ok(at));
        if model.get(at + 1).is_none_or(|(next, _)| *next > key + 1) {
            assert_eq!(tree.rank(&(key + 1)), Err(at + 1));
        }
    }
    for start in (0..model.len() + 40).step_by(37) {
        assert!(tree.iter_from(start).eq(model.iter().skip(start)));
    }
}

/// Whatever differs within the window must be told, with its positions; what is equal may be told.
fn assert_differences(old: (&Tree, &Model), new: (&Tree, &Model), window: &Range<usize>) {
    let position = |model: &Model, key: u32| model.binary_search_by_key(&key, |(key, _)| *key).ok();
    let is_in = |at: Option<usize>| at.is_some_and(|at| window.contains(&at));
    let mut told = std::collections::BTreeMap::new();
    for difference in new.0.differences(old.0, window.clone()) {
        let (before, after) = match difference {
            Difference::Gone { before, old: value } => {
                assert_eq!(old.1[before].1, *value);
                (Some(before), None)
            }
            Difference::Came { after, new: value } => {
                assert_eq!(new.1[after].1, *value);
                (None, Some(after))
            }
            Difference::Both {
                before,
                after,
                old: was,
                new: is,
            } => {
                assert_eq!((old.1[before].1, new.1[after].1), (*was, *is));
                (Some(before), Some(after))
            }
        };
        let key = before.map_or_else(|| new.1[after.unwrap()].0, |before| old.1[before].0);
        assert!(told.last_key_value().is_none_or(|(last, _)| *last < key), "in order");
        assert_eq!((before, after), (position(old.1, key), position(new.1, key)));
        told.insert(key, ());
    }
    for (key, _) in old.1.iter().chain(new.1) {
        let (before, after) = (position(old.1, *key), position(new.1, *key));
        let same = before.zip(after).is_some_and(|(before, after)| old.1[before].1 == new.1[after].1);
        if is_in(before) != is_in(after) || (is_in(before) && !same) {
            assert!(told.contains_key(key), "{key} goes from {before:?} to {after:?} in {window:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_sequence_is_a_sorted_list_and_its_older_versions_stay(
        keys in prop::collection::vec(0..KEYS, 0..3_000),
        steps in prop::collection::vec(step(), 1..40),
        windows in prop::collection::vec((0..3_000_usize, 0..3_000_usize), 4),
    ) {
        let (mut tree, mut model) = start(&keys);
        let mut versions = vec![(tree.clone(), model.clone())];
        for (at, step) in steps.iter().enumerate() {
            carry_out(&mut tree, &mut model, step);
            if at % 4 == 0 {
                versions.push((tree.clone(), model.clone()));
            }
        }
        versions.push((tree, model));
        for (tree, model) in &versions {
            assert_equal(tree, model);
        }
        let all = std::iter::once(0..usize::MAX);
        for window in windows.into_iter().map(|(start, len)| start..start + len).chain(all) {
            for (old, new) in versions.iter().zip(&versions[1..]).chain([(&versions[0], &versions[versions.len() - 1])]) {
                assert_differences((&old.0, &old.1), (&new.0, &new.1), &window);
                assert_differences((&new.0, &new.1), (&old.0, &old.1), &window);
            }
        }
    }
}

#[test]
fn few_changes_of_many_entries_are_found_without_looking_at_the_others() {
    let old = Tree::from_sorted((0..100_000).map(|key| (key * 2, 0)));
    for window in [0..usize::MAX, 0..60_000, 20_000..60_000] {
        let mut new = old.clone();
        new.insert(50_000, 1);
        assert_eq!(new.differences(&old, window.clone()).count(), WIDTH_MAX, "one leaf, for {window:?}");
        new.insert(1, 1);
        new.remove(&99_000);
        let leaves = 5 + if window.start > 0 { 2 } else { 0 } + if window.end < usize::MAX { 2 } else { 0 };
        let looked_at = new.differences(&old, window.clone()).count();
        assert!(looked_at <= leaves * WIDTH_MAX, "{looked_at} entries for {window:?}");
    }
}

#[test]
fn growing_at_either_end_leaves_full_leaves() {
    for descending in [false, true] {
        let mut tree = Tree::from_sorted([]);
        for key in 0..1_000 {
            tree.insert(if descending { 1_000 - key } else { key }, 0);
        }
        assert!(leaves(&tree.root) <= 1_000 / WIDTH_MAX + 2);
    }
}

#[test]
fn what_is_left_of_many_entries_does_not_lie_in_many_nodes() {
    let mut tree = Tree::from_sorted((0..10_000).map(|key| (key, 0)));
    for key in (0..10_000).filter(|key| key % 20 != 0) {
        tree.remove(&key);
    }
    assert_eq!(tree.len(), 500);
    assert!(leaves(&tree.root) <= 500 / (WIDTH_MAX / 4));
}

#[test]
fn what_is_not_there_is_removed_without_a_copy() {
    let old = Tree::from_sorted((0..100).map(|key| (key, 0)));
    let mut new = old.clone();
    assert_eq!(new.remove(&1_000), None);
    assert!(Arc::ptr_eq(&old.root, &new.root));
}

fn leaves(node: &Node<u32, u32>) -> usize {
    match node {
        Node::Leaf(_) => 1,
        Node::Branch { children, .. } => children.iter().map(|child| leaves(child)).sum(),
    }
}
