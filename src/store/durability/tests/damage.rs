//! Damage is found and named, and nothing that is damaged is touched.

use super::super::layout::request_key;
use super::super::mark::CommitMark;
use super::*;

/// A directory as a kill leaves it after some groups, the log reaching to the end of the last one.
struct Victim {
    dir: tempfile::TempDir,
    log: PathBuf,
    /// Where each group ends in the log, with its number; from the start on.
    ends: Vec<(usize, u64)>,
    states: BTreeMap<u64, Records>,
}

impl Victim {
    fn new(groups: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (mut embedded, _) = open(dir.path());
        let log = newest_log(dir.path());
        let mut ends = vec![(0, 0)];
        let mut states = BTreeMap::from([(0, Records::new())]);
        let mut records = Records::new();
        for seq in 1..=groups {
            let mut batch = group(seq, vec![put(1, seq, &format!("record {seq}")), put(1, 0, &format!("{seq}"))]);
            batch.requests = vec![answered(seq, "x")];
            batch.catalog = (seq == 1).then(|| catalog(&[1]));
            batch.progress = vec![(
                BucketId(1),
                Progress {
                    next_row: seq + 1,
                    counter: seq,
                },
            )];
            embedded.append(&batch).unwrap();
            records.extend(
                batch
                    .records
                    .into_iter()
                    .map(|change| ((change.bucket.0, change.row.0), change.record.unwrap())),
            );
            states.insert(seq, records.clone());
            ends.push((content(&log).len(), seq));
        }
        let dir = killed(dir.path());
        let log = newest_log(dir.path());
        File::options()
            .write(true)
            .open(&log)
            .unwrap()
            .set_len(ends[groups as usize].0 as u64)
            .unwrap();
        Self { dir, log, ends, states }
    }

    fn length(&self) -> usize {
        self.ends[self.ends.len() - 1].0
    }

    /// The start of a group in the middle, the last group, and some of the rest. (That no single bit of a log goes
    /// unnoticed is tested where logs are read.)
    fn positions(&self) -> impl Iterator<Item = usize> {
        let middle = self.ends[self.ends.len() / 2].0;
        let last = self.ends[self.ends.len() - 2].0;
        (0..self.length()).filter(move |at| at % 83 == 0 || (middle..middle + 24).contains(at) || (*at > last && at % 3 == 0))
    }

    /// The number of the last group that ends at or before a position.
    fn whole_before(&self, at: usize) -> u64 {
        self.ends.iter().rev().find(|(end, _)| *end <= at).unwrap().1
    }

    fn set_mark(&self, marked: u64) {
        CommitMark::create(self.dir.path(), marked).unwrap();
    }

    /// Puts bytes into the log, opens the directory and checks what comes of it.
    fn check(&self, bytes: &[u8], marked: u64, allowed: &[u64], what: &str) {
        let copy = killed(self.dir.path());
        CommitMark::create(copy.path(), marked).unwrap();
        let log = copy.path().join(self.log.strip_prefix(self.dir.path()).unwrap());
        std::fs::write(&log, bytes).unwrap();
        match read_back(copy.path()) {
            Ok((recovered, records)) => {
                assert!(
                    allowed.contains(&recovered.seq) && recovered.seq >= marked,
                    "{what}: recovered up to {}",
                    recovered.seq
                );
                assert_eq!(records, self.states[&recovered.seq], "{what}");
                assert_eq!(
                    engine_files(copy.path(), "").len(),
                    3,
                    "{what}: {:?}",
                    engine_files(copy.path(), "")
                );
            }
            Err(OpenError::Damaged { file, reason, advice }) => {
                assert!(allowed.iter().all(|seq| *seq < marked), "{what}: {reason}");
                assert_eq!(file, log, "{what}");
                assert!(reason.contains(&format!("of {marked} commits")), "{what}: {reason}");
                assert!(advice.contains("commit.mark"), "{what}: {advice}");
                assert_eq!(std::fs::read(&log).unwrap(), bytes, "{what}");
                assert_eq!(
                    engine_files(copy.path(), "").len(),
                    3,
                    "{what}: {:?}",
                    engine_files(copy.path(), "")
                );
            }
            Err(error) => panic!("{what}: {error}"),
        }
    }
}

#[test]
fn a_log_cut_anywhere_is_recovered_to_the_last_whole_group_or_refused() {
    let victim = Victim::new(8);
    let log = std::fs::read(&victim.log).unwrap();
    for at in victim.positions() {
        let whole = victim.whole_before(at);
        victim.check(&log[..at], 8, &[whole], &format!("cut at {at}, all reported"));
        victim.check(&log[..at], 7, &[whole], &format!("cut at {at}, the last group not reported"));
    }
}

#[test]
fn a_log_that_ends_in_zeros_is_recovered_to_the_last_whole_group_or_refused() {
    let victim = Victim::new(8);
    let log = std::fs::read(&victim.log).unwrap();
    for at in victim.positions() {
        let mut bytes = log.clone();
        bytes[at..].fill(0);
        // The last bytes of a group can be zeros themselves.
        let whole = if bytes == log { 8 } else { victim.whole_before(at) };
        victim.check(&bytes, 8, &[whole], &format!("zeros from {at}"));
        victim.check(&bytes, 7, &[whole], &format!("zeros from {at}, the last group not reported"));
    }
}

#[test]
fn a_log_with_a_flipped_bit_is_recovered_to_the_last_whole_group_or_refused() {
    let victim = Victim::new(8);
    let log = std::fs::read(&victim.log).unwrap();
    for at in victim.positions() {
        let mut bytes = log.clone();
        bytes[at] ^= 1 << (at % 8);
        let whole = victim.whole_before(at);
        // Only the number under which the engine files the last group may change and leave everything as it is.
        let filed = victim.ends[7].0 + 5..victim.ends[7].0 + 13;
        let allowed: &[u64] = if filed.contains(&at) { &[7, 8] } else { &[whole] };
        if allowed.len() == 1 {
            victim.check(&bytes, 8, allowed, &format!("bit flipped at {at}"));
        }
        victim.check(&bytes, 7, allowed, &format!("bit flipped at {at}, the last group not reported"));
    }
}

#[test]
fn without_the_mark_what_can_be_read_is_taken_and_the_rest_kept_aside() {
    let victim = Victim::new(8);
    let mut bytes = std::fs::read(&victim.log).unwrap();
    bytes[victim.ends[5].0 + 20] ^= 1;
    std::fs::write(&victim.log, &bytes).unwrap();
    assert!(matches!(read_back(victim.dir.path()), Err(OpenError::Damaged { .. })));
    std::fs::remove_file(CommitMark::path(victim.dir.path())).unwrap();
    let (recovered, records) = read_back(victim.dir.path()).unwrap();
    assert_eq!((recovered.seq, &records), (5, &victim.states[&5]));
    assert_eq!(std::fs::read(victim.log.with_extension("jnl.damaged-1")).unwrap(), bytes);
    // From here on there is a mark again.
    let (mut embedded, _) = open(victim.dir.path());
    embedded.append(&group(6, vec![put(1, 6, "other")])).unwrap();
    drop(embedded);
    assert_eq!(read_back(victim.dir.path()).unwrap().0.seq, 6);
    assert!(CommitMark::path(victim.dir.path()).exists());
}

#[test]
fn a_damaged_mark_is_named() {
    let victim = Victim::new(3);
    std::fs::write(CommitMark::path(victim.dir.path()), [7; 8192]).unwrap();
    let error = read_back(victim.dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("commit.mark is damaged") && error.contains("up to commit 3"),
        "{error}"
    );
    std::fs::remove_file(CommitMark::path(victim.dir.path())).unwrap();
    assert_eq!(read_back(victim.dir.path()).unwrap().0.seq, 3);
}

#[test]
fn a_mark_ahead_of_a_whole_log_means_that_commits_are_missing() {
    let victim = Victim::new(3);
    victim.set_mark(5);
    let error = read_back(victim.dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("0.jnl is damaged") && error.contains("the last 2 of 5 commits"),
        "{error}"
    );
}

/// All files of a directory with their content, the locks aside.
fn everything(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("lock") && !path.ends_with("noex.lock") {
                files.insert(path.clone(), std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

#[test]
fn a_first_log_without_the_commits_that_were_reported_is_refused_before_anything_is_touched() {
    let (dir, ..) = with_tables();
    let victim = Victim::new(3);
    for dir in [victim.dir.path(), dir.path()] {
        let log = newest_log(dir);
        let name = log.file_name().unwrap();
        assert_eq!(name, "0.jnl");
        for bytes in [&[][..], &[0; 100], &[7; 100]] {
            std::fs::write(&log, bytes).unwrap();
            let before = everything(dir);
            let error = read_back(dir).unwrap_err().to_string();
            assert!(error.contains("Nothing was changed.") && error.contains("commit.mark"), "{error}");
            assert_eq!(everything(dir), before);
        }
        // The operator may go on with what the tables hold.
        std::fs::write(&log, []).unwrap();
        std::fs::remove_file(CommitMark::path(dir)).unwrap();
        read_back(dir).unwrap();
    }
}

#[test]
fn damage_that_is_found_behind_the_engine_is_not_said_to_have_changed_nothing() {
    let (dir, ..) = with_tables();
    let (embedded, _) = open(dir.path());
    let mut write = embedded.batch(1, fjall::PersistMode::Buffer, embedded.stamp(6, 1006));
    write.insert(&embedded.meta, b"p-".as_slice(), b"no counter".as_slice());
    write.commit().unwrap();
    Box::new(embedded).close().unwrap();
    let error = read_back(dir.path()).unwrap_err().to_string();
    assert!(error.contains("its counters cannot be read"), "{error}");
    assert!(!error.contains("Nothing was changed"), "{error}");
    assert!(error.contains("What was reported as stored is as it was"), "{error}");
}

#[test]
fn damage_in_a_log_that_newer_ones_follow_is_never_cut_off() {
    let victim = Victim::new(8);
    let log = std::fs::read(&victim.log).unwrap();
    let (older, newer) = log.split_at(victim.ends[4].0);
    let next = victim.log.with_file_name("1.jnl");
    let try_with = |older: Option<&[u8]>| {
        let copy = killed(victim.dir.path());
        let at = |log: &Path| copy.path().join(log.strip_prefix(victim.dir.path()).unwrap());
        match older {
            Some(older) => std::fs::write(at(&victim.log), older).unwrap(),
            None => std::fs::remove_file(at(&victim.log)).unwrap(),
        }
        std::fs::write(at(&next), newer).unwrap();
        std::fs::remove_file(CommitMark::path(copy.path())).unwrap();
        let result = read_back(copy.path());
        if result.is_err() {
            assert_eq!(std::fs::read(at(&victim.log)).ok().as_deref(), older);
            assert_eq!(std::fs::read(at(&next)).unwrap(), newer);
        }
        result
    };
    assert_eq!(try_with(Some(older)).unwrap().1, victim.states[&8]);
    assert_eq!(try_with(Some(&[older, &[0; 50]].concat())).unwrap().1, victim.states[&8]);
    for at in (40..older.len()).step_by(97) {
        let mut bytes = older.to_vec();
        bytes[at] ^= 4;
        assert!(try_with(Some(&bytes)).is_err(), "bit flipped at {at}");
        assert!(try_with(Some(&older[..at])).is_err(), "cut at {at}");
    }
    let error = try_with(None).unwrap_err().to_string();
    assert!(error.contains("the log with the commits from 1 to 4 is missing"), "{error}");
}

/// A directory with tables and a log, closed in good order.
fn with_tables() -> (tempfile::TempDir, Recovered, Records) {
    let dir = tempfile::tempdir().unwrap();
    let (mut embedded, _) = open(dir.path());
    embedded.append(&defining(1, &[1])).unwrap();
    for seq in 2..6 {
        embedded
            .append(&group(
                seq,
                (0..20).map(|row| put(1, seq * 100 + row, &"x".repeat(row as usize * 50))).collect(),
            ))
            .unwrap();
        embedded.records.rotate_memtable_and_wait().unwrap();
        embedded.meta.rotate_memtable_and_wait().unwrap();
    }
    embedded.append(&group(6, vec![put(1, 1, "in the log")])).unwrap();
    Box::new(embedded).close().unwrap();
    let (recovered, records) = read_back(dir.path()).unwrap();
    assert_eq!((recovered.seq, records.len()), (6, 81));
    (dir, recovered, records)
}

/// Every file that the engine keeps beside its logs and its empty lock.
fn all_engine_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = vec![dir.join("engine/version")];
    for keyspace in 0..3 {
        files.extend(engine_files(dir, &format!("keyspaces/{keyspace}")));
        files.extend(engine_files(dir, &format!("keyspaces/{keyspace}/tables")));
    }
    files
}

#[test]
fn a_flipped_bit_in_any_file_of_the_engine_is_found_and_named() {
    let (dir, recovered, records) = with_tables();
    for path in all_engine_files(dir.path()) {
        let good = std::fs::read(&path).unwrap();
        for at in (0..good.len()).step_by((good.len() / 12).max(1)) {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bytes).unwrap();
            match read_back(dir.path()) {
                Err(OpenError::Damaged { file, .. }) => assert!(
                    path.starts_with(&file) || file.starts_with(path.parent().unwrap()),
                    "{at} of {path:?}: {file:?}"
                ),
                // A file of an earlier state, which the engine has not removed yet.
                Ok(found) => assert_eq!(found, (recovered.clone(), records.clone()), "{at} of {path:?}"),
                Err(error) => panic!("{at} of {path:?}: {error}"),
            }
            if path.exists() {
                assert_eq!(std::fs::read(&path).unwrap(), bytes);
                std::fs::write(&path, &good).unwrap();
            }
        }
    }
    assert_eq!(read_back(dir.path()).unwrap(), (recovered, records));
}

#[test]
fn a_missing_file_of_the_engine_is_found_and_named() {
    let (dir, recovered, records) = with_tables();
    let logs = engine_files(dir.path(), "")
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ending| ending == "jnl"));
    for path in all_engine_files(dir.path()).into_iter().chain(logs) {
        let aside = dir.path().join("aside");
        std::fs::rename(&path, &aside).unwrap();
        let error = read_back(dir.path()).unwrap_err();
        let OpenError::Damaged { file, reason, .. } = error else {
            panic!("{path:?}: {error}")
        };
        assert!(path.starts_with(&file), "{path:?}: {file:?}");
        assert!(reason.contains("missing"), "{reason}");
        std::fs::rename(&aside, &path).unwrap();
    }
    std::fs::remove_file(dir.path().join("engine/lock")).unwrap();
    assert_eq!(read_back(dir.path()).unwrap(), (recovered, records));
}

#[test]
fn a_remembered_request_that_cannot_be_read_is_damage() {
    let cases: [(&[u8], &[u8]); 4] = [
        (&request_key(2), b"no request"),
        (b"r-", &answered(2, "x").remembered.unwrap().to_bytes()),
        (&request_key(2), &answered(1, "x").remembered.unwrap().to_bytes()),
        (&request_key(2), &answered(2, "x").remembered.unwrap().to_bytes()),
    ];
    for (at, (key, value)) in cases.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let (mut embedded, _) = open(dir.path());
        let requests = vec![answered(1, "x")];
        embedded
            .append(&Batch {
                requests,
                ..defining(1, &[1])
            })
            .unwrap();
        let mut write = embedded.batch(1, fjall::PersistMode::Buffer, embedded.stamp(1, 1001));
        write.insert(&embedded.meta, key, value);
        write.commit().unwrap();
        Box::new(embedded).close().unwrap();
        let found = read_back(dir.path());
        let expected = [
            "a remembered request cannot be read",
            "a remembered request cannot be read",
            "a request is remembered twice",
        ];
        match expected.get(at) {
            Some(reason) => {
                let error = found.unwrap_err().to_string();
                assert!(error.contains(reason), "{error}");
            }
            None => assert_eq!(found.unwrap().0.requests.count(), 2),
        }
    }
}

#[test]
fn another_format_is_refused_by_name() {
    let victim = Victim::new(1);
    std::fs::write(victim.dir.path().join("format"), "noex-server data 3\n").unwrap();
    let error = read_back(victim.dir.path()).unwrap_err();
    assert!(
        matches!(&error, OpenError::Format { found, expected, .. } if found == "noex-server data 3" && expected == "noex-server data 2")
    );
    assert!(error.to_string().contains("use the version that wrote it"), "{error}");
}

#[test]
fn data_without_its_format_is_not_taken_for_a_new_directory() {
    let victim = Victim::new(2);
    let format = victim.dir.path().join("format");
    std::fs::remove_file(&format).unwrap();
    for mark in [true, false] {
        if !mark {
            std::fs::remove_file(CommitMark::path(victim.dir.path())).unwrap();
        }
        let error = read_back(victim.dir.path()).unwrap_err();
        assert!(matches!(&error, OpenError::Damaged { file, .. } if *file == format), "{error}");
    }
    std::fs::write(&format, "noex-server data 2\n").unwrap();
    assert_eq!(read_back(victim.dir.path()).unwrap().1, victim.states[&2]);
}

#[test]
fn a_first_start_that_was_interrupted_is_started_anew() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let engine = dir.path().join("engine");
    let remove: [&dyn Fn(); 5] = [
        &|| {},
        &|| std::fs::remove_file(CommitMark::path(dir.path())).unwrap(),
        &|| std::fs::remove_dir_all(engine.join("keyspaces/2")).unwrap(),
        &|| std::fs::remove_file(engine.join("version")).unwrap(),
        &|| std::fs::remove_dir_all(engine.join("keyspaces")).unwrap(),
    ];
    for remove in remove {
        std::fs::remove_file(dir.path().join("format")).unwrap();
        remove();
        assert_eq!(read_back(dir.path()).unwrap(), (Recovered::default(), Records::new()));
    }
}
