//! Epochs, the history of changes, and directories that have neither yet.

use fjall::{OwnedWriteBatch, PersistMode};

use super::super::engine;
use super::super::history::history_key;
use super::super::layout::{CATALOG, HEAD, Stamp, record_key};
use super::super::mark::CommitMark;
use super::super::recovery::Standing;
use super::*;

fn told(bucket: u32, seq: u64, old: Option<&str>) -> StoredGroup {
    StoredGroup {
        bucket: BucketId(bucket),
        commits: vec![StoredCommit {
            seq,
            changes: vec![(RowId(0), old.map(record))],
        }],
    }
}

fn with_history(mut batch: Batch, groups: Vec<StoredGroup>, floors: &[(u32, u64)], forgotten: &[(u32, u64)]) -> Batch {
    let by_id = |(bucket, seq): &(u32, u64)| (BucketId(*bucket), *seq);
    batch.history = HistoryUpdate {
        groups,
        floors: floors.iter().map(by_id).collect(),
        forgotten: forgotten.iter().map(by_id).collect(),
    };
    batch
}

fn history_of(dir: &Path) -> Result<Vec<StoredHistory>, OpenError> {
    let (mut embedded, _) = Embedded::open(dir, SyncLevel::EveryGroup)?;
    load(&mut embedded);
    embedded.load_history()
}

fn epoch_of(dir: &Path, level: SyncLevel) -> u64 {
    Embedded::open(dir, level).unwrap().0.epoch()
}

#[test]
fn a_history_is_what_the_last_whole_group_left() {
    let dir = tempfile::tempdir().unwrap();
    let (mut embedded, _) = open(dir.path());
    let floors = [(1, 1), (2, 1)];
    embedded
        .append(&with_history(defining(1, &[1, 2]), Vec::new(), &floors, &[]))
        .unwrap();
    for seq in 2..8 {
        let forgotten = if seq > 4 { vec![(1, seq - 3)] } else { Vec::new() };
        let old = (seq > 2).then(|| format!("{}", seq - 1));
        let batch = group(seq, vec![put(1, 0, &format!("{seq}"))]);
        let groups = vec![told(1, seq, old.as_deref())];
        embedded.append(&with_history(batch, groups, &forgotten, &forgotten)).unwrap();
        let histories = history_of(killed(dir.path()).path()).unwrap();
        let kept: Vec<_> = histories[0].groups.iter().map(|group| group.commits[0].seq).collect();
        assert_eq!(kept, (2.max(seq.saturating_sub(2))..=seq).collect::<Vec<_>>());
        assert_eq!(histories[0].floor, if seq > 4 { seq - 3 } else { 1 });
        assert_eq!(histories[0].groups.last(), Some(&told(1, seq, old.as_deref())));
        assert_eq!((histories.len(), histories[1].groups.len()), (2, 0));
    }
}

#[test]
fn the_history_of_a_dropped_bucket_goes_with_it_at_once_and_from_the_disk_soon() {
    let dir = tempfile::tempdir().unwrap();
    let (mut embedded, _) = open(dir.path());
    embedded
        .append(&with_history(defining(1, &[1, 2]), Vec::new(), &[(1, 1), (2, 1)], &[]))
        .unwrap();
    for seq in 2..1_500 {
        let groups = vec![told(1, seq, None), told(2, seq, None)];
        embedded.append(&with_history(group(seq, Vec::new()), groups, &[], &[])).unwrap();
    }
    let dropped = Batch {
        dropped: vec![BucketId(1)],
        ..defining(1_500, &[2])
    };
    embedded.append(&dropped).unwrap();
    drop(embedded);
    let (mut embedded, _) = open(dir.path());
    load(&mut embedded);
    let histories = embedded.load_history().unwrap();
    assert_eq!(
        (histories.len(), histories[0].bucket, histories[0].groups.len()),
        (1, BucketId(2), 1_498)
    );
    let left = |embedded: &Embedded| {
        embedded
            .meta
            .range(history_key(BucketId(1), 0)..history_key(BucketId(2), 0))
            .count()
    };
    assert_eq!(left(&embedded), 1_499);
    assert!(embedded.tidy().unwrap());
    assert_eq!(left(&embedded), 499);
    assert!(!embedded.tidy().unwrap());
    assert_eq!(left(&embedded), 0);
}

#[test]
fn a_malformed_history_is_damage() {
    let key = |seq| history_key(BucketId(1), seq).to_vec();
    let group = |seq: u64| [&seq.to_be_bytes()[..], &[0, 0, 0, 0]].concat();
    let malformed: [(Vec<u8>, Vec<u8>); 6] = [
        (b"v\0\0".to_vec(), Vec::new()),
        (key(0), vec![1, 2, 3]),
        (key(5), Vec::new()),
        (key(5), group(6)),
        (key(5), vec![0; 11]),
        (history_key(BucketId(2), 5).to_vec(), group(5)),
    ];
    for (key, value) in malformed {
        let dir = tempfile::tempdir().unwrap();
        let (mut embedded, _) = open(dir.path());
        embedded
            .append(&with_history(defining(1, &[1, 2]), Vec::new(), &[(1, 1)], &[]))
            .unwrap();
        drop(embedded);
        let (mut embedded, _) = open(dir.path());
        assert_eq!(embedded.load_history().unwrap().len(), 1);
        embedded.meta.insert(key.clone(), value).unwrap();
        let error = embedded.load_history().unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{key:?}: {error}");
    }
}

#[test]
fn an_epoch_lasts_as_long_as_nothing_that_was_seen_can_be_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let first = epoch_of(path, SyncLevel::EveryGroup);
    assert_eq!(epoch_of(path, SyncLevel::EveryGroup), first);
    let (mut embedded, _) = open(path);
    embedded.append(&defining(1, &[1])).unwrap();
    assert_eq!(epoch_of(killed(path).path(), SyncLevel::EveryGroup), first);
    drop(embedded);

    let mut epochs = vec![first];
    let mut is_new = |level| {
        let epoch = epoch_of(path, level);
        let new = !epochs.contains(&epoch);
        epochs.push(epoch);
        new
    };
    // A power failure may take back what was seen since the last sync.
    assert!(is_new(SyncLevel::OnRequest));
    assert!(is_new(SyncLevel::OnRequest));
    assert!(is_new(SyncLevel::EveryGroup));
    assert!(!is_new(SyncLevel::EveryGroup));
    // The operator went on with what could be read.
    std::fs::remove_file(CommitMark::path(path)).unwrap();
    assert!(is_new(SyncLevel::EveryGroup));
    assert!(!is_new(SyncLevel::EveryGroup));
    assert_eq!(read_back(path).unwrap().0.seq, 1);
}

/// A directory as servers before epochs and histories left it.
fn earlier_layout() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let opened = engine::open(dir.path(), &Standing::Fresh).unwrap();
    let stamp = Stamp {
        seq: 4,
        previous: 0,
        now: 1004,
        floor: opened.db.supervisor.seqno.get(),
    };
    let mut batch = OwnedWriteBatch::with_capacity(opened.db.clone(), 3).durability(Some(PersistMode::SyncData));
    batch.insert(&opened.meta, HEAD, stamp.encode());
    batch.insert(&opened.meta, CATALOG, serde_json::to_vec(&catalog(&[1])).unwrap());
    batch.insert(&opened.records, record_key(BucketId(1), RowId(0)), record("a").as_bytes());
    batch.commit().unwrap();
    drop(opened);
    CommitMark::create(dir.path(), 4).unwrap();
    std::fs::write(dir.path().join("format"), "noex-server data 1\n").unwrap();
    dir
}

#[test]
fn a_directory_of_the_earlier_layout_is_taken_over() {
    let dir = earlier_layout();
    let (mut embedded, recovered) = open(dir.path());
    assert_eq!((recovered.seq, recovered.now, recovered.catalog), (4, 1004, catalog(&[1])));
    assert_eq!(texts(&load(&mut embedded)), [(1, 0, "a".to_owned())]);
    assert_eq!(embedded.load_history().unwrap(), []);
    let epoch = embedded.epoch();
    let batch = with_history(group(5, vec![gone(1, 0)]), vec![told(1, 5, Some("a"))], &[(1, 4)], &[]);
    embedded.append(&batch).unwrap();
    drop(embedded);
    assert_eq!(std::fs::read_to_string(dir.path().join("format")).unwrap(), "noex-server data 2\n");
    let (mut embedded, recovered) = open(dir.path());
    assert_eq!((recovered.seq, embedded.epoch()), (5, epoch));
    assert_eq!(load(&mut embedded), Records::new());
    let expected = StoredHistory {
        bucket: BucketId(1),
        floor: 4,
        groups: vec![told(1, 5, Some("a"))],
    };
    assert_eq!(embedded.load_history().unwrap(), [expected]);
}

#[test]
fn a_takeover_that_was_interrupted_is_done_again() {
    let dir = earlier_layout();
    let first = epoch_of(dir.path(), SyncLevel::EveryGroup);
    // Killed before the format was written.
    std::fs::write(dir.path().join("format"), "noex-server data 1\n").unwrap();
    assert_eq!(epoch_of(dir.path(), SyncLevel::EveryGroup), first);
    assert_eq!(read_back(dir.path()).unwrap().1.len(), 1);
    assert_eq!(std::fs::read_to_string(dir.path().join("format")).unwrap(), "noex-server data 2\n");
}
