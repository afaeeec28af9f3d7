//! Reads the engine's log files without touching them.
//!
//! The engine cuts a log at the first thing it cannot read, without a word, before anybody could ask what was cut.
//! So the logs are read here first: how far they are whole decides whether the engine may open them at all.
//!
//! A log is a row of groups and then either ends or goes on with zeros, space set aside in advance. All numbers are
//! little-endian:
//!
//! ```text
//! group: 1 count(u32) number(u64)  item*  3 checksum(u64, xxh3 of the items' bytes) "FJL" 3
//! item:  2 kind(u8) compression(u8) keyspace(u64) key length(u16) value length(u32) stored length(u32) key value
//! ```

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use super::layout::{HEAD, META_ID, Stamp};

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLOSING: &[u8] = b"FJL\x03";
const ITEM_HEAD: usize = 21;
/// The engine numbers groups and some of its own doings from one counter. A group's number lies a few of these above
/// the floor in its stamp; a number far above is a damaged one.
const NUMBER_SLACK: u64 = 1 << 20;

/// One whole group in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group {
    /// Its place in our order.
    pub stamp: Stamp,
    /// Its place in the engine's.
    pub number: u64,
}

/// How a log ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// After a whole group.
    Clean,
    /// With something that is no group, for this reason.
    Torn(String),
}

/// What a log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scan {
    /// The first whole group.
    pub first: Option<Group>,
    /// The last whole group.
    pub last: Option<Group>,
    /// Where it ends, in bytes.
    pub whole: u64,
    /// How the log goes on from there.
    pub end: End,
}

/// Reads a log that follows the given group, as far as it is whole.
pub(super) fn scan(path: &Path, before: Option<Group>) -> io::Result<Scan> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut reader = Reader {
        input: BufReader::with_capacity(1 << 18, file),
        at: 0,
        length,
        buffer: Vec::new(),
    };
    let mut scan = Scan {
        first: None,
        last: None,
        whole: 0,
        end: End::Clean,
    };
    loop {
        match reader.group(scan.last.or(before)) {
            Ok(Some(group)) => {
                scan.first = scan.first.or(Some(group));
                scan.last = Some(group);
                scan.whole = reader.at;
            }
            Ok(None) => return Ok(scan),
            Err(Fault::Io(error)) => return Err(error),
            Err(Fault::Broken(reason)) => {
                scan.end = End::Torn(reason.to_owned());
                return Ok(scan);
            }
        }
    }
}

enum Fault {
    Io(io::Error),
    Broken(&'static str),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        if error.kind() == ErrorKind::UnexpectedEof {
            CUT_OFF
        } else {
            Self::Io(error)
        }
    }
}

const CUT_OFF: Fault = Fault::Broken("it is cut off in the middle of a commit group");
const NO_GROUP: Fault = Fault::Broken("there is no commit group where one should be");
const BAD_SUM: Fault = Fault::Broken("the checksum of a commit group does not fit");
const BAD_ORDER: Fault = Fault::Broken("a commit group is out of order");

struct Reader {
    input: BufReader<File>,
    at: u64,
    length: u64,
    buffer: Vec<u8>,
}

impl Reader {
    /// The next group, or nothing at a clean end.
    fn group(&mut self, before: Option<Group>) -> Result<Option<Group>, Fault> {
        if self.at == self.length {
            return Ok(None);
        }
        match self.byte()? {
            0 => return self.only_zeros().map(|()| None),
            START => {}
            _ => return Err(NO_GROUP),
        }
        let count = u32::from_le_bytes(self.array()?);
        let number = u64::from_le_bytes(self.array()?);
        let mut sum = Xxh3::new();
        let mut stamp = None;
        for _ in 0..count {
            stamp = self.item(&mut sum)?.or(stamp);
        }
        if self.byte()? != END || u64::from_le_bytes(self.array()?) != sum.digest() || self.array::<4>()? != CLOSING {
            return Err(BAD_SUM);
        }
        let group = Group {
            stamp: stamp.ok_or(NO_GROUP)?,
            number,
        };
        if in_order(before, group) { Ok(Some(group)) } else { Err(BAD_ORDER) }
    }

    /// The rest of the file must be space that was set aside: what follows zeros could be commits behind a gap.
    fn only_zeros(&mut self) -> Result<(), Fault> {
        loop {
            let rest = self.input.fill_buf()?;
            if rest.is_empty() {
                return Ok(());
            }
            if rest.iter().any(|byte| *byte != 0) {
                return Err(NO_GROUP);
            }
            let length = rest.len();
            self.input.consume(length);
        }
    }

    /// The next item; its stamp, where it is one.
    fn item(&mut self, sum: &mut Xxh3) -> Result<Option<Stamp>, Fault> {
        let head: [u8; ITEM_HEAD] = self.array()?;
        if head[0] != ITEM {
            return Err(BAD_SUM);
        }
        let keyspace = le_u64(&head[3..11]);
        let key = le_u64(&head[11..13]) as usize;
        let value = le_u64(&head[17..21]) as usize;
        self.fill(key + value)?;
        sum.update(&head);
        sum.update(&self.buffer);
        let (key, value) = self.buffer.split_at(key);
        Ok((keyspace == META_ID && key == HEAD).then(|| Stamp::decode(value)).flatten())
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        self.array().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    /// Reads so many bytes into the buffer; a damaged length beyond the end of the file allocates nothing.
    fn fill(&mut self, length: usize) -> Result<(), Fault> {
        if length as u64 > self.length - self.at {
            return Err(CUT_OFF);
        }
        self.buffer.resize(length, 0);
        self.input.read_exact(&mut self.buffer)?;
        self.at += length as u64;
        Ok(())
    }
}

fn le_u64(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn in_order(before: Option<Group>, group: Group) -> bool {
    let Group { stamp, number } = group;
    let follows = before.is_none_or(|before| stamp.previous == before.stamp.seq && number > before.number);
    follows && stamp.seq >= stamp.previous && (stamp.floor..stamp.floor.saturating_add(NUMBER_SLACK)).contains(&number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(keyspace: u64, key: &[u8], value: &[u8]) -> Vec<u8> {
        let mut item = vec![ITEM, 0, 0];
        item.extend(keyspace.to_le_bytes());
        item.extend((key.len() as u16).to_le_bytes());
        item.extend((value.len() as u32).to_le_bytes());
        item.extend((value.len() as u32).to_le_bytes());
        item.extend(key);
        item.extend(value);
        item
    }

    fn group(stamp: Stamp, number: u64) -> Vec<u8> {
        let items = [item(1, b"key of a record", b"a record"), item(META_ID, HEAD, &stamp.encode())].concat();
        let mut sum = Xxh3::new();
        sum.update(&items);
        let mut group = vec![START];
        group.extend(2u32.to_le_bytes());
        group.extend(number.to_le_bytes());
        group.extend(items);
        group.push(END);
        group.extend(sum.digest().to_le_bytes());
        group.extend(CLOSING);
        group
    }

    fn groups() -> [Vec<u8>; 3] {
        let stamp = |seq, previous, floor| Stamp {
            seq,
            previous,
            now: 1,
            floor,
        };
        [group(stamp(2, 0, 5), 5), group(stamp(3, 2, 6), 8), group(stamp(7, 3, 9), 9)]
    }

    fn scan_bytes(bytes: &[u8]) -> Scan {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        scan(file.path(), None).unwrap()
    }

    #[test]
    fn a_whole_log_is_read_to_its_end_with_and_without_space_set_aside() {
        let log = groups().concat();
        for spare in [0, 1, 100] {
            let scan = scan_bytes(&[log.clone(), vec![0; spare]].concat());
            assert_eq!((scan.whole, scan.end), (log.len() as u64, End::Clean));
            assert_eq!(scan.last.map(|group| (group.stamp.seq, group.number)), Some((7, 9)));
        }
        assert_eq!(
            scan_bytes(&[]),
            Scan {
                first: None,
                last: None,
                whole: 0,
                end: End::Clean
            }
        );
    }

    #[test]
    fn a_log_cut_anywhere_is_read_to_the_last_whole_group() {
        let parts = groups();
        let log = parts.concat();
        let ends = [0, parts[0].len(), parts[0].len() + parts[1].len(), log.len()];
        for cut in 0..log.len() {
            let scan = scan_bytes(&log[..cut]);
            let whole = ends.iter().rev().find(|end| **end <= cut).unwrap();
            assert_eq!(scan.whole, *whole as u64, "cut at {cut}");
            assert_eq!(scan.end == End::Clean, ends.contains(&cut), "cut at {cut}");
        }
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let log = [groups().concat(), vec![0; 9]].concat();
        let starts = [0, groups()[0].len(), groups()[0].len() + groups()[1].len()];
        for bit in 0..log.len() * 8 {
            let mut bytes = log.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let scan = scan_bytes(&bytes);
            // A group that is filed under another number between those of its neighbours is as good as before.
            let in_a_number = starts.iter().any(|start| (start + 5..start + 13).contains(&(bit / 8)));
            assert!(
                scan.end != End::Clean || in_a_number && scan.whole == log.len() as u64 - 9,
                "bit {bit}: {scan:?}"
            );
            assert!(scan.whole <= (bit / 8) as u64 || in_a_number, "bit {bit}: {scan:?}");
        }
    }

    #[test]
    fn a_missing_group_is_noticed() {
        let [first, _, third] = groups();
        let scan = scan_bytes(&[first.clone(), third].concat());
        assert_eq!(scan.whole, first.len() as u64);
        assert!(matches!(scan.end, End::Torn(_)));
    }
}
