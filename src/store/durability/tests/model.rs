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
                    let batch = group(seq, records.collect());
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
                }
            }
        }
        drop(embedded);
        prop_assert_eq!(&read_back(dir.path()).unwrap().1, &model);
    }
}
