//! What survives a kill and a damaged file: everything that was acknowledged, and never half of anything.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Site, TestClient, TestServer};

/// How often the server is killed in the middle of its work.
const ROUNDS: u64 = 4;
/// Connections that write at once.
const WRITERS: u64 = 3;
/// Requests that each of them keeps on the way.
const IN_FLIGHT: u64 = 16;
/// Answers that one of them waits for before the server is killed.
const ANSWERS: u64 = 150;

/// The directory is refused, and the server says which file is at fault.
const DAMAGED: Option<i32> = Some(3);

/// A writer stores numbers. An even number goes into one bucket by a plain insert, an odd one into two by a transaction.
struct Writer {
    client: TestClient,
    next: u64,
    acknowledged: Vec<u64>,
}

impl Writer {
    async fn new(server: &TestServer, first: u64) -> Self {
        Self {
            client: server.connect().await,
            next: first,
            acknowledged: Vec::new(),
        }
    }

    /// Sends until so many answers have come. What is on the way then is left there.
    async fn write(mut self, answers: u64) -> Self {
        let first = self.next;
        while (self.acknowledged.len() as u64) < answers {
            while self.next < first + self.acknowledged.len() as u64 + IN_FLIGHT {
                let (operation, fields) = write_of(self.next);
                self.client.request(operation, fields).await.expect("the server takes requests");
                self.next += 1;
            }
            let answer = self.client.next().await.expect("the server answers");
            assert_eq!(answer["type"], "result", "{answer}");
            // Answers come in the order of the requests.
            self.acknowledged.push(first + self.acknowledged.len() as u64);
        }
        self
    }
}

fn write_of(number: u64) -> (&'static str, Value) {
    let record = json!({ "id": number, "text": "x".repeat(100) });
    if number.is_multiple_of(2) {
        return ("store.insert", json!({ "bucket": "left", "data": record }));
    }
    let insert = |bucket: &str| json!({ "op": "insert", "bucket": bucket, "data": record });
    ("store.transaction", json!({ "operations": [insert("left"), insert("right")] }))
}

async fn define_buckets(server: &TestServer) {
    let mut client = server.connect().await;
    for name in ["left", "right"] {
        let config = json!({ "key": "id", "schema": { "id": { "type": "number" } } });
        client.result("store.defineBucket", json!({ "name": name, "config": config })).await;
    }
}

async fn numbers_in(client: &mut TestClient, bucket: &str) -> BTreeSet<u64> {
    let records = client.result("store.all", json!({ "bucket": bucket })).await;
    records
        .as_array()
        .expect("a list")
        .iter()
        .map(|record| record["id"].as_u64().expect("a number"))
        .collect()
}

/// Both buckets; the odd numbers must be in both or in neither.
async fn stored(server: &TestServer) -> BTreeSet<u64> {
    let mut client = server.connect().await;
    let left = numbers_in(&mut client, "left").await;
    let right = numbers_in(&mut client, "right").await;
    let odd: BTreeSet<u64> = left.iter().copied().filter(|number| !number.is_multiple_of(2)).collect();
    assert_eq!(odd, right, "a transaction was torn in two");
    left
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_by_a_kill_and_no_transaction_is_torn() {
    let site = Site::new(json!({}));
    let mut server = TestServer::serve(&site).await;
    define_buckets(&server).await;
    let mut acknowledged = BTreeSet::new();
    for round in 0..ROUNDS {
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            writers.push(Writer::new(&server, (round * WRITERS + writer) * 1_000_000).await);
        }
        let written = futures_util::future::join_all(writers.into_iter().map(|writer| writer.write(ANSWERS))).await;
        // Each writer still has requests on the way: the server is in the middle of its work.
        server.kill().await;
        acknowledged.extend(written.into_iter().flat_map(|writer| writer.acknowledged));

        server = TestServer::serve(&site).await;
        let found = stored(&server).await;
        let lost: Vec<&u64> = acknowledged.difference(&found).collect();
        assert!(
            lost.is_empty(),
            "round {round}: {} acknowledged writes are lost: {lost:?}",
            lost.len()
        );
    }
}

/// What befell the newest file of the log.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// The last bytes are gone.
    CutOff(usize),
    /// One bit is another, so many bytes before the end.
    Flipped(usize),
}

#[tokio::test]
async fn a_damaged_log_gives_back_whole_commits_up_to_a_point_or_is_refused_by_name() {
    let site = Site::new(json!({}));
    let server = TestServer::serve(&site).await;
    define_buckets(&server).await;
    let written = Writer::new(&server, 0).await.write(ANSWERS).await;
    server.kill().await;

    let damages = [1, 2, 9, 40, 150, 400, 2_000]
        .map(Damage::CutOff)
        .into_iter()
        .chain([1, 5, 30, 120, 400, 2_000].map(Damage::Flipped));
    for damage in damages {
        let copy = Site::new(json!({}));
        copy_folder(&site.data_dir(), &copy.data_dir());
        let log = newest_log(&copy.data_dir());
        inflict(damage, &log);
        match TestServer::launch(&copy).await {
            Ok(server) => {
                let found = stored(&server).await;
                let whole = (0..found.len() as u64).collect();
                assert_eq!(found, whole, "{damage:?}: what is left is not everything up to a point");
                assert!(found.len() as u64 <= written.next, "{damage:?}: more is there than was written");
                assert!(
                    found.len() >= written.acknowledged.len(),
                    "{damage:?}: acknowledged writes are gone without a word"
                );
            }
            Err(refusal) => {
                assert_eq!(refusal.status.code(), DAMAGED, "{damage:?}: {refusal:?}");
                let name = log.file_name().expect("a name").to_string_lossy().into_owned();
                assert!(
                    refusal.stderr.contains(&name),
                    "{damage:?}: the file is not named: {}",
                    refusal.stderr
                );
            }
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder can be made");
    for entry in fs::read_dir(from).expect("the folder can be read") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            fs::copy(&path, &target).expect("the file can be copied");
        }
    }
}

/// The log file that was written last: logs end in `.jnl`.
fn newest_log(folder: &Path) -> PathBuf {
    let logs = files_in(folder)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ending| ending == "jnl"));
    let numbered = |path: &PathBuf| path.file_stem().and_then(|stem| stem.to_string_lossy().parse::<u64>().ok());
    logs.max_by_key(numbered).expect("the server keeps a log")
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .expect("the folder can be read")
        .map(|entry| entry.expect("an entry").path());
    entries
        .flat_map(|path| if path.is_dir() { files_in(&path) } else { vec![path] })
        .collect()
}

fn inflict(damage: Damage, log: &Path) {
    let mut bytes = fs::read(log).expect("the log can be read");
    // A log may be longer than what is in it: the rest is zeroes.
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("there is something in the log") + 1;
    match damage {
        Damage::CutOff(length) => bytes.truncate(end - length),
        Damage::Flipped(before_end) => bytes[end - before_end] ^= 0b0001_0000,
    }
    fs::write(log, bytes).expect("the log can be written");
}

#[tokio::test]
async fn a_server_that_is_stopped_in_order_starts_with_everything() {
    let site = Site::new(json!({}));
    let server = TestServer::serve(&site).await;
    define_buckets(&server).await;
    let written = Writer::new(&server, 0).await.write(ANSWERS).await;
    assert!(server.stop().await.success());
    let found = stored(&TestServer::serve(&site).await).await;
    assert!(written.acknowledged.iter().all(|number| found.contains(number)));
}

#[tokio::test]
async fn the_interval_level_loses_nothing_in_an_orderly_stop() {
    let site = Site::new(json!({ "durability": "interval", "durabilityIntervalMs": 60_000 }));
    let server = TestServer::serve(&site).await;
    define_buckets(&server).await;
    let written = Writer::new(&server, 0).await.write(ANSWERS).await;
    assert!(server.stop().await.success());
    let found = stored(&TestServer::serve(&site).await).await;
    assert!(written.acknowledged.iter().all(|number| found.contains(number)));
}

#[cfg(unix)]
#[tokio::test]
async fn a_data_directory_that_other_users_may_read_is_warned_of_once() {
    use std::os::unix::fs::PermissionsExt;
    let said = |server: &TestServer| {
        server
            .stderr()
            .matches("other users of this machine may read the data directory")
            .count()
    };
    let site = Site::new(json!({}));
    let server = TestServer::serve(&site).await;
    assert_eq!(said(&server), 0);
    assert!(server.stop().await.success());
    for (mode, warnings) in [(0o700, 0), (0o755, 1), (0o740, 1)] {
        fs::set_permissions(site.data_dir(), PermissionsExt::from_mode(mode)).expect("the directory is ours");
        let server = TestServer::serve(&site).await;
        assert_eq!(said(&server), warnings, "{mode:o}");
        assert!(server.stop().await.success());
    }
}
