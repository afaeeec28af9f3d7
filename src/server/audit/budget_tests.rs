//! How much of the file those can fill who are no administrators.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::entry::{Entry, Line, Verdict};
use super::file::LogFile;
use super::queue::Append;
use super::rings::{Case, Ring, place_of};
use super::selection::Kind;
use super::tests::{chained, entry, origin};
use super::{AuditLog, Room, verify};
use crate::protocol::Tier;
use crate::server::admission::Identity;
use crate::server::config::AuditConfig;

/// When the tests begin, in milliseconds since 1970.
const START: u64 = 1_000_000;
const MINUTE: u64 = 60_000;
const WEEK: u64 = 7 * 24 * 60 * MINUTE;

/// So large that nothing is put aside in a test, and an eighth of an eighth of it 16 KiB.
fn config(path: &Path) -> AuditConfig {
    AuditConfig {
        file: Some(path.to_owned()),
        file_max_bytes: 1 << 20,
        file_keep: 1,
        ..AuditConfig::default()
    }
}

/// What was refused to a user.
fn refused(user: &str, timestamp: u64, n: u64) -> Entry {
    Entry {
        timestamp,
        line: Line::Limited,
        actor: Some(user.to_owned()),
        ..entry(Ring::Refusals, &format!("{user} {n}"))
    }
}

/// What a stranger has tried.
fn tried(address: u8, timestamp: u64, n: u64) -> Entry {
    Entry {
        timestamp,
        line: Line::Limited,
        remote_address: IpAddr::from([10, 0, 0, address]),
        ..entry(Ring::Strangers, &format!("{address} {n}"))
    }
}

/// The lines of entries, and how many are missing.
fn written(path: &Path) -> (Vec<Value>, u64) {
    let (lines, _) = chained(path, origin());
    let (missing, entries): (Vec<Value>, Vec<Value>) = lines.into_iter().partition(|line| line["operation"] == "audit.missed");
    let missed = missing.iter().map(|line| line["count"].as_u64().unwrap()).sum();
    (entries, missed)
}

#[tokio::test]
async fn what_was_refused_has_so_many_lines_a_minute_and_the_rest_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    for is_stranger in [true, false] {
        let path = folder.path().join(format!("audit{is_stranger}.jsonl"));
        let config = AuditConfig {
            file_max_bytes: 1 << 30,
            ..config(&path)
        };
        let log = AuditLog::open(&config).unwrap();
        let one = |who: u8, timestamp, n| {
            if is_stranger {
                tried(who, timestamp, n)
            } else {
                refused(&format!("user{who}"), timestamp, n)
            }
        };
        // One alone gets no more than 30, all together 120, and half a minute gives half of it again.
        for n in 0..500 {
            log.record(one(1, START, n));
        }
        for who in 2..20 {
            for n in 0..25 {
                log.record(one(who, START, n));
            }
        }
        for n in 500..600 {
            log.record(one(1, START + MINUTE / 2, n));
        }
        log.record(entry(Ring::Administration, "a"));
        log.close().await;
        let (entries, missed) = written(&path);
        assert_eq!(entries.len(), 120 + 15 + 1);
        assert_eq!(missed, 500 + 18 * 25 + 100 - 120 - 15);
        assert_eq!(entries.last().unwrap()["resource"], "a");
        assert_eq!(log.len(), 500 + 18 * 25 + 100 + 1, "in memory they all are");
    }
}

#[tokio::test]
async fn the_same_refusal_of_the_same_user_is_one_entry_that_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let log = AuditLog::open(&config(&path)).unwrap();
    for _ in 0..800 {
        log.record(refused("rea", START, 1));
    }
    let others = [
        refused("wil", START, 1),
        Entry {
            details: json!({ "roleName": "admin" }).as_object().cloned().unwrap(),
            ..refused("rea", START, 1)
        },
    ];
    for other in others {
        log.record(other);
    }
    log.close().await;
    let (entries, missed) = written(&path);
    assert_eq!((entries.len(), missed, log.len()), (10 + 2, 0, 3));
    assert_eq!(entries[9]["count"], 512);
}

#[tokio::test]
async fn nobody_but_administrators_fills_more_than_a_part_of_the_file_in_a_week() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let log = AuditLog::open(&config(&path)).unwrap();
    log.record(entry(Ring::Administration, "first"));
    // Two days of what one user may have refused in each minute, and then an hour of eleven.
    let mut n = 0;
    let mut refuse = |user: &str, minute: u64| {
        for _ in 0..5 {
            n += 1;
            log.record(refused(user, START + minute * MINUTE, n));
        }
    };
    for minute in 0..2 * 24 * 60 {
        refuse("rea", minute);
    }
    let bytes = || fs::metadata(&path).unwrap().len();
    log.close().await;
    // A sixty-fourth of what is kept, and two sevenths of it again.
    let one = (1 << 20) / 64;
    assert!(bytes() < one + one * 2 / 7 + 1_024, "{} bytes", bytes());

    let path = folder.path().join("all.jsonl");
    let log = AuditLog::open(&config(&path)).unwrap();
    for user in 0..50 {
        for n in 0..200 {
            // Logins have no number in a minute.
            let entry = refused(&format!("user{user}"), START, n);
            log.record(Entry {
                ring: Ring::Logins,
                ..entry
            });
        }
    }
    log.record(Entry {
        ring: Ring::Logins,
        ..refused("late", START + WEEK, 0)
    });
    log.close().await;
    let (entries, missed) = written(&path);
    assert!(fs::metadata(&path).unwrap().len() < (1 << 20) / 8 + 1_024);
    assert_eq!(entries.len() as u64 + missed, 50 * 200 + 1);
    assert_eq!(entries.last().unwrap()["actor"], "late");
}

#[tokio::test]
async fn room_for_a_change_is_taken_before_it_and_given_back_where_it_was_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let log = AuditLog::open(&config(&folder.path().join("audit.jsonl"))).unwrap();
    let owner = Identity::of_user("owner");
    let take = |who| log.take_room(who, 4_096);
    let rooms: Vec<Option<Room>> = (0..4).map(|_| take(owner).unwrap()).collect();
    let wait = take(owner).unwrap_err();
    // A quarter of it comes again in a quarter of a week.
    let quarter = u128::from(WEEK / 4);
    assert!((quarter - 10_000..=quarter).contains(&wait.as_millis()), "{wait:?}");
    assert!(take(Identity::of_user("other")).is_ok());
    log.give_back(rooms[0].unwrap());
    assert!(take(owner).is_ok());
    assert!(take(owner).is_err());
    // What has turned out to say more than was taken for it is missing the next time.
    let other = Identity::of_user("another");
    let room = take(other).unwrap().unwrap();
    log.exceed(room, 4_096);
    log.exceed(room, 12_289);
    assert!(take(other).is_err());
    log.close().await;
    // Without a file there is nothing that could be pushed out of it.
    let log = AuditLog::open(&AuditConfig::default()).unwrap();
    assert!((0..1_000).all(|_| log.take_room(owner, 4_096) == Ok(None)));
}

#[tokio::test]
async fn more_users_than_are_told_apart_share_what_one_has() {
    let folder = tempfile::tempdir().unwrap();
    let config = AuditConfig {
        file_max_bytes: 1 << 30,
        ..config(&folder.path().join("audit.jsonl"))
    };
    let log = AuditLog::open(&config).unwrap();
    let one = (1 << 30) / 64;
    let take = |user: u32, bytes| log.take_room(Identity::of_user(&user.to_string()), bytes);
    assert!((0..4_096).all(|user| take(user, 30_000).is_ok()));
    assert!(take(5_000, one).is_err(), "all together have used too much");
    assert!(take(5_000, one / 2).is_ok());
    assert!(take(5_001, one / 2 + 1).is_err());
    assert!(take(0, 1).is_ok());
    log.close().await;
}

#[test]
fn a_line_is_never_longer_than_what_it_was_counted_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut file = LogFile::open(&path, 1 << 30, 1).unwrap();
    let nasty = ["", "plain", "\u{1}\"\\\n\u{8}", "\u{202e}\u{85}\u{7f}", "ž😀€"];
    for text in nasty.map(|text| text.repeat(40)) {
        for is_long in [false, true] {
            let mut entry = Entry {
                id: 1 << 53,
                user_id: is_long.then(|| text.clone()),
                actor: is_long.then(|| text.clone()),
                session: is_long.then(|| "1".repeat(40).into()),
                duration_us: is_long.then_some(u64::MAX),
                error: is_long.then(|| text.clone()),
                remote_address: IpAddr::from([u16::MAX; 8]),
                ..entry(Ring::Refusals, &text)
            };
            let details = json!({ "operations": [text, text], "userId": text, "key": 1.5e300, "none": [true, null, {}] });
            if is_long {
                entry.details = details.as_object().cloned().unwrap();
            }
            let counted = entry.line_bytes();
            let before = fs::metadata(&path).unwrap().len();
            file.append(&[entry.into()], u64::MAX).unwrap();
            let line = fs::metadata(&path).unwrap().len() - before;
            assert!(line <= counted && counted < line + 640, "{line} of {counted}");
        }
    }
}

#[tokio::test]
async fn data_has_a_file_of_its_own_and_ids_rise_across_both() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let data_path = folder.path().join("audit.jsonl.data");
    let config = AuditConfig {
        tiers: vec![Tier::Write],
        ..config(&path)
    };
    let data = || Entry {
        line: Line::Data,
        ..entry(Ring::Traffic, "d")
    };
    for _ in 0..2 {
        let log = AuditLog::open(&config).unwrap();
        log.record(entry(Ring::Administration, "a"));
        for _ in 0..3 {
            log.record(data());
        }
        log.close().await;
    }
    let ids = |path: &Path| -> Vec<u64> { written(path).0.iter().map(|line| line["id"].as_u64().unwrap()).collect() };
    let (main, data_ids) = (ids(&path), ids(&data_path));
    assert_eq!((main.len(), data_ids.len()), (2, 6));
    assert!(main[0] < data_ids[0] && data_ids[2] < main[1] && main[1] < data_ids[3]);
    assert_eq!(
        verify(&path).unwrap().files.len(),
        1,
        "the one is no file of the other that was put aside"
    );
    assert_eq!(verify(&data_path).unwrap().lines, 6);
    // Where no data is recorded, there is no such file.
    let path = folder.path().join("other.jsonl");
    let log = AuditLog::open(&super::budget_tests::config(&path)).unwrap();
    log.record(data());
    log.close().await;
    assert!(!folder.path().join("other.jsonl.data").exists());
}

#[test]
fn who_has_done_what_decides_where_it_is_kept_and_whether_its_line_is_sure() {
    let of = |kind, verdict| Case {
        kind,
        verdict,
        is_refused: false,
        is_stranger: false,
        is_administrator: false,
        has_room: false,
    };
    let by_admin = |kind, verdict| Case {
        is_administrator: true,
        ..of(kind, verdict)
    };
    let by_stranger = |kind, verdict| Case {
        is_stranger: true,
        ..of(kind, verdict)
    };
    let with_room = |kind, verdict| Case {
        has_room: true,
        ..of(kind, verdict)
    };
    let refused = |case| Case { is_refused: true, ..case };
    let (done, failed) = (Verdict::Success, Verdict::Error);
    for kind in [Kind::Rights, Kind::Administration] {
        for verdict in [done, failed] {
            assert_eq!(place_of(by_admin(kind, verdict)), (Ring::Administration, Line::Sure));
            // Also where nobody knows whether it was done.
            assert_eq!(place_of(with_room(kind, verdict)), (Ring::Members, Line::Sure));
        }
        assert_eq!(place_of(of(kind, done)), (Ring::Members, Line::Limited));
        assert_eq!(place_of(of(kind, failed)), (Ring::Refusals, Line::Limited));
        assert_eq!(place_of(by_stranger(kind, done)), (Ring::Members, Line::Limited));
        assert_eq!(place_of(refused(by_admin(kind, failed))), (Ring::Refusals, Line::Limited));
    }
    for kind in [
        Kind::Authentication,
        Kind::Rights,
        Kind::Administration,
        Kind::Inspection,
        Kind::Data,
    ] {
        assert_eq!(place_of(refused(of(kind, failed))), (Ring::Refusals, Line::Limited));
        assert_eq!(place_of(refused(by_stranger(kind, failed))), (Ring::Strangers, Line::Limited));
        assert_eq!(place_of(by_stranger(kind, failed)), (Ring::Strangers, Line::Limited));
    }
    assert_eq!(place_of(by_admin(Kind::Authentication, done)), (Ring::Logins, Line::Sure));
    assert_eq!(place_of(of(Kind::Authentication, done)), (Ring::Logins, Line::Limited));
    assert_eq!(place_of(by_admin(Kind::Authentication, failed)), (Ring::Refusals, Line::Limited));
    assert_eq!(place_of(by_admin(Kind::Inspection, done)), (Ring::Traffic, Line::Sure));
    assert_eq!(place_of(of(Kind::Inspection, done)), (Ring::Traffic, Line::Limited));
    for case in [by_admin(Kind::Data, done), of(Kind::Data, failed), by_stranger(Kind::Data, done)] {
        assert_eq!(place_of(case), (Ring::Traffic, Line::Data));
    }
}
