//! Remembered requests as bytes: the form in which answers are held and in which requests lie on disk. Numbers are
//! big-endian; a length stands before everything that has one.
//!
//! ```text
//! request: scope, key, fingerprint (u64), time (u64), answer
//! answer:  0 outcome | 1 code, message, 0 or 1 and details as JSON | 2
//! outcome: 0 | 1 | 2 record | 3 count (u32), records | 4 count (u64) | 5 0 or 1 | 6 count (u32), outcomes
//! ```

use std::sync::Arc;

use serde_json::Value;

use super::{Name, Remembered};
use crate::protocol::{ErrorCode, Record, json};
use crate::store::StoreError;
use crate::store::command::Outcome;

/// The largest answer that is kept, in bytes. Of a larger one it is only kept that it was given.
const LARGEST_ANSWER: usize = 1 << 20;
/// So much of the text of a refusal is kept where it is too large as a whole, in characters.
const CUT_MESSAGE: usize = 1_000;

const DID: u8 = 0;
const REFUSED: u8 = 1;
const NOT_KEPT: u8 = 2;

const DONE: u8 = 0;
const NO_RECORD: u8 = 1;
const RECORD: u8 = 2;
const RECORDS: u8 = 3;
const COUNT: u8 = 4;
const DELETED: u8 = 5;
const STEPS: u8 = 6;

/// What a request was answered: its outcome, or why it was refused. Cloning shares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer(Arc<[u8]>);

impl Answer {
    /// Takes an answer down.
    #[must_use]
    pub fn of(answer: &Result<Outcome, StoreError>) -> Self {
        let mut out = Vec::new();
        match answer {
            Ok(outcome) => {
                out.push(DID);
                if write_outcome(&mut out, outcome).is_none() {
                    out = vec![NOT_KEPT];
                }
            }
            Err(error) => {
                out.push(REFUSED);
                write_refusal(&mut out, error);
            }
        }
        Self(out.into())
    }

    /// Takes bytes that [`Answer::as_bytes`] gave, or nothing where they are not such.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        read_answer(bytes).map(|_| Self(bytes.into()))
    }

    /// What is kept of it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The answer.
    ///
    /// # Errors
    /// The refusal, where it was one; [`StoreError::AnswerNotKept`] where it was too large to be kept.
    pub fn to_result(&self) -> Result<Outcome, StoreError> {
        read_answer(&self.0).unwrap_or(Err(StoreError::AnswerNotKept))
    }
}

impl Remembered {
    /// What lies on disk.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24 + self.bytes());
        write_bytes(&mut out, self.name.scope.as_bytes());
        write_bytes(&mut out, self.name.key.as_bytes());
        out.extend_from_slice(&self.fingerprint.to_be_bytes());
        out.extend_from_slice(&self.time.to_be_bytes());
        out.extend_from_slice(self.answer.as_bytes());
        out
    }

    /// Takes bytes that [`Remembered::to_bytes`] gave, or nothing where they are not such.
    #[must_use]
    pub fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        let name = Name {
            scope: read_text(bytes)?.into(),
            key: read_text(bytes)?,
        };
        Some(Self {
            name: Arc::new(name),
            fingerprint: u64::from_be_bytes(take(bytes)?),
            time: u64::from_be_bytes(take(bytes)?),
            answer: Answer::from_bytes(bytes)?,
        })
    }
}

fn read_answer(mut bytes: &[u8]) -> Option<Result<Outcome, StoreError>> {
    let bytes = &mut bytes;
    let answer = match take(bytes)? {
        [DID] => Ok(read_outcome(bytes, true)?),
        [REFUSED] => Err(read_refusal(bytes)?),
        [NOT_KEPT] => Err(StoreError::AnswerNotKept),
        _ => return None,
    };
    bytes.is_empty().then_some(answer)
}

/// Nothing where it is too large.
fn write_outcome(out: &mut Vec<u8>, outcome: &Outcome) -> Option<()> {
    match outcome {
        Outcome::Done => out.push(DONE),
        Outcome::Record(None) => out.push(NO_RECORD),
        Outcome::Record(Some(record)) => {
            out.push(RECORD);
            write_record(out, record)?;
        }
        Outcome::Records(records) => {
            out.push(RECORDS);
            write_length(out, records.len());
            records.iter().try_for_each(|record| write_record(out, record))?;
        }
        Outcome::Count(count) => {
            out.push(COUNT);
            out.extend_from_slice(&(*count as u64).to_be_bytes());
        }
        Outcome::Deleted(there) => out.extend_from_slice(&[DELETED, u8::from(*there)]),
        Outcome::Steps(steps) => {
            out.push(STEPS);
            write_length(out, steps.len());
            steps.iter().try_for_each(|step| write_outcome(out, step))?;
        }
    }
    (out.len() <= LARGEST_ANSWER).then_some(())
}

fn write_record(out: &mut Vec<u8>, record: &Record) -> Option<()> {
    let bytes = record.as_bytes();
    if out.len() + bytes.len() > LARGEST_ANSWER {
        return None;
    }
    write_bytes(out, bytes);
    Some(())
}

/// The steps of a transaction are no transactions.
fn read_outcome(bytes: &mut &[u8], may_have_steps: bool) -> Option<Outcome> {
    Some(match take(bytes)? {
        [DONE] => Outcome::Done,
        [NO_RECORD] => Outcome::Record(None),
        [RECORD] => Outcome::Record(Some(read_record(bytes)?)),
        [RECORDS] => {
            let count = read_length(bytes)?;
            Outcome::Records((0..count).map(|_| read_record(bytes)).collect::<Option<_>>()?)
        }
        [COUNT] => Outcome::Count(usize::try_from(u64::from_be_bytes(take(bytes)?)).ok()?),
        [DELETED] => match take(bytes)? {
            [0] => Outcome::Deleted(false),
            [1] => Outcome::Deleted(true),
            _ => return None,
        },
        [STEPS] if may_have_steps => {
            let count = read_length(bytes)?;
            Outcome::Steps((0..count).map(|_| read_outcome(bytes, false)).collect::<Option<_>>()?)
        }
        _ => return None,
    })
}

fn read_record(bytes: &mut &[u8]) -> Option<Record> {
    Record::from_bytes(read_bytes(bytes)?)
}

/// A refusal stays one, also where not all of its text can be kept.
fn write_refusal(out: &mut Vec<u8>, error: &StoreError) {
    let (mut message, mut details) = (error.to_string(), error.details().map(|details| json::to_vec(&details)));
    if message.len() + details.as_ref().map_or(0, Vec::len) > LARGEST_ANSWER {
        message = message.chars().take(CUT_MESSAGE).chain(['…']).collect();
        details = None;
    }
    write_bytes(out, error.code().as_str().as_bytes());
    write_bytes(out, message.as_bytes());
    match details {
        None => out.push(0),
        Some(details) => {
            out.push(1);
            write_bytes(out, &details);
        }
    }
}

fn read_refusal(bytes: &mut &[u8]) -> Option<StoreError> {
    let code = read_text(bytes)?;
    let code = ErrorCode::ALL.into_iter().find(|known| known.as_str() == code)?;
    let message = read_text(bytes)?;
    let details = match take(bytes)? {
        [0] => None,
        [1] => Some(serde_json::from_slice::<Value>(read_bytes(bytes)?).ok()?),
        _ => return None,
    };
    Some(StoreError::RefusedBefore { code, message, details })
}

/// Everything that is written is far below 4 GiB: a key, or a part of what an answer may have.
fn write_length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&(length as u32).to_be_bytes());
}

fn read_length(bytes: &mut &[u8]) -> Option<usize> {
    usize::try_from(u32::from_be_bytes(take(bytes)?)).ok()
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn read_bytes<'b>(bytes: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = read_length(bytes)?;
    let (head, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(head)
}

fn read_text(bytes: &mut &[u8]) -> Option<String> {
    String::from_utf8(read_bytes(bytes)?.to_vec()).ok()
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*head)
}
