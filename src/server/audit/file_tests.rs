//! Files that are not the log's own, and how large those become that are.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::entry::Entry;
use super::file::LogFile;
use super::queue::{Append, FileQueue};
use super::tests::{Gate, numbered};
use super::verify;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn files_that_others_have_put_aside_are_neither_counted_nor_removed_nor_in_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let foreign = [
        "1",
        "7",
        "0005",
        "20260101",
        "0001763729000000",
        "+1763729000000",
        "1763729000000x",
        "old",
    ];
    let aside = |ending: &str| folder.path().join(format!("audit.jsonl.{ending}"));
    for ending in foreign {
        fs::write(aside(ending), "mine\n").unwrap();
    }
    fs::create_dir(aside("1763729000001")).unwrap();
    // Called as one of ours, and none: it counts, and nobody removes it.
    fs::write(aside("1763729000002"), "{\"foreign\":1}\n").unwrap();
    let mut file = LogFile::open(&path, 1_000, 2).unwrap();
    for id in 1..=40 {
        file.append(&[numbered(id)], 0).unwrap();
    }
    let left = names(folder.path());
    for ending in foreign {
        assert!(left.contains(&format!("audit.jsonl.{ending}")), "{ending}");
        assert_eq!(fs::read(aside(ending)).unwrap(), b"mine\n");
    }
    assert!(aside("1763729000001").is_dir());
    assert_eq!(fs::read(aside("1763729000002")).unwrap(), b"{\"foreign\":1}\n");
    assert_eq!(
        left.len(),
        foreign.len() + 2 + 2 + 1,
        "two are kept, and the one that is written: {left:?}"
    );
    fs::remove_file(aside("1763729000002")).unwrap();
    drop(file);
    assert_eq!(verify(&path).unwrap().files.len(), 3);
    assert_eq!(LogFile::open(&path, 1_000, 2).unwrap().last_id(), 40);
}

#[test]
fn a_file_that_is_no_audit_log_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let foreign = [
        "hello world\nno json",
        "hello",
        "{\"a\":1}\n",
        "{\"a\":1}",
        "{\"id\":7}",
        "{\"id\":\"x\",",
        "{\"prev\":\"0\",\"operation\":\"x\"}\n{\"id\":1,\"timest",
        "\0\0x",
        "\n",
    ];
    for text in foreign {
        fs::write(&path, text).unwrap();
        #[cfg(unix)]
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        let error = LogFile::open(&path, 1_000, 2).err().unwrap_or_else(|| panic!("{text}")).to_string();
        assert!(error.ends_with("it is not empty and no audit log"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        }
    }
    // The beginning of the first line, wherever it was torn.
    let mut file = {
        fs::remove_file(&path).unwrap();
        LogFile::open(&path, 1 << 20, 2).unwrap()
    };
    file.append(&[numbered(12)], 3).unwrap();
    drop(file);
    let lines = fs::read(&path).unwrap();
    let second = lines.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for line in [&lines[..second], &lines[second..]] {
        for torn in 0..line.len() {
            fs::write(&path, &line[..torn]).unwrap();
            drop(LogFile::open(&path, 1_000, 2).unwrap_or_else(|error| panic!("{torn}: {error}")));
            assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        }
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_not_put_aside() {
    let error = LogFile::open(Path::new("/dev/null"), 1_000, 2).err().unwrap().to_string();
    assert!(error.contains("/dev/null"), "{error}");
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

#[test]
fn lines_about_what_is_missing_hide_no_id() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut file = LogFile::open(&path, 1 << 20, 2).unwrap();
    file.append(&[numbered(77)], 0).unwrap();
    for _ in 0..3 {
        file.append(&[], 5).unwrap();
    }
    drop(file);
    assert_eq!(LogFile::open(&path, 1 << 20, 2).unwrap().last_id(), 77);
}

/// A file that the test makes wait, and that fails at every other attempt.
struct Failing {
    file: LogFile,
    gate: Arc<Gate>,
    fails: bool,
}

impl Append for Failing {
    fn append(&mut self, entries: &[Arc<Entry>], missed: u64) -> io::Result<usize> {
        self.gate.pass();
        self.fails = !self.fails;
        if self.fails {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.append(entries, missed)
    }
}

#[tokio::test]
async fn what_has_waited_for_the_disk_is_written_to_files_of_the_size_that_they_should_have() {
    const MAX: u64 = 100_000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let gate = Arc::new(Gate::default());
    gate.shut();
    let file = Failing {
        file: LogFile::open(&path, MAX, 100).unwrap(),
        gate: Arc::clone(&gate),
        fails: false,
    };
    let queue = FileQueue::start(Box::new(file)).unwrap();
    for id in 1..=1_500 {
        assert!(queue.append(numbered(id), false).is_none());
    }
    let last = queue.append(numbered(1_501), false);
    assert!(last.is_none());
    gate.open();
    // What failed is tried again, and no line twice.
    while verify(&path).map_or(0, |log| log.lines) < 1_501 {
        tokio::task::yield_now().await;
    }
    queue.close().await;
    let verified = verify(&path).unwrap();
    assert_eq!(verified.lines, 1_501);
    assert!(verified.files.len() > 2, "{verified:?}");
    let sizes: Vec<u64> = verified
        .files
        .iter()
        .map(|file: &PathBuf| fs::metadata(file).unwrap().len())
        .collect();
    assert!(sizes.iter().all(|size| *size < MAX + 1_000), "{sizes:?}");
}
