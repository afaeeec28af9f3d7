//! Checks the engine's tables before it opens them.
//!
//! The engine believes its table of contents unchecked, deletes the files that are not in it, and takes a keyspace
//! without one for unfinished and deletes that. So all of it is checked here first, file by file: the pointer, the
//! table of contents it points to, and the tables listed there, all by their checksums.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::open_error::OpenError;

const POINTER: &str = "current";
const FOLDER: &str = "tables";

/// Checks one keyspace of the engine.
pub(super) fn verify(keyspace: &Path) -> Result<(), OpenError> {
    for (table, sum) in listed(&contents(keyspace)?)? {
        let path = keyspace.join(FOLDER).join(table.to_string());
        if hash(&path)? != sum {
            return Err(OpenError::damaged(&path, "its checksum does not fit"));
        }
    }
    Ok(())
}

/// Whether a keyspace holds nothing: no table was ever finished in it.
pub(super) fn is_empty(keyspace: &Path) -> Result<bool, OpenError> {
    let folder = keyspace.join(FOLDER);
    match std::fs::read_dir(&folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(OpenError::io(&folder)(error)),
    }
}

/// The table of contents that is in force, checked.
fn contents(keyspace: &Path) -> Result<PathBuf, OpenError> {
    let pointer = keyspace.join(POINTER);
    let bytes = read(&pointer)?;
    let Some((id, sum)) = decode_pointer(&bytes) else {
        return Err(OpenError::damaged(&pointer, "it is not what the engine writes there"));
    };
    let path = keyspace.join(format!("v{id}"));
    if xxh3_128(&read(&path)?) != sum {
        return Err(OpenError::damaged(&path, "its checksum does not fit"));
    }
    Ok(path)
}

fn decode_pointer(bytes: &[u8]) -> Option<(u64, u128)> {
    let bytes: &[u8; 25] = bytes.try_into().ok()?;
    let known_kind_of_checksum = bytes[24] == 0;
    known_kind_of_checksum.then_some((
        u64::from_le_bytes(*bytes.first_chunk()?),
        u128::from_le_bytes(*bytes[8..].first_chunk()?),
    ))
}

/// The tables in a table of contents, with their checksums.
fn listed(contents: &Path) -> Result<Vec<(u64, u128)>, OpenError> {
    let unreadable = |_| OpenError::damaged(contents, "it cannot be read");
    let archive = sfa::Reader::new(contents).map_err(unreadable)?;
    let section = archive
        .toc()
        .section(b"tables")
        .ok_or_else(|| OpenError::damaged(contents, "it lists no tables"))?;
    let mut bytes = Vec::new();
    let mut reader = section.reader(contents).map_err(OpenError::io(contents))?;
    reader.read_to_end(&mut bytes).map_err(OpenError::io(contents))?;
    decode_list(&bytes).ok_or_else(|| OpenError::damaged(contents, "its list of tables cannot be read"))
}

/// Levels, runs and tables are nested; each counts what it holds.
fn decode_list(mut bytes: &[u8]) -> Option<Vec<(u64, u128)>> {
    let mut tables = Vec::new();
    let [levels] = take(&mut bytes)?;
    for _ in 0..levels {
        let [runs] = take(&mut bytes)?;
        for _ in 0..runs {
            for _ in 0..u32::from_le_bytes(take(&mut bytes)?) {
                let id = u64::from_le_bytes(take(&mut bytes)?);
                let [0] = take(&mut bytes)? else { return None };
                let sum = u128::from_le_bytes(take(&mut bytes)?);
                let _number: [u8; 8] = take(&mut bytes)?;
                tables.push((id, sum));
            }
        }
    }
    Some(tables)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*head)
}

fn hash(path: &Path) -> Result<u128, OpenError> {
    let mut file = File::open(path).map_err(missing_or_io(path))?;
    let mut sum = Xxh3::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer).map_err(OpenError::io(path))? {
            0 => return Ok(sum.digest128()),
            length => sum.update(&buffer[..length]),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, OpenError> {
    std::fs::read(path).map_err(missing_or_io(path))
}

fn missing_or_io(path: &Path) -> impl FnOnce(std::io::Error) -> OpenError {
    move |error| {
        if error.kind() == ErrorKind::NotFound {
            OpenError::damaged(path, "it is missing")
        } else {
            OpenError::io(path)(error)
        }
    }
}
