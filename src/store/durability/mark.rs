//! The commit mark: how far the log was durable when the server last reported it.
//!
//! A log alone cannot tell a group that was torn by a crash before anyone heard of it from one that was reported
//! durable and damaged later: both are an unreadable end. The mark can. It is written after the group is on disk
//! and not synced itself, so it may lag behind the log and is never ahead of it.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

const FILE: &str = "commit.mark";
const MAGIC: &[u8; 8] = b"noexmark";
const ENTRY: usize = 24;
/// Each of the two slots has a page of its own: a torn write can spoil only the one that was being written.
const SLOT: u64 = 4096;

/// What a mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marked {
    /// There is none: the directory is new, or the operator took it away.
    Nothing,
    /// Neither slot can be read.
    Unreadable,
    /// All commits up to this one were reported durable.
    UpTo(u64),
}

/// The mark of a data directory, open for writing.
#[derive(Debug)]
pub(super) struct CommitMark {
    file: File,
    second: bool,
}

impl CommitMark {
    /// Where the mark of a data directory lies.
    pub fn path(dir: &Path) -> PathBuf {
        dir.join(FILE)
    }

    /// Reads the mark of a data directory.
    pub fn read(dir: &Path) -> io::Result<Marked> {
        let bytes = match std::fs::read(Self::path(dir)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Marked::Nothing),
            Err(error) => return Err(error),
        };
        let newest = [0, SLOT as usize]
            .into_iter()
            .filter_map(|at| decode(bytes.get(at..at + ENTRY)?))
            .max();
        Ok(newest.map_or(Marked::Unreadable, Marked::UpTo))
    }

    /// Writes both slots and makes the file itself durable.
    pub fn create(dir: &Path, seq: u64) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(Self::path(dir))?;
        file.set_len(2 * SLOT)?;
        let mut mark = Self { file, second: false };
        mark.write(seq)?;
        mark.write(seq)?;
        mark.file.sync_all()?;
        Ok(mark)
    }

    /// Moves the mark. A write in place of a page that exists: it takes no space and needs no sync.
    pub fn write(&mut self, seq: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(if self.second { SLOT } else { 0 }))?;
        self.file.write_all(&encode(seq))?;
        self.second = !self.second;
        Ok(())
    }
}

fn encode(seq: u64) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[..8].copy_from_slice(MAGIC);
    entry[8..16].copy_from_slice(&seq.to_le_bytes());
    let sum = xxh3_64(&entry[..16]);
    entry[16..].copy_from_slice(&sum.to_le_bytes());
    entry
}

fn decode(entry: &[u8]) -> Option<u64> {
    let (content, sum) = entry.split_at_checked(16)?;
    let whole = content.starts_with(MAGIC) && xxh3_64(content).to_le_bytes() == sum;
    whole.then(|| content[8..].try_into().map(u64::from_le_bytes).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_says_what_was_written_last() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(CommitMark::read(dir.path()).unwrap(), Marked::Nothing);
        let mut mark = CommitMark::create(dir.path(), 7).unwrap();
        for seq in 7..12 {
            mark.write(seq).unwrap();
            assert_eq!(CommitMark::read(dir.path()).unwrap(), Marked::UpTo(seq));
        }
        CommitMark::create(dir.path(), 11).unwrap();
        assert_eq!(CommitMark::read(dir.path()).unwrap(), Marked::UpTo(11));
    }

    #[test]
    fn a_torn_slot_leaves_the_other_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut mark = CommitMark::create(dir.path(), 1).unwrap();
        mark.write(2).unwrap();
        mark.write(3).unwrap();
        let path = CommitMark::path(dir.path());
        let good = std::fs::read(&path).unwrap();
        for bit in 0..ENTRY * 8 {
            let mut bytes = good.clone();
            bytes[SLOT as usize + bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(CommitMark::read(dir.path()).unwrap(), Marked::UpTo(2), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(CommitMark::read(dir.path()).unwrap(), Marked::Unreadable, "bit {bit}");
        }
        std::fs::write(&path, &good[..10]).unwrap();
        assert_eq!(CommitMark::read(dir.path()).unwrap(), Marked::Unreadable);
    }
}
