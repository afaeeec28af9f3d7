//! Round trips, order, dropped buckets, the lock.

use super::super::DurabilityError;
use super::*;

#[cfg(unix)]
#[test]
fn a_new_directory_is_for_its_owner_alone_and_the_mode_of_another_one_stays() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |dir: &Path| std::fs::metadata(dir).unwrap().permissions().mode() & 0o777;
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("in/between/data");
    drop(open(&dir));
    assert_eq!(mode(&dir), 0o700);
    std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o750)).unwrap();
    drop(open(&dir));
    assert_eq!(mode(&dir), 0o750);
    std::fs::write(parent.path().join("file"), "").unwrap();
    let refused = Embedded::open(&parent.path().join("file"), SyncLevel::EveryGroup).err().unwrap();
    assert!(matches!(refused, OpenError::Io { .. }), "{refused}");
}

#[test]
fn a_new_directory_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("not/yet/there");
    assert_eq!(read_back(&deep).unwrap(), (Recovered::default(), Records::new()));
    assert_eq!(read_back(&deep).unwrap(), (Recovered::default(), Records::new()));
}

#[test]
fn all_of_a_group_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut embedded, _) = open(dir.path());
    let mut definitions = catalog(&[3, 1]);
    definitions
        .queries
        .push(serde_json::from_value(json!({ "name": "q", "config": { "z": 1, "a": [1.5] } })).unwrap());
    let progress = Progress {
        next_row: 9,
        counter: u64::MAX,
    };
    let batch = Batch {
        seq: 17,
        now: 1_760_000_000_000,
        records: vec![put(3, 2, "c"), put(1, 300, "b"), put(1, 2, "a")],
        progress: vec![(BucketId(3), progress), (BucketId(1), Progress::default())],
        catalog: Some(definitions.clone()),
        dropped: Vec::new(),
        history: HistoryUpdate::default(),
        requests: vec![answered(16, "d"), answered(3, "e")],
    };
    embedded.append(&batch).unwrap();
    Box::new(embedded).close().unwrap();
    let requests = requests_after(&batch.requests);

    let (recovered, records) = read_back(dir.path()).unwrap();
    assert_eq!(
        (recovered.seq, recovered.now, recovered.catalog),
        (17, 1_760_000_000_000, definitions)
    );
    assert_eq!((recovered.requests.count(), recovered.requests), (2, requests));
    assert_eq!(recovered.progress, [(BucketId(1), Progress::default()), (BucketId(3), progress)]);
    assert_eq!(
        texts(&records),
        [(1, 2, "a".to_owned()), (1, 300, "b".to_owned()), (3, 2, "c".to_owned())]
    );
}

#[test]
fn the_last_change_of_a_row_counts_within_a_group_and_between_groups() {
    let dir = tempfile::tempdir().unwrap();
    let (mut embedded, _) = open(dir.path());
    embedded.append(&defining(1, &[1])).unwrap();
    embedded
        .append(&group(
            2,
            vec![
                put(1, 0, "x"),
                gone(1, 0),
                put(1, 1, "x"),
                put(1, 1, "y"),
                gone(1, 2),
                put(1, 2, "z"),
            ],
        ))
        .unwrap();
    embedded.append(&group(4, vec![put(1, 3, "v"), put(1, 4, "w")])).unwrap();
    embedded.append(&group(5, vec![gone(1, 3), put(1, 4, "W")])).unwrap();
    for dir in [killed(dir.path()), killed(dir.path())] {
        let (recovered, records) = read_back(dir.path()).unwrap();
        assert_eq!(recovered.seq, 5);
        assert_eq!(
            texts(&records),
            [(1, 1, "y".to_owned()), (1, 2, "z".to_owned()), (1, 4, "W".to_owned())]
        );
    }
}

#[test]
fn a_kill_between_groups_loses_nothing_at_either_level() {
    for level in [SyncLevel::EveryGroup, SyncLevel::OnRequest] {
        let dir = tempfile::tempdir().unwrap();
        let (mut embedded, _) = Embedded::open(dir.path(), level).unwrap();
        embedded.append(&defining(1, &[1])).unwrap();
        for seq in 2..12 {
            embedded
                .append(&group(seq, vec![put(1, seq, &"x".repeat(seq as usize)), put(1, 1000 + seq, "y")]))
                .unwrap();
            if seq % 4 == 0 {
                embedded.sync().unwrap();
            }
            let (recovered, records) = read_back(killed(dir.path()).path()).unwrap();
            assert_eq!(
                (recovered.seq, recovered.now, records.len() as u64),
                (seq, 1000 + seq, 2 * (seq - 1))
            );
        }
    }
}

#[test]
fn a_directory_that_was_killed_goes_on_and_can_be_killed_again() {
    let mut dir = tempfile::tempdir().unwrap();
    for round in 0..6 {
        let (mut embedded, recovered) = open(dir.path());
        assert_eq!((recovered.seq, load(&mut embedded).len() as u64), (round * 2, round));
        embedded.append(&defining(round * 2 + 1, &[1])).unwrap();
        embedded.append(&group(round * 2 + 2, vec![put(1, round, "x")])).unwrap();
        dir = killed(dir.path());
    }
}

#[test]
fn a_dropped_bucket_is_gone_at_once_and_its_records_soon() {
    let dir = tempfile::tempdir().unwrap();
    let (mut embedded, _) = open(dir.path());
    embedded.append(&defining(1, &[1, 2, 3])).unwrap();
    let rows = 2500;
    embedded
        .append(&group(
            2,
            (0..rows).flat_map(|row| [1, 2, 3].map(|bucket| put(bucket, row, "x"))).collect(),
        ))
        .unwrap();
    let progress = [1, 2, 3].map(|bucket| {
        (
            BucketId(bucket),
            Progress {
                next_row: rows,
                counter: 0,
            },
        )
    });
    embedded
        .append(&Batch {
            progress: progress.to_vec(),
            ..group(3, Vec::new())
        })
        .unwrap();
    embedded
        .append(&Batch {
            dropped: vec![BucketId(2)],
            catalog: Some(catalog(&[1, 3])),
            ..group(4, vec![put(2, rows, "late"), put(1, 0, "y")])
        })
        .unwrap();

    let check = |dir: &Path| {
        let (mut embedded, recovered) = open(dir);
        assert_eq!(recovered.progress.iter().map(|(bucket, _)| bucket.0).collect::<Vec<_>>(), [1, 3]);
        let records = load(&mut embedded);
        assert_eq!(records.len() as u64, 2 * rows);
        assert!(records.keys().all(|(bucket, _)| *bucket != 2));
        embedded
    };
    drop(check(killed(dir.path()).path()));
    // Killed after every step of the purge, another process takes the rest over.
    assert!(embedded.tidy().unwrap());
    let copy = killed(dir.path());
    let mut other = check(copy.path());
    assert_eq!(other.records.prefix(2u32.to_be_bytes()).count(), 1500);
    while other.tidy().unwrap() {}
    assert_eq!(other.records.prefix(2u32.to_be_bytes()).count(), 0);
    drop(other);
    let mut other = check(copy.path());
    assert!(!other.tidy().unwrap());
    assert!(embedded.tidy().unwrap());
    assert!(!embedded.tidy().unwrap());
}

#[test]
fn tables_and_log_together_give_all_records() {
    let dir = tempfile::tempdir().unwrap();
    let (mut embedded, _) = open(dir.path());
    embedded.append(&defining(1, &[1])).unwrap();
    let long = "x".repeat(20_000);
    // More than one write buffer, so that tables are written, and rewritten rows lie in table and log.
    for seq in 2..40 {
        embedded
            .append(&group(
                seq,
                (0..40).map(|row| put(1, row * 7 + seq % 5, &format!("{seq}-{long}"))).collect(),
            ))
            .unwrap();
    }
    Box::new(embedded).close().unwrap();
    assert!(!engine_files(dir.path(), "keyspaces/1/tables").is_empty());
    let (recovered, records) = read_back(dir.path()).unwrap();
    assert_eq!(recovered.seq, 39);
    let newest = |place: u64| (2..40).rev().find(|seq| (0..40).any(|row| row * 7 + seq % 5 == place));
    for (_, place, text) in texts(&records) {
        assert!(text.starts_with(&format!("{}-", newest(place).unwrap())));
    }
    assert_eq!(records.len(), 200);
}

#[test]
fn a_directory_serves_one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (embedded, _) = open(dir.path());
    let error = Embedded::open(dir.path(), SyncLevel::EveryGroup).err().unwrap();
    assert!(matches!(error, OpenError::Locked { .. }));
    assert_eq!(
        error.to_string(),
        format!(
            "the data directory {} is in use by another process: stop that one, or choose another directory",
            dir.path().display()
        )
    );
    drop(embedded);
    open(dir.path());
}

#[test]
fn after_a_failure_nothing_is_written_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let (mut embedded, _) = open(dir.path());
    embedded.append(&defining(1, &[1])).unwrap();
    let failed = embedded
        .attempt(|_| Err::<(), _>("No space left on device".to_owned()))
        .unwrap_err();
    assert_eq!(
        failed.to_string(),
        format!("writing to {} failed: No space left on device", dir.path().display())
    );
    let stopped = DurabilityError::Stopped {
        dir: dir.path().to_owned(),
        cause: "No space left on device".to_owned(),
    };
    assert_eq!(embedded.append(&group(2, vec![put(1, 1, "x")])), Err(stopped.clone()));
    assert_eq!(embedded.tidy(), Err(stopped.clone()));
    assert_eq!(embedded.sync(), Err(stopped.clone()));
    assert_eq!(Box::new(embedded).close(), Err(stopped));
    assert_eq!(read_back(dir.path()).unwrap().0.seq, 1);
}
