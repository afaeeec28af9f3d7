//! Random groups against a map.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Change(Vec<(u32, u64, Option<String>)>),
    /// Requests by number, remembered with a text or forgotten.
    Requests(Vec<(u64, Option<String>)>),
    Drop(u32),
    Tidy,
    Sync,
    Reopen,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    let change = (0..4u32, prop_oneof![0..6u64, any::<u64>()], proptest::option::of("[a-z]{0,30}"));
    let request = (0..6u64, proptest::option::of("[a-z]{0,30}"));
    prop_oneof![
        2 => vec(request, 1..5).prop_map(Step::Requests),
        6 => vec(change, 0..8).prop_map(Step::Change),
        1 => (0..4u32).prop_map(Step::Drop),
        1 => Just(Step::Tidy),
        1 => Just(Step::Sync),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
    ]
}

/// Groups of a bucket that its history keeps.
const GROUPS_KEPT: usize = 3;

/// The histories of a directory, by bucket.
type Histories = BTreeMap<u32, StoredHistory>;

/// Notes the old versions of the changed rows in the history, which forgets the oldest group where it has enough.
fn note(histories: &mut Histories, model: &Records, batch: &mut Batch) {
    let buckets: std::collections::BTreeSet<u32> = batch.records.iter().map(|change| change.bucket.0).collect();
    for bucket in buckets {
        let id = BucketId(bucket);
        let history = histories.entry(bucket).or_insert_with(|| {
            batch.history.floors.push((id, 0));
            StoredHistory {
                bucket: id,
                floor: 0,
                groups: Vec::new(),
            }
        });
        let of_bucket = batch.records.iter().filter(|change| change.bucket == id);
        let changes = of_bucket
            .map(|change| (change.row, model.get(&(bucket, change.row.0)).cloned()))
            .collect();
        let commits = vec![StoredCommit { seq: batch.seq, changes }];
        batch.history.groups.push(StoredGroup {
            bucket: id,
            commits: commits.clone(),
        });
        history.groups.push(StoredGroup { bucket: id, commits });
        if history.groups.len() > GROUPS_KEPT {
            let oldest = history.groups.remove(0).commits[0].seq;
            history.floor = oldest;
            batch.history.floors.push((id, oldest));
            batch.history.forgotten.push((id, oldest));
        }
    }
}

fn load_histories(embedded: &mut Embedded) -> Histories {
    let stored = embedded.load_history().unwrap();
    stored.into_iter().map(|history| (history.bucket.0, history)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_directory_holds_what_a_map_would(steps in vec(step(), 1..25), every_group in any::<bool>()) {
        let level = if every_group { SyncLevel::EveryGroup } else { SyncLevel::OnRequest };
        let mut dir = tempfile::tempdir().unwrap();
        let (mut embedded, _) = Embedded::open(dir.path(), level).unwrap();
        // Buckets by place; a dropped one is followed by one with a new id.
        let mut ids = [0, 1, 2, 3];
        let mut model = Records::new();
        let mut histories = Histories::new();
        let mut requests: Vec<RequestChange> = Vec::new();
        let mut seq = 1;
        embedded.append(&defining(seq, &ids)).unwrap();
        for step in steps {
            match step {
                Step::Change(changes) => {
                    seq += changes.len().max(1) as u64;
                    let records = changes.iter().map(|(bucket, row, text)| match text {
                        Some(text) => put(ids[*bucket as usize], *row, text),
                        None => gone(ids[*bucket as usize], *row),
                    });
                    let mut batch = group(seq, records.collect());
                    note(&mut histories, &model, &mut batch);
                    embedded.append(&batch).unwrap();
                    for change in batch.records {
                        let place = (change.bucket.0, change.row.0);
                        match change.record {
                            Some(record) => drop(model.insert(place, record)),
                            None => drop(model.remove(&place)),
                        }
                    }
                }
                // A group that only forgets has no commit of its own, and so the number of the one before it.
                Step::Requests(changes) => {
                    seq += changes.iter().filter(|(_, text)| text.is_some()).count() as u64;
                    let change = |(number, text): &(u64, Option<String>)| match text {
                        Some(text) => answered(*number, text),
                        None => forgotten(*number),
                    };
                    let batch = Batch { requests: changes.iter().map(change).collect(), ..group(seq, Vec::new()) };
                    embedded.append(&batch).unwrap();
                    requests.extend(batch.requests);
                }
                Step::Drop(bucket) => {
                    seq += 1;
                    let old = std::mem::replace(&mut ids[bucket as usize], seq as u32 + 10);
                    let batch = Batch { dropped: vec![BucketId(old)], ..defining(seq, &ids) };
                    embedded.append(&batch).unwrap();
                    model.retain(|(bucket, _), _| *bucket != old);
                    histories.remove(&old);
                }
                Step::Tidy => drop(embedded.tidy().unwrap()),
                Step::Sync => embedded.sync().unwrap(),
                Step::Reopen | Step::Kill => {
                    if matches!(step, Step::Kill) {
                        let copy = killed(dir.path());
                        drop(embedded);
                        dir = copy;
                    } else {
                        Box::new(embedded).close().unwrap();
                    }
                    let (opened, recovered) = Embedded::open(dir.path(), level).unwrap();
                    embedded = opened;
                    prop_assert_eq!((recovered.seq, recovered.now), (seq, 1000 + seq));
                    prop_assert_eq!(recovered.catalog, catalog(&ids));
                    prop_assert_eq!(recovered.requests, requests_after(&requests));
                    prop_assert_eq!(&load(&mut embedded), &model);
                    prop_assert_eq!(&load_histories(&mut embedded), &histories);
                }
            }
        }
        drop(embedded);
        prop_assert_eq!(&read_back(dir.path()).unwrap().1, &model);
    }
}
