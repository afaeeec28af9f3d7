//! The parts of the log, each by itself.

use std::borrow::Cow;
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::entry::{Entry, Line, TEXT_BYTES_MAX, Verdict, bounded};
use super::file::LogFile;
use super::queue::{Append, FileQueue};
use super::rings::{Added, Ring, Rings};
use super::{Answer, AuditLog, Filter, NotRecorded, Query, verify};
use crate::protocol::{ConnectionId, ErrorCode};
use crate::server::config::AuditConfig;

/// Lets threads through while it is open.
#[derive(Default)]
pub(crate) struct Gate {
    is_shut: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub(crate) fn shut(&self) {
        *self.is_shut.lock() = true;
    }

    pub(crate) fn open(&self) {
        *self.is_shut.lock() = false;
        self.opened.notify_all();
    }

    pub(crate) fn pass(&self) {
        self.opened.wait_while(&mut self.is_shut.lock(), |is_shut| *is_shut);
    }
}

/// A file whose writing the test makes fail or wait.
struct Scripted(Arc<dyn Fn() -> io::Result<()> + Send + Sync>);

impl Append for Scripted {
    fn append(&mut self, entries: &[Arc<Entry>], _: u64) -> io::Result<usize> {
        (self.0)().map(|()| entries.len())
    }
}

impl AuditLog {
    /// A log whose file asks a function of the test whether it can be written.
    pub(crate) fn with_failing_file(config: &AuditConfig, attempt: Arc<dyn Fn() -> io::Result<()> + Send + Sync>) -> Self {
        Self::with_files(config, Some(Box::new(Scripted(attempt))), None, 0).unwrap()
    }

    /// Returns when the file can be written again.
    pub(crate) async fn try_again(&self) {
        self.file.as_ref().unwrap().recovered().await;
    }
}

/// What was done with a resource.
pub(super) fn entry(ring: Ring, resource: &str) -> Entry {
    Entry {
        id: 0,
        timestamp: 1_000_000,
        user_id: None,
        session_id: ConnectionId::next(),
        operation: Cow::Borrowed("store.dropBucket"),
        resource: resource.to_owned(),
        result: Verdict::Error,
        error: Some("No".to_owned()),
        code: Some(ErrorCode::Forbidden),
        details: Map::new(),
        remote_address: IpAddr::from([10, 0, 0, 1]),
        actor: None,
        session: None,
        duration_us: None,
        repeats: None,
        ring,
        line: Line::Sure,
        is_plain: true,
        must_be_durable: false,
    }
}

pub(super) fn numbered(id: u64) -> Arc<Entry> {
    Arc::new(Entry {
        id,
        ..entry(Ring::Administration, &format!("r{id}"))
    })
}

/// The resources in memory, oldest first.
fn resources(rings: &Rings) -> Vec<String> {
    let (found, _) = rings.look(u64::MAX, &Filter::default());
    found.iter().rev().map(|entry| entry.resource.clone()).collect()
}

#[test]
fn a_full_log_drops_the_oldest_of_those_who_have_more_than_their_share() {
    let mut rings = Rings::new(16, 1 << 20, 0);
    for n in 0..6 {
        rings.add(entry(Ring::Administration, &format!("a{n}")));
    }
    for ring in [Ring::Strangers, Ring::Traffic, Ring::Refusals, Ring::Logins, Ring::Members] {
        for n in 0..100 {
            rings.add(entry(ring, &format!("{ring:?}{n}")));
            assert!(rings.len() <= 16);
        }
    }
    let mut expected: Vec<String> = (0..6).map(|n| format!("a{n}")).collect();
    for ring in ["Strangers", "Traffic", "Refusals", "Logins", "Members"] {
        expected.extend([98, 99].map(|n| format!("{ring}{n}")));
    }
    assert_eq!(resources(&rings), expected);
    // What nobody else uses, everybody may.
    let mut rings = Rings::new(16, 1 << 20, 0);
    for n in 0..100 {
        rings.add(entry(Ring::Traffic, &n.to_string()));
    }
    assert_eq!(resources(&rings), (84..100).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_log_of_one_entry_keeps_the_newest() {
    let mut rings = Rings::new(1, 1 << 20, 0);
    for ring in [Ring::Administration, Ring::Strangers, Ring::Logins] {
        rings.add(entry(ring, &format!("{ring:?}")));
        assert_eq!(resources(&rings), [format!("{ring:?}")]);
    }
}

#[test]
fn a_log_holds_no_more_bytes_than_it_may_and_strangers_only_their_share() {
    let max_bytes = 64 << 10;
    let mut rings = Rings::new(1_000_000, max_bytes, 0);
    let long = |ring, n: u32| {
        let mut entry = entry(ring, &format!("{n}"));
        entry.error = Some("x".repeat(TEXT_BYTES_MAX));
        entry
            .details
            .insert("username".to_owned(), Value::String("x".repeat(TEXT_BYTES_MAX)));
        entry
    };
    for n in 0..10 {
        rings.add(long(Ring::Administration, n));
    }
    for n in 0..1_000 {
        rings.add(long(Ring::Strangers, n));
    }
    let weight = long(Ring::Administration, 0).weight();
    assert!(
        weight > 2 * TEXT_BYTES_MAX && rings.len() * weight <= max_bytes,
        "{} of {weight}",
        rings.len()
    );
    assert!(rings.len() > 20, "{}", rings.len());
    assert_eq!(resources(&rings)[..10], ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
}

#[test]
fn repeats_count_for_ten_minutes_and_the_file_hears_of_every_doubling() {
    let mut rings = Rings::new(100, 1 << 20, 0);
    let at = |timestamp| Entry {
        timestamp,
        ..entry(Ring::Strangers, "a")
    };
    let mut written = Vec::new();
    for n in 0..9 {
        match rings.add(at(1_000_000 + n)) {
            Added::New(_) => written.push(1),
            Added::Repeated(Some(entry)) => written.push(entry.repeats.unwrap().count),
            Added::Repeated(None) => {}
        }
    }
    assert_eq!(written, [1, 2, 4, 8]);
    assert_eq!(rings.len(), 1);
    let newest = |rings: &Rings| rings.look(u64::MAX, &Filter::default()).0.remove(0);
    let repeats = newest(&rings).repeats.unwrap();
    assert_eq!((repeats.count, repeats.last_timestamp), (9, 1_000_008));
    assert_eq!(newest(&rings).timestamp, 1_000_000);
    // Another address, another refusal, another time: another entry.
    let elsewhere = Entry {
        remote_address: IpAddr::from([10, 0, 0, 2]),
        ..at(1_000_009)
    };
    let otherwise = Entry {
        error: Some("Never".to_owned()),
        ..at(1_000_009)
    };
    for other in [elsewhere, otherwise, at(1_000_000 + 600_001)] {
        assert!(matches!(rings.add(other), Added::New(_)));
    }
    assert!(matches!(rings.add(at(1_000_000 + 600_002)), Added::Repeated(Some(_))));
    assert_eq!(rings.len(), 4);
}

#[test]
fn what_was_dropped_is_not_counted_on() {
    let mut rings = Rings::new(1, 1 << 20, 0);
    rings.add(entry(Ring::Strangers, "a"));
    rings.add(entry(Ring::Strangers, "b"));
    assert!(matches!(rings.add(entry(Ring::Strangers, "a")), Added::New(_)));
}

#[test]
fn repeats_match_a_time_that_any_of_them_may_have_been_in() {
    let mut rings = Rings::new(10, 1 << 20, 0);
    for timestamp in [1_000_000, 1_000_500] {
        rings.add(Entry {
            timestamp,
            ..entry(Ring::Strangers, "a")
        });
    }
    let count = |from, to| {
        let filter = Filter {
            from: Some(from),
            to: Some(to),
            ..Filter::default()
        };
        rings.look(u64::MAX, &filter).0.len()
    };
    assert_eq!(count(0.0, 999_999.0), 0);
    assert_eq!(count(0.0, 1_000_000.0), 1);
    assert_eq!(count(1_000_100.0, 1_000_200.0), 1);
    assert_eq!(count(1_000_500.0, 2e9), 1);
    assert_eq!(count(1_000_501.0, 2e9), 0);
}

#[test]
fn an_answer_that_cannot_hold_the_newest_entry_is_refused() {
    let mut rings = Rings::new(10, 1 << 20, 0);
    rings.add(entry(Ring::Traffic, "a"));
    let query = Query {
        filter: Filter::default(),
        limit: usize::MAX,
        before: u64::MAX,
    };
    assert_eq!(query.run(20, |before, filter| rings.look(before, filter)), Answer::TooLarge);
}

#[test]
fn texts_are_cut_between_letters_and_marked() {
    assert_eq!(bounded("short"), "short");
    assert_eq!(bounded(&"x".repeat(256)), "x".repeat(256));
    assert_eq!(bounded(&"x".repeat(257)), format!("{}…", "x".repeat(253)));
    let cut = bounded(&"€".repeat(100));
    assert_eq!(cut, format!("{}…", "€".repeat(84)));
    // What counts is what they take in the file.
    assert_eq!(bounded(&"\u{1}".repeat(252)), format!("{}…", "\u{1}".repeat(42)));
    assert_eq!(bounded(&"\u{202e}".repeat(43)), format!("{}…", "\u{202e}".repeat(42)));
    assert_eq!(bounded(&"\"".repeat(128)), "\"".repeat(128));
    assert_eq!(bounded(&"\"".repeat(129)), format!("{}…", "\"".repeat(126)));
}

fn open(path: &Path) -> LogFile {
    LogFile::open(path, 1 << 20, 3).unwrap()
}

/// The lines of a file, each of which must lead to the next. `prev` is what the first says.
pub(super) fn chained(path: &Path, mut prev: String) -> (Vec<Value>, String) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    let mut lines = Vec::new();
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).unwrap();
        assert_eq!(value["prev"], prev, "{line}");
        prev = Sha256::digest(line.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        lines.push(value);
    }
    (lines, prev)
}

pub(super) fn origin() -> String {
    "0".repeat(64)
}

#[test]
fn lines_are_chained_also_across_restarts_and_ids_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut file = open(&path);
    assert_eq!(file.last_id(), 0);
    file.append(&[numbered(1), numbered(2)], 0).unwrap();
    file.append(&[numbered(3)], 7).unwrap();
    drop(file);
    let mut file = open(&path);
    assert_eq!(file.last_id(), 3);
    file.append(&[numbered(4)], 0).unwrap();
    let (lines, _) = chained(&path, origin());
    let ids: Vec<_> = lines.iter().map(|line| line.get("id").and_then(Value::as_u64)).collect();
    assert_eq!(ids, [Some(1), Some(2), None, Some(3), Some(4)]);
    assert_eq!((&lines[2]["operation"], &lines[2]["count"]), (&json!("audit.missed"), &json!(7)));
    assert_eq!((&lines[0]["resource"], &lines[0]["code"]), (&json!("r1"), &json!("FORBIDDEN")));
}

#[cfg(unix)]
#[test]
fn only_the_servers_own_user_may_read_the_file_and_only_one_process_writes_it() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let file = open(&path);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let error = LogFile::open(&path, 1, 1).err().unwrap().to_string();
    assert!(
        error.contains("another process writes it") && error.contains("audit.jsonl"),
        "{error}"
    );
    drop(file);
    assert!(LogFile::open(folder.path(), 1, 1).is_err());
}

#[test]
fn a_torn_last_line_is_cut_off_wherever_it_was_torn() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    open(&path).append(&[numbered(1), numbered(2)], 0).unwrap();
    let whole = fs::read(&path).unwrap();
    let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for cut in first..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        assert_eq!(open(&path).last_id(), 1, "{cut}");
        assert_eq!(fs::read(&path).unwrap(), whole[..first], "{cut}");
    }
    // Also where all that there is was torn, and where it is long.
    for torn in [&whole[..first - 1], &[0; 200_000]] {
        fs::write(&path, torn).unwrap();
        let mut file = open(&path);
        file.append(&[numbered(9)], 0).unwrap();
        drop(file);
        assert_eq!(chained(&path, origin()).0.len(), 1);
    }
}

#[test]
fn what_a_failed_write_has_left_is_cut_off_before_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut file = open(&path);
    file.append(&[numbered(1)], 0).unwrap();
    file.tear();
    fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap()
        .write_all(b"{\"id\":2,\"tim")
        .unwrap();
    file.append(&[numbered(2)], 0).unwrap();
    assert_eq!(chained(&path, origin()).0.len(), 2);
}

#[test]
fn a_large_file_is_put_aside_and_only_so_many_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    fs::write(folder.path().join("audit.jsonl.old"), "not ours").unwrap();
    let mut file = LogFile::open(&path, 1_000, 3).unwrap();
    for id in 1..=40 {
        file.append(&[numbered(id)], 0).unwrap();
    }
    drop(file);
    let mut aside: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    aside.retain(|file| *file != path && file.extension().is_some_and(|number| number != "old"));
    aside.sort();
    assert_eq!(aside.len(), 3);
    assert!(folder.path().join("audit.jsonl.old").exists());
    // The oldest that is left goes on from one that is not: from there on all is chained, into the file that is written.
    let text = fs::read_to_string(&aside[0]).unwrap();
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let mut prev = first["prev"].as_str().unwrap().to_owned();
    let mut ids = Vec::new();
    for file in aside.iter().chain([&path]) {
        let (lines, next) = chained(file, prev);
        assert!(file == &path || fs::metadata(file).unwrap().len() >= 1_000);
        ids.extend(lines.iter().map(|line| line["id"].as_u64().unwrap()));
        prev = next;
    }
    let count = ids.len() as u64;
    assert_eq!(ids, (41 - count..=40).collect::<Vec<_>>());
    // Where nothing was written since, a restart goes on behind what was put aside.
    fs::write(&path, "").unwrap();
    assert!(open(&path).last_id() > 0);
}

#[tokio::test]
async fn all_that_waits_is_written_at_once_and_in_order() {
    /// Notes the ids of each batch, while the test lets it.
    struct Batches(Arc<Mutex<Vec<Vec<u64>>>>, Arc<Gate>);
    impl Append for Batches {
        fn append(&mut self, entries: &[Arc<Entry>], _: u64) -> io::Result<usize> {
            self.1.pass();
            self.0.lock().push(entries.iter().map(|entry| entry.id).collect());
            Ok(entries.len())
        }
    }
    let (batches, gate) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Gate::default()));
    gate.shut();
    let queue = FileQueue::start(Box::new(Batches(Arc::clone(&batches), Arc::clone(&gate)))).unwrap();
    let mut waits: Vec<_> = (1..=50).map(|id| queue.append(numbered(id), true).unwrap()).collect();
    assert!(queue.append(numbered(51), false).is_none());
    gate.open();
    for wait in &mut waits {
        assert_eq!(wait.await, Ok(()));
    }
    queue.close().await;
    let batches = batches.lock().clone();
    assert!(batches.len() <= 3, "{batches:?}");
    assert_eq!(batches.concat(), (1..=51).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_full_queue_makes_everybody_wait_and_a_fuller_one_counts_what_it_misses() {
    /// Adds up what is missing, and says when it has begun to write, which it ends when the test lets it.
    struct Missing(Arc<Mutex<u64>>, Arc<Gate>, std::sync::mpsc::Sender<()>);
    impl Append for Missing {
        fn append(&mut self, entries: &[Arc<Entry>], missed: u64) -> io::Result<usize> {
            let _ = self.2.send(());
            self.1.pass();
            *self.0.lock() += missed;
            Ok(entries.len())
        }
    }
    let (missed, gate) = (Arc::<Mutex<u64>>::default(), Arc::new(Gate::default()));
    let (begin, begun) = std::sync::mpsc::channel();
    gate.shut();
    let queue = FileQueue::start(Box::new(Missing(Arc::clone(&missed), Arc::clone(&gate), begin))).unwrap();
    assert!(queue.append(numbered(1), false).is_none());
    begun.recv().unwrap();
    let waits: Vec<_> = (2..=150_000).map(|id| queue.append(numbered(id), false).is_some()).collect();
    let first = waits.iter().position(|waits| *waits).expect("it is full at some time");
    let last = waits.iter().rposition(|waits| *waits).expect("likewise");
    assert!((1_000..20_000).contains(&first), "{first}");
    assert!(waits[first..last].iter().all(|waits| *waits));
    assert!(last + 1 < waits.len(), "it is full beyond all bounds at last");
    assert_eq!(queue.append(numbered(200_000), true).unwrap().await, Err(NotRecorded));
    gate.open();
    queue.close().await;
    assert_eq!(*missed.lock(), (waits.len() - last) as u64);
}

#[tokio::test]
async fn nobody_waits_for_a_thread_that_is_gone() {
    let queue = FileQueue::start(Box::new(Scripted(Arc::new(|| panic!("as asked for"))))).unwrap();
    assert_eq!(queue.append(numbered(1), true).unwrap().await, Err(NotRecorded));
    assert!(queue.is_failing());
    queue.close().await;
}

#[tokio::test]
async fn a_disk_that_fails_at_the_end_does_not_keep_the_server_from_ending() {
    let queue = FileQueue::start(Box::new(Scripted(Arc::new(|| Err(io::ErrorKind::StorageFull.into()))))).unwrap();
    assert_eq!(queue.append(numbered(1), true).unwrap().await, Err(NotRecorded));
    queue.close().await;
}

#[tokio::test]
async fn a_closed_log_has_everything_in_its_file_and_is_opened_with_higher_ids() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let config = AuditConfig {
        file: Some(path.clone()),
        ..AuditConfig::default()
    };
    for _ in 0..2 {
        let log = AuditLog::open(&config).unwrap();
        for n in 0..100 {
            log.record(entry(Ring::Traffic, &n.to_string()));
        }
        log.close().await;
    }
    let (lines, _) = chained(&path, origin());
    let ids: Vec<u64> = lines.iter().map(|line| line["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), 200);
    assert!(ids.is_sorted_by(|a, b| a < b));
    assert!(ids[0] > 1 << 50 && ids[199] < 1 << 53, "exact in every client's numbers");
}

#[test]
fn an_entry_is_one_line_for_whoever_reads_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let text = "user:a\nb\r\u{b}\u{85}c\u{2028}d\u{2029}e\u{9b}31m\u{202e}\"f\\\u{7f}ž😀";
    let mut file = open(&path);
    file.append(&[Arc::new(entry(Ring::Traffic, text))], 0).unwrap();
    let written = fs::read_to_string(&path).unwrap();
    let (line, rest) = written.split_once('\n').unwrap();
    assert_eq!(rest, "");
    assert!(
        !line.contains(|c: char| c.is_control() || "\u{2028}\u{2029}\u{202e}".contains(c)),
        "{line}"
    );
    assert!(line.contains("ž😀"));
    let (lines, _) = chained(&path, origin());
    assert_eq!(lines[0]["resource"], text);
    assert_eq!(verify(&path).unwrap().lines, 1);
}

#[test]
fn what_is_put_aside_while_the_clock_was_set_back_comes_behind_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut file = LogFile::open(&path, 100, 2).unwrap();
    file.append(&[numbered(1)], 0).unwrap();
    let aside = || -> Vec<_> {
        let all = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        all.filter(|file| *file != path).collect()
    };
    // As if it had been put aside by a clock that went ahead.
    fs::rename(&aside()[0], folder.path().join("audit.jsonl.99999999999999")).unwrap();
    file.append(&[numbered(2)], 0).unwrap();
    assert_eq!(verify(&path).unwrap().lines, 2);
    file.append(&[numbered(3)], 0).unwrap();
    file.append(&[numbered(4)], 0).unwrap();
    let verified = verify(&path).unwrap();
    assert_eq!((verified.lines, verified.is_whole), (2, false), "the oldest are the ones that go");
}

#[test]
fn a_log_is_verified_line_by_line_and_every_change_in_it_shows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut file = LogFile::open(&path, 1_000, 100).unwrap();
    for id in 1..=12 {
        file.append(&[numbered(id)], 0).unwrap();
    }
    drop(file);
    let verified = verify(&path).unwrap();
    assert!(verified.is_whole && !verified.is_torn && verified.files.len() > 2, "{verified:?}");
    assert_eq!((verified.lines, verified.head.len()), (12, 64));
    assert_eq!(verified.files.last(), Some(&path));

    let aside = &verified.files[1];
    let sound = fs::read(aside).unwrap();
    for at in 0..sound.len() {
        let mut changed = sound.clone();
        changed[at] ^= 1;
        fs::write(aside, &changed).unwrap();
        assert!(verify(&path).is_err(), "byte {at}");
    }
    let first_line = sound.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    fs::write(aside, &sound[first_line..]).unwrap();
    let error = verify(&path).unwrap_err().to_string();
    assert!(error.ends_with("line 1: does not follow from the line before it"), "{error}");
    fs::remove_file(aside).unwrap();
    assert!(verify(&path).is_err());
    fs::write(aside, &sound).unwrap();

    // Without its oldest files it is sound, and not whole; with a torn end it says so.
    fs::remove_file(&verified.files[0]).unwrap();
    fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap()
        .write_all(b"{\"id\":")
        .unwrap();
    let rest = verify(&path).unwrap();
    assert!(!rest.is_whole && rest.is_torn);
    assert_eq!(rest.head, verified.head);
    fs::write(&path, "[]\n").unwrap();
    assert!(verify(&path).unwrap_err().to_string().ends_with("line 1: is no entry"));
    assert!(verify(&folder.path().join("none")).is_err());
}
